/** @portkey-ai/gateway, a gateway in wide use, as its users start it: one Node process, passing through to one host. */
import { fileURLToPath } from "node:url";
import { join } from "node:path";
import { startGuard } from "../../infra/launch/guard.ts";
import { startPart } from "../../infra/launch/part.ts";
import { findFreePort } from "../../infra/launch/ports.ts";
import { waitUntilReady } from "../../infra/launch/wait-until-ready.ts";
import type { LoadTarget } from "./load.ts";
import { installPeer } from "./peers.ts";

/** Starts it; `target` is a chat completion that it passes through to the origin. */
export async function startPortkey(options: {
  readonly originUrl: string;
  readonly body: string;
  readonly folder: string;
}): Promise<AsyncDisposable & { readonly target: LoadTarget; readonly pid: number }> {
  const program = fileURLToPath(await installPeer("@portkey-ai/gateway"));
  const port = await findFreePort();
  const guard = startGuard();
  const part = await startPart({
    name: "portkey",
    command: process.execPath,
    args: [program, "--headless", `--port=${port}`],
    env: process.env,
    output: { file: join(options.folder, "portkey.log") },
    guard,
  });
  const url = `http://127.0.0.1:${port}`;
  await waitUntilReady({ part, url: `${url}/`, timeoutMs: 20_000, signal: new AbortController().signal });
  const headers = {
    "content-type": "application/json",
    authorization: "Bearer none",
    "x-portkey-provider": "openai",
    "x-portkey-custom-host": `${options.originUrl}/v1`,
  };
  return {
    pid: part.pid,
    target: { url: `${url}/v1/chat/completions`, headers, body: options.body },
    [Symbol.asyncDispose]: async () => {
      await part.stop(2_000);
      guard.close();
    },
  };
}
