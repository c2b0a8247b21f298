/**
 * The main thread must stay free while others compute: a 512-token prompt of the real model is prefilled, and the worst
 * text that fits the context is tokenized, while `/health` is asked over a real socket, again and again.
 */
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { availableParallelism } from "node:os";
import { createAdaptorServer } from "@hono/node-server";
import { expect, inject, onTestFinished, test } from "vitest";
import { ORIGIN_KNOBS } from "../../../origin/config.ts";
import { serveModel } from "../../../origin/models/open.ts";
import { readKnobs } from "../../../shared/knobs.ts";
import { createOrigin } from "../../fakes/origin.ts";

const HEALTH_MS = 50;
/**
 * On a machine with other work a process may get no core for longer than that, and the work beside it takes longer, too.
 * Whoever blocks the main thread blocks it in every attempt, by the whole of the work. So the limit is a part of the work's
 * time, and never more than half of it: a blocked thread can't hide on a machine that needs less than the limit for it all.
 */
const SHARE = { usual: 0.25, max: 0.5 };
const ATTEMPTS_MAX = 8;

function fail(problem: Error | string): void {
  expect.unreachable(String(problem));
}

async function listen() {
  const config = readKnobs(ORIGIN_KNOBS, {
    COLDPATH_THREADS: String(Math.max(1, availableParallelism() - 1)),
    COLDPATH_SLOTS: "2",
    COLDPATH_CONTEXT: "1024",
    // One chunk: the longest run there can be.
    COLDPATH_PREFILL_CHUNK_TOKENS: "512",
  });
  const { model, engine, prompts } = await serveModel({
    config,
    folder: inject("modelFolder"),
    memory: { kvBytes: Infinity, prefixCacheBytes: config.prefixCacheBytes },
    onCrash: fail,
    onTrouble: fail,
    onRestart: () => fail("the engine was started anew"),
    onGiveUp: () => fail("the engine was given up"),
  });
  onTestFinished(async () => void (await Promise.all([engine.stop(), prompts.stop()])));
  const { app, signed } = await createOrigin({ engine, model, prompts, bodyBytesMax: 1_000_000 });
  const server = createAdaptorServer({ fetch: app.fetch }).listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => void server.close());
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  // The first connection, and code that has never run, are not what is measured.
  for (let i = 0; i < 20; i++) await timeHealth(url);
  return { url, signed, model: model.id };
}

interface Attempt {
  readonly prompt: string;
  readonly check: (body: unknown) => void;
}

async function timeHealth(url: string): Promise<number> {
  const askedAt = performance.now();
  expect((await fetch(`${url}/health`)).status).toBe(200);
  return performance.now() - askedAt;
}

/** Asks `/health` until the answer has come; how long each took. */
async function timeHealthDuring(answer: Promise<unknown>, url: string): Promise<number[]> {
  const waitsMs: number[] = [];
  const state = { isOver: false };
  const over = answer.finally(() => (state.isOver = true));
  while (!state.isOver) waitsMs.push(await timeHealth(url));
  await over;
  return waitsMs;
}

/** Has a prompt answered until `/health` was never slow beside it, as often as that may take. */
async function expectHealthDuring({ prompt, check }: Attempt): Promise<void> {
  const { url, signed, model } = await listen();
  const slowestMs: number[] = [];
  while (slowestMs.length < ATTEMPTS_MAX) {
    const begunAt = performance.now();
    // Another tenant each time, who finds nothing in the prefix cache.
    const context = { tenant: `tenant-${String(slowestMs.length).padStart(16, "0")}` };
    const body = JSON.stringify({ model, prompt, max_tokens: 1 });
    const answer = fetch(await signed(`${url}/v1/completions`, body, { context }));
    const waitsMs = await timeHealthDuring(answer, url);
    check(await (await answer).json());
    const workMs = performance.now() - begunAt;
    const slowest = Math.max(...waitsMs);
    if (slowest < Math.min(Math.max(HEALTH_MS, SHARE.usual * workMs), SHARE.max * workMs)) return;
    slowestMs.push(slowest);
  }
  expect.unreachable(`the slowest answers: ${slowestMs.join(", ")} ms`);
}

test("while 512 tokens are prefilled, /health does not wait for it", async () => {
  await expectHealthDuring({
    prompt: " word".repeat(512),
    check: (body) => expect(body).toMatchObject({ usage: { prompt_tokens: 512 } }),
  });
});

test("while the slowest text that could fit the context is tokenized, /health does not wait for it", async () => {
  await expectHealthDuring({
    // 64 to a token; one letter in between, so that it turns out to be too long only when it is tokenized.
    prompt: `${" ".repeat(32_000)}x${" ".repeat(32_000)}`.padEnd(64_100, "word "),
    check: (body) => expect(body).toMatchObject({ error: { code: "context_length_exceeded" } }),
  });
});
