/** The unmodified @upstash/redis client against redis-rest: what it gets from Upstash it must get here. */
import { randomUUID } from "node:crypto";
import { Redis } from "@upstash/redis";
import { expect, inject, it } from "vitest";

const { url, token, readToken } = inject("redisRest");
const redis = new Redis({ url, token });
const raw = new Redis({ url, token, automaticDeserialization: false });

function freshKey(): string {
  return `test:${randomUUID()}`;
}

it("stores and reads text of every script", async () => {
  const key = freshKey();
  const text = 'naïve – 你好 – 👩‍💻 – \u0000 – "quoted"\n';
  expect(await raw.set(key, text, { ex: 100 })).toBe("OK");
  expect(await raw.get(key)).toBe(text);
});

it("stores and reads objects with automatic deserialization, and the same as text without", async () => {
  const key = freshKey();
  await redis.set(key, { answer: [1, "two", null] });
  expect(await redis.get(key)).toEqual({ answer: [1, "two", null] });
  expect(await raw.get(key)).toBe(`{"answer":[1,"two",null]}`);
});

it("reads hashes, sorted sets and missing keys in their own forms", async () => {
  const key = freshKey();
  await redis.hset(key, { name: "edge", count: 3 });
  expect(await redis.hgetall(key)).toEqual({ name: "edge", count: 3 });
  expect(await redis.hgetall(freshKey())).toBeNull();
  await redis.zadd(`${key}:z`, { score: 1.5, member: "a" }, { score: 2, member: "b" });
  expect(await redis.zrange(`${key}:z`, 0, -1, { withScores: true })).toEqual(["a", 1.5, "b", 2]);
  expect(await redis.get(freshKey())).toBeNull();
});

it("runs pipelines and transactions", async () => {
  const key = freshKey();
  expect(await redis.pipeline().set(key, 1).incr(key).get(key).exec()).toEqual(["OK", 2, 2]);
  expect(await redis.multi().incr(key).expire(key, 60).exec()).toEqual([3, 1]);
});

it("batches commands of one tick by itself", async () => {
  const batching = new Redis({ url, token, enableAutoPipelining: true });
  const keys = Array.from({ length: 40 }, freshKey);
  await Promise.all(keys.map((key, index) => batching.set(key, index)));
  expect(await Promise.all(keys.map((key) => batching.get(key)))).toEqual(keys.map((_, index) => index));
});

it("runs scripts by source and by digest, and reports a missing one as Redis does", async () => {
  const key = freshKey();
  const script = "redis.call('SET', KEYS[1], ARGV[1]) return {KEYS[1], ARGV[1], 7, false}";
  expect(await raw.eval(script, [key], ["value"])).toEqual([key, "value", 7, null]);
  const sha = await raw.scriptLoad(script);
  expect(await raw.evalsha(sha, [key], ["other"])).toEqual([key, "other", 7, null]);
  expect(await raw.get(key)).toBe("other");
  await expect(raw.evalsha("0".repeat(40), [], [])).rejects.toThrow(/NOSCRIPT/);
});

it("reports Redis' own errors, and a wrong token", async () => {
  const key = freshKey();
  await redis.set(key, "text");
  await expect(redis.incr(key)).rejects.toThrow(/not an integer/);
  await expect(new Redis({ url, token: "x".repeat(48) }).get(key)).rejects.toThrow(/WRONGPASS/);
  await expect(new Redis({ url, token: readToken }).set(key, 1)).rejects.toThrow(/NOPERM/);
});

it("reads without base64, too", async () => {
  const plain = new Redis({ url, token, responseEncoding: false });
  const key = freshKey();
  await plain.set(key, "grün");
  expect(await plain.get(key)).toBe("grün");
});
