/** @portkey-ai/gateway, a gateway in wide use, as its users start it: one Node process, passing through to one host. */
import { fileURLToPath } from "node:url";
import { findFreePort } from "../../infra/launch/ports.ts";
import type { LoadTarget } from "./load.ts";
import { installPeer } from "./peers.ts";
import { startServer } from "./server-process.ts";

/** Starts it; `target` is a chat completion that it passes through to the origin. */
export async function startPortkey(options: {
  readonly originUrl: string;
  readonly body: string;
  readonly folder: string;
}): Promise<AsyncDisposable & { readonly target: LoadTarget; readonly pid: number }> {
  const program = fileURLToPath(await installPeer("@portkey-ai/gateway"));
  const port = await findFreePort();
  const {
    url,
    pid,
    [Symbol.asyncDispose]: stop,
  } = await startServer({
    name: "portkey",
    folder: options.folder,
    command: process.execPath,
    args: [program, "--headless", `--port=${port}`],
    env: process.env,
    port,
    readyPath: "/",
    timeoutMs: 20_000,
  });
  const headers = {
    "content-type": "application/json",
    authorization: "Bearer none",
    "x-portkey-provider": "openai",
    "x-portkey-custom-host": `${options.originUrl}/v1`,
  };
  return {
    pid,
    target: { url: `${url}/v1/chat/completions`, headers, body: options.body },
    [Symbol.asyncDispose]: stop,
  };
}
