/**
 * `npm run cache`: warms an edge's cache from a file of prompts or from what was asked most, lists that, purges answers,
 * and counts them.
 */
import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { SingleBar } from "cli-progress";
import { KnobError, readKnobs } from "../shared/knobs.ts";
import type { Scope } from "../shared/token-claims.ts";
import { EDGE_FLEET_KNOBS, TOKEN_KNOBS } from "./config.ts";
import { issueToken } from "./issue-token.ts";
import { LaunchFailure } from "./launch/failure.ts";
import { findSecret } from "./secrets.ts";

const HELP = `npm run cache -- warm FILE --tenant NAME [--model NAME] [--plan NAME] [--at-once 4]
npm run cache -- warm --top COUNT --tenant NAME [--model NAME] [--plan NAME] [--at-once 4]
npm run cache -- top --tenant NAME [--count 20]
npm run cache -- purge [--tenant NAME] [--model NAME] [--digest DIGEST] | --everything
npm run cache -- stats [--tenant NAME]

  warm     asks every line of FILE once: a prompt, or a whole chat request as JSON, which names its model unless --model
           does. What is known already costs nothing.
           Limits hold here, too: --plan names the plan; where it refuses for a while, warm waits
           --top asks what this tenant asked most, as the region remembers it; with --model, of that model now
  top      lists what a tenant asked most: about how often lately (a day ago counts half), where, and the question
  purge    removes the answers that agree with all that is given; isolates forget theirs within COLDPATH_PERMIT_MS
  stats    counts the answers the region holds
  --edge   the edge's URL (default: http://COLDPATH_EDGE_HOST:COLDPATH_EDGE_PORT)

Tokens are signed with COLDPATH_JWT_SECRET, or with the secret that npm start made in COLDPATH_STATE_DIR.`;

const AT_ONCE_MAX = 64;
/** The edge tells no more at once. */
const TOP_MAX = 1_000;
/** A prompt that is refused this often in a row is given up. */
const REFUSALS_MAX = 20;

/** Arguments that can't be used; the message says which and why. */
class UsageError extends Error {}

type Values = ReturnType<typeof parse>["values"];

try {
  await main(process.argv.slice(2), process.env);
} catch (error) {
  const expected = error instanceof UsageError || error instanceof KnobError || error instanceof LaunchFailure;
  if (!expected) throw error;
  console.error(error.message);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}

async function main(args: readonly string[], env: NodeJS.ProcessEnv): Promise<void> {
  const { values, positionals } = parse(args);
  const [command, file, ...more] = positionals;
  if (values.help === true || command === undefined) return console.log(HELP);
  if (more.length > 0) throw new UsageError(`"${more[0]}" is one argument too many: --help lists them`);
  switch (command) {
    case "warm":
      return warm(file, values, env);
    case "purge":
      return purge(values, env);
    case "stats":
      return stats(values, env);
    case "top":
      return top(values, env);
    default:
      throw new UsageError(`there is no command "${command}": warm, top, purge or stats`);
  }
}

function parse(args: readonly string[]) {
  const text = { type: "string" } as const;
  const flag = { type: "boolean" } as const;
  const named = {
    tenant: text,
    model: text,
    plan: text,
    digest: text,
    edge: text,
    "at-once": text,
    top: text,
    count: text,
  };
  try {
    return parseArgs({
      args: [...args],
      strict: true,
      allowPositionals: true,
      options: { ...named, everything: flag, help: flag },
    });
  } catch (cause) {
    // Node's own message is one or two sentences; the first names the argument.
    const [reason] = (cause as Error).message.split(". ");
    throw new UsageError(`${reason}: --help lists the arguments`, { cause });
  }
}

async function purge({ tenant, model, digest, everything, ...values }: Values, env: NodeJS.ProcessEnv): Promise<void> {
  const target = everything === true ? { everything } : { tenant, model, digest };
  if (Object.values(target).every((field) => field === undefined)) {
    throw new UsageError("purge what? --tenant, --model, --digest, or --everything");
  }
  if (everything === true && (tenant ?? model ?? digest) !== undefined) {
    throw new UsageError("--everything goes with nothing else");
  }
  const { purged } = await administer<{ purged: number }>("/admin/purge", values, env, target);
  console.log(`${purged} answers purged`);
}

