/** The direct connection against a real Redis that is slow, hangs, restarts and forgets, through a wire that we cut. */
import { afterEach, beforeEach, describe, expect, inject, it, vi } from "vitest";
import { connectRedis, type RedisConnection } from "../../../../edge/platform/node/redis.ts";
import { Wire } from "../../../setup/wire.ts";

// What `test/setup/redis.ts` provides.
declare module "vitest" {
  interface ProvidedContext {
    readonly redisRest: { readonly redisUrl: string };
  }
}

const target = new URL(inject("redisRest").redisUrl);

function newWire(): Wire {
  return new Wire({ host: target.hostname, port: Number(target.port) });
}

async function urlOf(opened: Wire, port = 0): Promise<string> {
  const url = new URL(target);
  url.port = String((await opened.open(port)).port);
  return url.href;
}

let wire: Wire;
let redis: RedisConnection;
const states: string[] = [];

beforeEach(async () => {
  wire = newWire();
  states.length = 0;
  redis = await connectRedis({
    url: await urlOf(wire),
    timeoutMs: 300,
    pendingMax: 5,
    onState: (state) => states.push(state === "ready" ? state : "away"),
  });
});
afterEach(() => {
  redis.close();
  wire.close();
});

describe("a direct connection to Redis", () => {
  it("brings text, numbers, nothing and lists of these back as they are", async () => {
    expect(await redis.send(["ECHO", "热路径"])).toBe("热路径");
    expect(await redis.send(["EVAL", "return {1, 'two', false, {3}}", 0])).toEqual([1, "two", null, [3]]);
  });

  it("names an error reply by Redis' own words, so that a script can be sent again", async () => {
    await expect(redis.send(["EVALSHA", "0".repeat(40), 0])).rejects.toThrowError(
      expect.objectContaining({ name: "StoreUnavailable", message: expect.stringMatching(/^NOSCRIPT/) }),
    );
  });

  it("gives up on a hung Redis after its timeout, and is bounded in what waits for it", async () => {
    wire.held = true;
    const startedMs = performance.now();
    const attempts = await Promise.allSettled(Array.from({ length: 7 }, () => redis.send(["PING"])));
    expect(performance.now() - startedMs).toBeLessThan(1_500);
    const reasons = attempts.map((attempt) => (attempt.status === "rejected" ? String(attempt.reason.message) : ""));
    expect(reasons.toSorted()).toEqual([
      ...Array<string>(5).fill("timeout"),
      ...Array<string>(2).fill("too many commands wait for Redis"),
    ]);
  });

  it("waits no longer than it is told to where that is less, and others as long as ever", async () => {
    wire.held = true;
    const ended: string[] = [];
    const patient = redis.send(["PING"]).catch(() => ended.push("patient"));
    await Promise.all([redis.send(["PING"], 20).catch(() => ended.push("hasty")), patient]);
    expect(ended).toEqual(["hasty", "patient"]);
  });

  it("connects anew by itself after a hang, and has not leaked what waited", async () => {
    wire.held = true;
    await expect(redis.send(["PING"])).rejects.toThrowError("timeout");
    // The client drops a connection on which nothing at all comes.
    await vi.waitFor(() => expect(states).toContain("away"), { timeout: 8_000 });
    wire.held = false;
    await vi.waitFor(async () => expect(await redis.send(["PING"])).toBe("PONG"), { timeout: 8_000 });
    const many = await Promise.all(Array.from({ length: 5 }, () => redis.send(["PING"])));
    expect(many).toEqual(Array<string>(5).fill("PONG"));
  });

  it("refuses at once while Redis is away, tells it once, and comes back", async () => {
    wire.close();
    await vi.waitFor(() => expect(states).toEqual(["away"]));
    await new Promise((resolve) => setTimeout(resolve, 300));
    // Not "timeout": nothing was waited for.
    await expect(redis.send(["PING"])).rejects.toThrowError("unreachable");
    const { port } = wire;
    wire = newWire();
    await wire.open(port);
    await vi.waitFor(async () => expect(await redis.send(["PING"])).toBe("PONG"), { timeout: 8_000 });
    expect(states).toEqual(["away", "ready"]);
  });

  it("fails a command whose connection is cut under it", async () => {
    wire.held = true;
    const waiting = redis.send(["PING"]);
    setTimeout(() => wire.cut(), 50);
    await expect(waiting).rejects.toThrowError(
      expect.objectContaining({ name: "StoreUnavailable", message: "the connection was lost" }),
    );
  });

  it("survives a Redis that talks nonsense", async () => {
    wire.nonsense = "HTTP/1.1 400 Bad Request\r\n\r\n";
    await expect(redis.send(["PING"])).rejects.toThrowError(expect.objectContaining({ name: "StoreUnavailable" }));
    wire.nonsense = undefined;
    await vi.waitFor(async () => expect(await redis.send(["PING"])).toBe("PONG"), { timeout: 8_000 });
  });

  it("gives nobody another's reply after nonsense, however many waited", async () => {
    wire.nonsense = "HTTP/1.1 400 Bad Request\r\n\r\n";
    const lost = await Promise.allSettled(["one", "two", "three"].map((text) => redis.send(["ECHO", text])));
    expect(lost.map(({ status }) => status)).toEqual(["rejected", "rejected", "rejected"]);
    wire.nonsense = undefined;
    const found: unknown[] = [];
    await vi.waitFor(
      async () => {
        found.push(...(await Promise.all(["four", "five"].map((text) => redis.send(["ECHO", text])))));
      },
      { timeout: 8_000 },
    );
    expect(found).toEqual(["four", "five"]);
  });

  it("starts without a Redis, and finds it when it comes", async () => {
    const later = newWire();
    const url = await urlOf(later);
    later.close();
    const early = await connectRedis({ url, timeoutMs: 300, pendingMax: 5, onState: () => {} });
    await expect(early.send(["PING"])).rejects.toThrowError("unreachable");
    const now = newWire();
    await now.open(later.port);
    await vi.waitFor(async () => expect(await early.send(["PING"])).toBe("PONG"), { timeout: 8_000 });
    early.close();
    now.close();
  });
});
