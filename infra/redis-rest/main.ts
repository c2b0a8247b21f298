/** The redis-rest process: reads its knobs, serves until it is told to stop. */
import { KnobError, readKnobs } from "../../shared/knobs.ts";
import { REDIS_REST_KNOBS } from "./config.ts";
import { startRedisRest } from "./serve.ts";

// Whoever read the log may go; that is no reason to leave, too.
for (const output of [process.stdout, process.stderr]) output.on("error", () => undefined);

try {
  const { token, ...knobs } = readKnobs(REDIS_REST_KNOBS, process.env);
  if (token === undefined) throw new KnobError("COLDPATH_REDIS_REST_TOKEN must be set: no one could be let in");
  const server = await startRedisRest({ ...knobs, token, log: (line) => console.error(line) });
  console.log(`redis-rest: listening on ${server.url}`);
  const stop = () => void server.close();
  process.once("SIGTERM", stop).once("SIGINT", stop);
} catch (error) {
  console.error(explain(error));
  process.exitCode = 1;
}

function explain(error: unknown): string {
  if (error instanceof KnobError) return error.message;
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  if (code === "EADDRINUSE") return "redis-rest's port is in use: set COLDPATH_REDIS_REST_PORT to another one";
  return `redis-rest could not start: ${String(error)}`;
}
