/**
 * Listening sockets that several processes share one port with (SO_REUSEPORT): the kernel spreads new connections over
 * them, and a process that dies takes only its own along. Linux and the BSDs have it; elsewhere listening fails.
 */
import { once } from "node:events";
import { createServer } from "node:net";
import { LaunchFailure } from "./failure.ts";

export interface SharedSocket {
  readonly descriptor: number;
  close(): void;
}

/**
 * Opens one more socket on the port. Hand it to a process and close it in the same turn of the event loop, so that no
 * connection is accepted here.
 *
 * @throws {LaunchFailure} where the address can't be had
 */
export async function openSharedSocket({
  host,
  port,
}: {
  readonly host: string;
  readonly port: number;
}): Promise<SharedSocket> {
  const server = createServer();
  server.listen({ host, port, reusePort: true });
  try {
    await once(server, "listening");
  } catch (cause) {
    const code = cause instanceof Error && "code" in cause ? String(cause.code) : String(cause);
    throw new LaunchFailure(`nothing can listen on ${host}:${port} together with others (${code})`, { cause });
  }
  // Node passes sockets on only to other Nodes, and names the descriptor nowhere else.
  const descriptor = (server as unknown as Record<string, { readonly fd: number }>)["_handle"]?.fd;
  if (descriptor === undefined) throw new LaunchFailure("this version of Node does not name a socket's descriptor");
  return { descriptor, close: () => server.close() };
}
