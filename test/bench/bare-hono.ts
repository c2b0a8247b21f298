/**
 * The floor that the edge on Node is compared with: a bare Hono app on the server library that Hono has for Node, doing
 * the same work without coldpath. It looks the token up, reads and hashes the body, and answers from a Map; `/regional`
 * runs a script in Redis that reads one value first, over one direct connection. The answer and the value are as long as
 * the edge's own. A program of its own, started by edge-sides.ts.
 */
import { createHash } from "node:crypto";
import { serve } from "@hono/node-server";
import { Hono } from "hono";
import { createClient } from "redis";

const {
  PORT,
  COLDPATH_REDIS_URL: url = "",
  BENCH_ANSWER = "",
  BENCH_SCRIPT = "",
  BENCH_KEY = "",
  BENCH_TOKEN = "",
} = process.env;
const redis = createClient({ url, RESP: 2 });
await redis.connect();
const tokens = new Map([[BENCH_TOKEN, "bench"]]);
const answers = new Map<string, string>();

const app = new Hono();
app.get("/healthz", (context) => context.json({ status: "ok" }));
app.post("/:tier", async (context) => {
  const subject = tokens.get(context.req.header("authorization") ?? "");
  if (subject === undefined) return context.body(null, 401);
  const body = await context.req.text();
  const digest = createHash("sha256").update(subject).update(body).digest("base64url");
  if (context.req.param("tier") === "regional") {
    const value = await redis.evalSha(BENCH_SCRIPT, { keys: [BENCH_KEY] });
    if (typeof value !== "string") return context.body(null, 500);
  }
  let answer = answers.get(digest);
  if (answer === undefined) answers.set(digest, (answer = BENCH_ANSWER));
  return context.body(answer, 200, { "content-type": "application/json" });
});
serve({ fetch: app.fetch, hostname: "127.0.0.1", port: Number(PORT) });
