/** The edge tests' fake origin behind a real port. */
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { getRequestListener } from "@hono/node-server";
import { FakeOrigin } from "../edge/fake-origin.ts";

export interface ListeningOrigin {
  readonly origin: FakeOrigin;
  readonly url: string;
  /** Opened so far. */
  readonly connections: number;
  stop(): Promise<void>;
}

export async function startFakeOrigin(): Promise<ListeningOrigin> {
  const origin = new FakeOrigin();
  const listener = getRequestListener(
    async (request) => {
      const body = new Uint8Array(await request.arrayBuffer());
      const { method, headers, signal } = request;
      return origin.fetch(request.url, { method, headers, body, signal });
    },
    { overrideGlobalObjects: false },
  );
  const server = createServer(listener as (...args: unknown[]) => void);
  let connections = 0;
  server.on("connection", () => (connections += 1));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    origin,
    get connections() {
      return connections;
    },
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    stop: async () => {
      server.close();
      server.closeAllConnections();
      await once(server, "close");
    },
  };
}
