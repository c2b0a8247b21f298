/** TCP ports on this machine: finding a free one, and saying which knob to turn when one is taken. */
import { once } from "node:events";
import { createServer } from "node:net";
import type { AddressInfo } from "node:net";
import { LaunchFailure } from "./failure.ts";

/** A port that was free a moment ago. Another process may take it first, so be ready to ask again. */
export async function findFreePort(host = "127.0.0.1"): Promise<number> {
  return listenOnce(host, 0);
}

export interface Listener {
  readonly host: string;
  readonly port: number;
  /** The variables that move it; without `hostKnob` the host is fixed. */
  readonly portKnob: string;
  readonly hostKnob?: string;
}

/**
 * Checks that an address can be listened on, before anything is started on it.
 *
 * @throws {LaunchFailure} that names the address, the reason and the knob
 */
export async function requireFreePort(listener: Listener): Promise<void> {
  try {
    await listenOnce(listener.host, listener.port);
  } catch (cause) {
    throw new LaunchFailure(adviceFor(cause, listener), { cause });
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

function adviceFor(cause: unknown, { host, port, portKnob, hostKnob }: Listener): string {
  const code = cause instanceof Error && "code" in cause ? cause.code : undefined;
  switch (code) {
    case "EADDRINUSE":
      return `port ${port} on ${host} is in use: set ${portKnob} to another one, or stop what uses it`;
    case "EACCES":
      return `port ${port} on ${host} is not allowed to this user: set ${portKnob} to one above 1023`;
    default:
      return `nothing can listen on ${host} (${String(code ?? cause)}): set ${hostKnob ?? portKnob} to an address of this machine`;
  }
}
