/**
 * The entry on Node: `node edge/entries/node/main.ts` is one process; `npm run edge:node` starts one for each core.
 * What can't work ends with one sentence on standard error and exit code 1.
 */
import { readFileSync } from "node:fs";
import { registerHooks } from "node:module";
import { fileURLToPath } from "node:url";
import { KnobError } from "../../../shared/knobs.ts";

// On Workers the bundler makes text of the Lua scripts; here the loader does, before anything imports one.
registerHooks({
  load: (url, context, next) => {
    if (!url.endsWith(".lua")) return next(url, context);
    const text = readFileSync(fileURLToPath(url), "utf8");
    return { format: "module", source: `export default ${JSON.stringify(text)};`, shortCircuit: true };
  },
});

try {
  const { serveEdge } = await import("./serve.ts");
  const edge = await serveEdge(process.env);
  let stopping: Promise<void> | undefined;
  const stop = (): void => void (stopping ??= edge.stop().then(() => process.exit()));
  process.on("SIGTERM", stop).on("SIGINT", stop);
  // Said only now: whoever reads it may already send a signal.
  console.log(`edge: listening on ${edge.url}`);
} catch (error) {
  console.error(explain(error));
  process.exit(1);
}

function explain(error: unknown): string {
  if (error instanceof KnobError) return error.message;
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  if (code === "EADDRINUSE") return "the edge's port is in use: set COLDPATH_EDGE_PORT to another one";
  if (code === "EADDRNOTAVAIL") return "no such address here: set COLDPATH_EDGE_HOST to an address of this machine";
  return `the edge could not start: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`;
}
