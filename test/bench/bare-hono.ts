/**
 * The floor that the edge on Node is compared with: a bare Hono app on the same server library, doing the same work
 * without coldpath. It looks the token up, reads and hashes the body, and answers from a Map; `/regional` asks Redis for
 * one value first, over one direct connection. A program of its own, started by edge-platforms.ts.
 */
import { createHash } from "node:crypto";
import { serve } from "@hono/node-server";
import { Hono } from "hono";
import { createClient } from "redis";

const ANSWER = JSON.stringify({ choices: [{ message: { role: "assistant", content: "x".repeat(500) } }] });

const redis = createClient({ url: process.env["COLDPATH_REDIS_URL"] ?? "", RESP: 2 });
await redis.connect();
const tokens = new Map<string, string>();
const answers = new Map<string, string>();

const app = new Hono();
app.get("/healthz", (context) => context.json({ status: "ok" }));
app.post("/:tier", async (context) => {
  const token = context.req.header("authorization") ?? "";
  const subject = tokens.get(token) ?? token;
  tokens.set(token, subject);
  const body = await context.req.text();
  const digest = createHash("sha256").update(subject).update(body).digest("base64url");
  if (context.req.param("tier") === "regional") await redis.get("cp:bare-hono");
  const answer = answers.get(digest) ?? ANSWER;
  answers.set(digest, answer);
  return context.body(answer, 200, { "content-type": "application/json" });
});
serve({ fetch: app.fetch, hostname: "127.0.0.1", port: Number(process.env["PORT"]) });
