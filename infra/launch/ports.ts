/** TCP ports on this machine: finding a free one, and saying which knob to turn when one is taken. */
import { once } from "node:events";
import { createServer } from "node:net";
import type { AddressInfo } from "node:net";
import { LaunchFailure } from "./failure.ts";

/** A port that was free a moment ago. Another process may take it first, so be ready to ask again. */
export async function findFreePort(host = "127.0.0.1"): Promise<number> {
  return listenOnce(host, 0);
}

/**
 * Checks that a port can be listened on, before anything is started on it.
 *
 * @param knob - the variable that moves it
 * @throws {LaunchFailure} that names the port, the reason and the knob
 */
export async function requireFreePort(host: string, port: number, knob: string): Promise<void> {
  try {
    await listenOnce(host, port);
  } catch (cause) {
    throw new LaunchFailure(`${reasonOf(cause, host, port)}: set ${knob} to another one, or stop what uses it`, {
      cause,
    });
  }
}

async function listenOnce(host: string, port: number): Promise<number> {
  const server = createServer();
  server.listen(port, host);
  await once(server, "listening");
  const address = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return address.port;
}

function reasonOf(cause: unknown, host: string, port: number): string {
  const code = cause instanceof Error && "code" in cause ? cause.code : undefined;
  switch (code) {
    case "EADDRINUSE":
      return `port ${port} on ${host} is in use`;
    case "EACCES":
      return `port ${port} on ${host} is not allowed to this user`;
    case "EADDRNOTAVAIL":
      return `${host} is no address of this machine`;
    default:
      return `port ${port} on ${host} can't be used (${String(code ?? cause)})`;
  }
}