async function stats({ tenant, ...values }: Values, env: NodeJS.ProcessEnv): Promise<void> {
  const query = tenant === undefined ? "" : `?tenant=${encodeURIComponent(tenant)}`;
  const { answers } = await administer<{ answers: number }>(`/admin/stats${query}`, values, env);
  console.log(`${answers} answers`);
}

interface AskedQuestion {
  readonly times: number;
  readonly path: string;
  readonly body: object;
}

async function top({ tenant, count = "20", ...values }: Values, env: NodeJS.ProcessEnv): Promise<void> {
  if (tenant === undefined) throw new UsageError("top needs --tenant: whose questions?");
  for (const { times, path, body } of await mostAsked({ tenant, count, flag: "--count" }, values, env)) {
    console.log(`${times.toFixed(1).padStart(8)}  ${path}  ${JSON.stringify(body)}`);
  }
}

async function mostAsked(
  { tenant, count, flag }: { readonly tenant: string; readonly count: string; readonly flag: string },
  values: Pick<Values, "edge">,
  env: NodeJS.ProcessEnv,
): Promise<readonly AskedQuestion[]> {
  if (!/^\d+$/.test(count) || Number(count) < 1 || Number(count) > TOP_MAX) {
    throw new UsageError(`${flag} is a whole number from 1 to ${TOP_MAX}`);
  }
  const path = `/admin/top?tenant=${encodeURIComponent(tenant)}&count=${count}`;
  return (await administer<{ questions: readonly AskedQuestion[] }>(path, values, env)).questions;
}

async function administer<Reply>(
  path: string,
  values: Pick<Values, "edge">,
  env: NodeJS.ProcessEnv,
  body?: object,
): Promise<Reply> {
  const url = `${edgeUrl(values, env)}${path}`;
  const response = await ask(url, await token(env, { sub: "cache", scope: ["admin"] }), body);
  if (!response.ok) throw new LaunchFailure(`the edge refused: ${await reasonOf(response)}`);
  return (await response.json()) as Reply;
}

async function warm(file: string | undefined, values: Values, env: NodeJS.ProcessEnv): Promise<void> {
  if ((file === undefined) === (values.top === undefined)) {
    throw new UsageError("warm from what? Name a file with one prompt a line, or say --top with a number");
  }
  const { tenant } = values;
  if (tenant === undefined) throw new UsageError("warm needs --tenant: answers are shared inside one");
  const atOnce = Number(values["at-once"] ?? "4");
  if (!Number.isInteger(atOnce) || atOnce < 1 || atOnce > AT_ONCE_MAX) {
    throw new UsageError(`--at-once is a whole number from 1 to ${AT_ONCE_MAX}`);
  }
  const { model, plan, top: count = "" } = values;
  const questions =
    file === undefined
      ? (await mostAsked({ tenant, count, flag: "--top" }, values, env)).map((asked, place) => {
          return { name: `question ${place + 1}`, request: questionOf(asked, model) };
        })
      : (await readPrompts(file))
          .map((line, place) => ({ name: `line ${place + 1}`, text: line.trim() }))
          .filter(({ text }) => text !== "")
          .map(({ name, text }) => ({ name, request: requestOf(text, model) }));
  const issued = await token(env, { sub: "cache-warm", tenant, plan, scope: ["chat"] });
  const base = edgeUrl(values, env);

  const counts = { made: 0, known: 0, failed: 0 };
  const bar = new SingleBar({ format: "warming [{bar}] {value}/{total} | {eta_formatted}", noTTYOutput: false });
  bar.start(questions.length, 0);
  const queue = questions.values();
  const work = async (): Promise<void> => {
    for (const { name, request } of queue) {
      const outcome = await askOnce(base, issued, request);
      if (outcome === "made" || outcome === "known") counts[outcome] += 1;
      else {
        counts.failed += 1;
        console.error(`${name}: ${outcome.reason}`);
      }
      bar.increment();
    }
  };
  try {
    await Promise.all(Array.from({ length: atOnce }, work));
  } finally {
    bar.stop();
  }
  console.log(`${counts.made} made, ${counts.known} known before, ${counts.failed} failed`);
  if (counts.failed > 0) process.exitCode = 1;
}

