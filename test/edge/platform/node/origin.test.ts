/** Node's way to the origin, against servers that answer, break off, redirect and say nothing. */
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { afterEach, describe, expect, it } from "vitest";
import { openNodeOrigin } from "../../../../edge/platform/node/origin.ts";
import type { AskOrigin, OriginRequest } from "../../../../edge/platform/platform.ts";
import { readAll } from "../../../../shared/read-body.ts";

let cleanup = new AsyncDisposableStack();
let connections = 0;
/** How many of them the client has closed. */
let closed = 0;
afterEach(async () => {
  await cleanup.disposeAsync();
  cleanup = new AsyncDisposableStack();
  connections = 0;
  closed = 0;
});

type Listener = (incoming: IncomingMessage, outgoing: ServerResponse) => unknown;

async function serve(listener: Listener, { host = "127.0.0.1", path = "" } = {}): Promise<AskOrigin> {
  const server = createServer((incoming, outgoing) => void listener(incoming, outgoing));
  server.on("connection", (socket) => {
    connections += 1;
    socket.on("close", () => (closed += 1));
  });
  server.listen(0, host);
  await once(server, "listening");
  cleanup.defer(() => {
    server.close();
    server.closeAllConnections();
  });
  const { port } = server.address() as AddressInfo;
  return openNodeOrigin(`http://${host.includes(":") ? `[${host}]` : host}:${port}${path}`);
}

function request(options: Partial<OriginRequest> = {}): OriginRequest {
  const { signal } = new AbortController();
  return { method: "POST", path: "/ask", headers: {}, body: new Uint8Array([1, 2, 3]), signal, ...options };
}

describe("asking the origin on Node", () => {
  it("sends what was given and gives what came, one request after the other on one connection", async () => {
    const ask = await serve(async (incoming, outgoing) => {
      const bytes = await incoming.toArray();
      const { method, url, headers } = incoming;
      const said = [method, url, headers["x-own"], headers["content-length"], Buffer.concat(bytes).toString("hex")];
      outgoing.writeHead(418, { "x-answer": "yes" }).write("first ");
      setTimeout(() => outgoing.end(JSON.stringify(said)), 20);
    });
    for (let asked = 0; asked < 3; asked++) {
      const response = await ask(request({ headers: { "x-own": "mine" } }));
      expect([response.status, response.header("x-answer"), response.header("x-none")]).toEqual([418, "yes", null]);
      const text = new TextDecoder().decode(await readAll(response.body, 1_000));
      expect(text).toBe(`first ["POST","/ask","mine","3","010203"]`);
      expect(await response.body.read()).toMatchObject({ done: true });
    }
    const got = await ask(request({ method: "GET", body: undefined }));
    expect(new TextDecoder().decode(await readAll(got.body, 1_000))).toBe(`first ["GET","/ask",null,null,""]`);
    expect(connections).toBe(1);
  });

  it("takes a path before its own, and an IPv6 address", async () => {
    const ask = await serve((incoming, outgoing) => outgoing.end(incoming.url), { host: "::1", path: "/behind/" });
    const { body } = await ask(request());
    expect(new TextDecoder().decode(await readAll(body, 100))).toBe("/behind/ask");
  });

  it("follows no redirect", async () => {
    const ask = await serve((_, outgoing) => outgoing.writeHead(307, { location: "/elsewhere" }).end());
    expect((await ask(request())).status).toBe(307);
  });

  it("rejects where nobody listens, and where a connection ends without a response", async () => {
    await expect(openNodeOrigin("http://127.0.0.1:9")(request())).rejects.toMatchObject({ code: "ECONNREFUSED" });
    const ask = await serve((incoming) => incoming.socket.destroy());
    await expect(ask(request())).rejects.toMatchObject({ code: "ECONNRESET" });
  });

  it("asks again where a connection that it kept was closed meanwhile, as often as there are such", async () => {
    const asked = new Map<Socket, number>();
    let broken = true;
    const ask = await serve((incoming, outgoing) => {
      const times = (asked.get(incoming.socket) ?? 0) + 1;
      asked.set(incoming.socket, times);
      if (broken && times > 1) incoming.socket.destroy();
      else setTimeout(() => outgoing.end(), 20);
    });
    const askThree = () =>
      Promise.all(
        [1, 2, 3].map(async () => {
          const { status, body } = await ask(request());
          await readAll(body, 10);
          return status;
        }),
      );
    expect(await askThree()).toEqual([200, 200, 200]);
    expect(await askThree()).toEqual([200, 200, 200]);
    expect(connections).toBeGreaterThan(3);
    broken = false;
    expect(await askThree()).toEqual([200, 200, 200]);
  });

  it("tells who reads when the response is cut", async () => {
    const ask = await serve((_, outgoing) => {
      outgoing.write("half");
      setTimeout(() => outgoing.destroy(), 20);
    });
    const { body } = await ask(request());
    expect((await body.read()).value).toEqual(Buffer.from("half"));
    await expect(body.read()).rejects.toThrow();
  });

  it("closes the connection of a response that is cancelled, and of nothing else", async () => {
    const ask = await serve((_, outgoing) => outgoing.write("endless"));
    const { body } = await ask(request());
    await body.read();
    await body.cancel();
    await expect.poll(() => closed).toBe(1);
    await body.cancel();
  });

  it("ends with its signal: before the response, and while it is read", async () => {
    const ask = await serve((incoming, outgoing) => void (incoming.url === "/ask" && outgoing.write("endless")));
    const silent = new AbortController();
    const asking = ask(request({ path: "/silent", signal: silent.signal }));
    setTimeout(() => silent.abort(new Error("enough")), 20);
    await expect(asking).rejects.toThrow();
    const reading = new AbortController();
    const { body } = await ask(request({ signal: reading.signal }));
    await body.read();
    reading.abort(new Error("enough"));
    await expect(body.read()).rejects.toThrow();
    await expect.poll(() => closed).toBe(2);
    await expect(ask(request({ signal: reading.signal }))).rejects.toThrow();
  });

  it("keeps no more of a long response than a reader that is slow has room for", async () => {
    const chunk = Buffer.alloc(65_536);
    let written = 0;
    const ask = await serve((_, outgoing) => {
      const write = (): void => {
        while (written < 1_000) {
          written += 1;
          if (!outgoing.write(chunk)) return void outgoing.once("drain", write);
        }
        outgoing.end();
      };
      write();
    });
    const { body } = await ask(request());
    await body.read();
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(written).toBeLessThan(500);
    const rest = await readAll(body, 100_000_000);
    expect(rest?.length).toBeGreaterThan(900 * chunk.length);
    expect(written).toBe(1_000);
  });
});
