/**
 * `npm start`: the whole stack in one terminal. Starts it, tells a newcomer how to ask it something, and stops it on
 * Ctrl-C. Any part that fails ends the whole with one sentence that says what to do.
 */
import type { Model, ModelList } from "../shared/completion-response.ts";
import { KnobError } from "../shared/knobs.ts";
import { LaunchFailure } from "./launch/failure.ts";
import { describeExit } from "./launch/part.ts";
import { type Stack, startStack } from "./launch/stack.ts";

/** The ready-made token is for trying things out. */
const TOKEN_HOURS = 24;
/** How often to look whether npm is still there. */
const PARENT_POLL_MS = 1_000;

const stopping = stopSignal();
try {
  const stack = await startStack({
    env: process.env,
    say: (line) => console.log(`coldpath: ${line}`),
    showImport: true,
    signal: stopping,
  });
  await welcome(stack);
  await runUntilStopped(stack);
} catch (error) {
  if (!stopping.aborted) explain(error);
}
// Timers and sockets that are still open have nothing left to do.
process.exit();

/** Aborts on Ctrl-C, SIGTERM, a closed terminal, and when npm was killed and could not pass a signal on. */
function stopSignal(): AbortSignal {
  const controller = new AbortController();
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(name, () => {
      // Asked twice: leave now. The guard kills what is still running.
      if (controller.signal.aborted) process.exit(130);
      console.log("\ncoldpath: stopping");
      controller.abort();
    });
  }
  const parent = process.ppid;
  // Without npm the parent may go away on purpose, as a shell does after `nohup node infra/start.ts &`.
  if (process.env["npm_lifecycle_event"] !== undefined) {
    setInterval(() => {
      if (process.ppid !== parent) controller.abort();
    }, PARENT_POLL_MS).unref();
  }
  return controller.signal;
}

async function welcome(stack: Stack): Promise<void> {
  const token = await stack.token({ sub: "newcomer", expiresInSeconds: TOKEN_HOURS * 3_600 });
  const models = await listModels(stack.edgeUrl, token);
  const ids = models.map(({ id }) => id);
  const { path, body } = exampleFor(models.find(({ task }) => task === "generate") ?? models[0]);
  console.log(`
coldpath is ready at ${stack.edgeUrl}/v1 with the model${ids.length > 1 ? "s" : ""} ${ids.join(", ")}.

A token, valid for ${TOKEN_HOURS} hours (npm run -s token -- --help makes others):

${token}

Ask it something; ask the same again, and the answer comes from the cache:

curl ${stack.edgeUrl}${path} -H 'content-type: application/json' -H 'authorization: Bearer ${token}' -d '${JSON.stringify(body)}'

Logs are in ${stack.folder}. Ctrl-C stops everything.`);
}

type ListedModels = readonly [Model, ...Model[]];

async function listModels(edgeUrl: string, token: string): Promise<ListedModels> {
  const response = await fetch(`${edgeUrl}/v1/models`, { headers: { authorization: `Bearer ${token}` } });
  const { data = [] } = (await response.json()) as Partial<ModelList>;
  const [first, ...others] = data;
  if (first === undefined) throw new LaunchFailure(`the edge lists no model (${response.status})`);
  return [first, ...others];
}

/** A first question to a model. */
function exampleFor({ id: model, task }: Model): { readonly path: string; readonly body: object } {
  if (task === "embed") return { path: "/v1/embeddings", body: { model, input: "Why is the sky blue?" } };
  const messages = [{ role: "user", content: "Why is the sky blue?" }];
  return { path: "/v1/chat/completions", body: { model, messages, max_tokens: 100, temperature: 0 } };
}

async function runUntilStopped(stack: Stack): Promise<void> {
  const asked = new Promise<undefined>((resolve) => {
    stopping.addEventListener("abort", () => resolve(undefined), { once: true });
  });
  const exit = await Promise.race([stack.firstExit, asked]);
  await stack.stop();
  if (exit === undefined || stopping.aborted) return;
  throw new LaunchFailure(`${exit.name} ${describeExit(exit)}, so everything was stopped; start again. It said:`, {
    logTail: exit.logTail,
  });
}

function explain(error: unknown): void {
  process.exitCode = 1;
  if (error instanceof LaunchFailure) {
    if (!error.alreadyExplained) console.error(`coldpath: ${error.message}`);
    if (error.logTail !== undefined && error.logTail !== "") console.error(error.logTail.replaceAll(/^/gm, "  | "));
  } else if (error instanceof KnobError) console.error(`coldpath: ${error.message}`);
  else console.error(error);
}
