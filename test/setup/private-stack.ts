/** A whole stack of its own for one test file or benchmark: free ports, a state folder that goes with it. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describeExit } from "../../infra/launch/part.ts";
import { findFreePort } from "../../infra/launch/ports.ts";
import { type Stack, startStack } from "../../infra/launch/stack.ts";

/**
 * Starts it; a part that dies before `stop` is reported on standard error.
 *
 * @param env - settings beside the defaults; of the `COLDPATH_*` this process inherited only the models' folder counts
 */
export async function startPrivateStack(env: Readonly<Record<string, string>> = {}): Promise<Stack> {
  const stateDir = await mkdtemp(join(tmpdir(), "coldpath-stack-"));
  const inherited = Object.entries(process.env).filter(
    ([name]) => !name.startsWith("COLDPATH_") || name === "COLDPATH_MODELS_DIR",
  );
  const stack = await startStack({
    env: {
      ...Object.fromEntries(inherited),
      COLDPATH_STATE_DIR: stateDir,
      COLDPATH_EDGE_PORT: String(await findFreePort()),
      COLDPATH_ORIGIN_PORT: String(await findFreePort()),
      COLDPATH_REDIS_REST_PORT: String(await findFreePort()),
      ...env,
    },
  });
  let stopping = false;
  // A part that dies is why the test fails, and its log is about to go.
  const report = async (): Promise<void> => {
    const exit = await stack.firstExit;
    if (!stopping) console.error(`${exit.name} ${describeExit(exit)}\n${exit.logTail}`);
  };
  void report();
  return {
    ...stack,
    stop: async () => {
      stopping = true;
      await stack.stop();
      await rm(stateDir, { recursive: true });
    },
  };
}
