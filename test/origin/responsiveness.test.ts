/**
 * The main thread must stay free while the engine's thread computes: a 512-token prompt of the real model is prefilled
 * while `/health` is asked over a real socket, again and again.
 */
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { availableParallelism } from "node:os";
import { createAdaptorServer } from "@hono/node-server";
import { expect, inject, onTestFinished, test } from "vitest";
import { ORIGIN_KNOBS } from "../../origin/config.ts";
import { serveModel } from "../../origin/serve-model.ts";
import { readKnobs } from "../../shared/knobs.ts";
import { createOrigin } from "../fakes/origin.ts";

const HEALTH_MS = 50;
/**
 * On a machine with other work a process may get no core for longer than that. Whoever blocks the main thread blocks it
 * in every attempt, by the whole of the prefill.
 */
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
  const { model, engine } = await serveModel({
    config,
    folder: inject("modelFolder"),
    onCrash: fail,
    onTrouble: fail,
    onRestart: () => fail("the engine was started anew"),
    onGiveUp: () => fail("the engine was given up"),
  });
  onTestFinished(() => engine.stop());
  const { app, signed } = await createOrigin({ engine, model });
  const server = createAdaptorServer({ fetch: app.fetch }).listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => void server.close());
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return { url, signed, model: model.id };
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

test("while 512 tokens are prefilled, /health answers within 50 ms", async () => {
  const { url, signed, model } = await listen();
  // The first connection, and code that has never run, are not what is measured.
  for (let i = 0; i < 20; i++) await timeHealth(url);

  const slowestMs: number[] = [];
  while (slowestMs.length < ATTEMPTS_MAX && !slowestMs.some((slowest) => slowest < HEALTH_MS)) {
    const begunAt = performance.now();
    const body = { model, prompt: " word".repeat(512), max_tokens: 1 };
    const answer = fetch(await signed(`${url}/v1/completions`, JSON.stringify(body)));
    const waitsMs = await timeHealthDuring(answer, url);
    expect(await (await answer).json()).toMatchObject({ usage: { prompt_tokens: 512 } });
    // A blocked thread could not hide: the prefill is longer than the limit, and was asked through often.
    expect(performance.now() - begunAt).toBeGreaterThan(2 * HEALTH_MS);
    expect(waitsMs.length).toBeGreaterThan(10);
    slowestMs.push(Math.max(...waitsMs));
  }
  expect(Math.min(...slowestMs), `the slowest answers: ${slowestMs.join(", ")} ms`).toBeLessThan(HEALTH_MS);
});