async function readPrompts(file: string): Promise<readonly string[]> {
  try {
    return (await readFile(file, "utf8")).split("\n");
  } catch (cause) {
    throw new LaunchFailure(`${file} can't be read: ${(cause as Error).message}`);
  }
}

type Outcome = "made" | "known" | { readonly reason: string };

async function askOnce(base: string, issued: string, request: AskedRequest | undefined): Promise<Outcome> {
  if (request === undefined) return { reason: "it begins like JSON and is none" };
  for (let refusals = 0; ; refusals += 1) {
    const response = await ask(`${base}${request.path}`, issued, request.body);
    const retryAfter = Number(response.headers.get("retry-after") ?? Number.NaN);
    if (response.ok) {
      await response.arrayBuffer();
      return response.headers.get("x-cache") === "HIT" ? "known" : "made";
    }
    const reason = await reasonOf(response);
    const later = (response.status === 429 || response.status === 503) && Number.isFinite(retryAfter);
    if (!later || refusals >= REFUSALS_MAX) return { reason };
    await new Promise((resolved) => setTimeout(resolved, retryAfter * 1000));
  }
}

interface AskedRequest {
  readonly path: string;
  readonly body: object;
}

function questionOf({ path, body }: AskedQuestion, model: string | undefined): AskedRequest {
  return { path, body: model === undefined ? body : { ...body, model } };
}

function requestOf(line: string, model: string | undefined): AskedRequest | undefined {
  if (!line.startsWith("{")) {
    return { path: "/generate", body: { prompt: line, ...(model === undefined ? {} : { model }) } };
  }
  try {
    const body = JSON.parse(line) as object;
    return { path: "/v1/chat/completions", body: { ...(model === undefined ? {} : { model }), ...body } };
  } catch {
    return undefined;
  }
}

async function ask(url: string, issued: string, body: object | undefined): Promise<Response> {
  const headers = { authorization: `Bearer ${issued}`, "content-type": "application/json" };
  try {
    return await fetch(url, body === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(body) });
  } catch (cause) {
    throw new LaunchFailure(`the edge at ${new URL(url).origin} can't be reached: is it running?`, {
      logTail: String((cause as Error).cause ?? cause),
    });
  }
}

async function reasonOf(response: Response): Promise<string> {
  const text = await response.text();
  try {
    return (JSON.parse(text) as { error: { message: string } }).error.message;
  } catch {
    return `it answered ${response.status}`;
  }
}

function edgeUrl({ edge }: Pick<Values, "edge">, env: NodeJS.ProcessEnv): string {
  if (edge !== undefined) {
    if (URL.parse(edge) === null) throw new UsageError(`--edge is a URL, not "${edge}"`);
    return edge.replace(/\/+$/, "");
  }
  const { edgeHost, edgePort } = readKnobs(EDGE_FLEET_KNOBS, env);
  return `http://${edgeHost.includes(":") ? `[${edgeHost}]` : edgeHost}:${edgePort}`;
}

async function token(
  env: NodeJS.ProcessEnv,
  options: {
    readonly sub: string;
    readonly tenant?: string;
    readonly plan?: string | undefined;
    readonly scope: readonly Scope[];
  },
): Promise<string> {
  const { stateDir, issuer, audience } = readKnobs(TOKEN_KNOBS, env);
  const folder = resolve(import.meta.dirname, "..", stateDir);
  const secret = findSecret("COLDPATH_JWT_SECRET", folder, env);
  if (secret === undefined) {
    throw new LaunchFailure(`there is no secret in ${folder} yet: run npm start once, or set COLDPATH_JWT_SECRET`);
  }
  return issueToken(options, { secret, issuer, audience, nowSeconds: Math.floor(Date.now() / 1000) });
}
