/** A server to be measured, in a process of its own on this machine. Ends with the benchmark, however that ends. */
import { join } from "node:path";
import { startGuard } from "../../infra/launch/guard.ts";
import { type PartOptions, startPart } from "../../infra/launch/part.ts";
import { waitUntilReady } from "../../infra/launch/wait-until-ready.ts";

export interface ServerProcess extends AsyncDisposable {
  readonly url: string;
  readonly pid: number;
}

export interface ServerProgram extends Pick<PartOptions, "command" | "args" | "env"> {
  /** Also of its log. */
  readonly name: string;
  /** Where its log goes. */
  readonly folder: string;
  /** Where it was told to listen. */
  readonly port: number;
  /** What answers as soon as it is ready. */
  readonly readyPath: string;
  /** How long it may take to be ready. */
  readonly timeoutMs: number;
  /** How long it may take to stop. */
  readonly stopGraceMs?: number;
}

/** Starts it and waits until it is ready. */
export async function startServer(server: ServerProgram): Promise<ServerProcess> {
  const { name, folder, port, readyPath, timeoutMs, stopGraceMs = 2_000, ...program } = server;
  const guard = startGuard();
  const part = await startPart({ ...program, name, output: { file: join(folder, `${name}-${port}.log`) }, guard });
  const stop = async (): Promise<void> => {
    await part.stop(stopGraceMs);
    guard.close();
  };
  const url = `http://127.0.0.1:${port}`;
  try {
    await waitUntilReady({ part, url: url + readyPath, timeoutMs, signal: new AbortController().signal });
  } catch (cause) {
    await stop();
    throw cause;
  }
  return { url, pid: part.pid, [Symbol.asyncDispose]: stop };
}
