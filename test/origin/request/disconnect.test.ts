/** A client that goes away, over real sockets: its row must be free within a step, streaming or not. */
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { createAdaptorServer } from "@hono/node-server";
import { expect, onTestFinished, test } from "vitest";
import { Admission } from "../../../origin/request/admit.ts";
import { startFakeEngine } from "../../fakes/engine.ts";
import { createOrigin, type OriginOptions } from "../../fakes/origin.ts";

const STEP_MS = 10;

/** One row, slow steps: 400 tokens would take four seconds. */
async function listen(changes: Partial<OriginOptions> & { readonly prefillChunkTokens?: number } = {}) {
  const { prefillChunkTokens, ...options } = changes;
  const chunk = prefillChunkTokens === undefined ? {} : { prefillChunkTokens };
  const engine = await startFakeEngine({ runtime: { slots: 1, stepMs: STEP_MS }, ...chunk });
  const admission = new Admission({ openMax: 10, followersMax: 10, waitMs: () => undefined });
  const origin = await createOrigin({ engine, admission, ...options });
  const server = createAdaptorServer({ fetch: origin.app.fetch }).listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(async () => {
    server.close();
    await engine.stop();
  });
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const post = async (body: object, signal?: AbortSignal) => {
    const request = await origin.signed(
      `${url}/v1/completions`,
      JSON.stringify({ model: "bytes", prompt: "x", ...body }),
    );
    return fetch(request, signal === undefined ? {} : { signal });
  };
  return { ...origin, engine, admission, post };
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await sleep(1);
}

test.each([true, false])("a closed connection frees its row at once (stream: %s)", async (stream) => {
  const { engine, admission, post, lines } = await listen();
  const client = new AbortController();
  const gone = post({ max_tokens: 400, stream }, client.signal)
    .then((response) => response.text())
    .catch((error: Error) => error);
  await until(() => engine.occupancy.running === 1);
  await sleep(5 * STEP_MS);

  const closedAt = performance.now();
  client.abort();
  await until(() => engine.occupancy.running === 0);
  // One step in progress, the socket's close and two messages; four seconds if it went on.
  expect(performance.now() - closedAt).toBeLessThan(1000);
  expect(await gone).toBeInstanceOf(Error);
  await until(() => lines.length === 1);
  expect(lines).toMatchObject([{ status: 499 }]);
  expect(lines[0]?.["completionTokens"]).toBeLessThan(200);
  expect(admission.open).toBe(0);

  const next = await post({ max_tokens: 2 });
  expect(next.status).toBe(200);
});

test("a client that goes away while it waits gives its place up", async () => {
  const { engine, admission, post, lines } = await listen();
  const running = post({ max_tokens: 60 });
  await until(() => engine.occupancy.running === 1);
  const client = new AbortController();
  const waiting = post({ max_tokens: 60, stream: true }, client.signal).catch((error: Error) => error);
  await until(() => engine.occupancy.waiting === 1);
  client.abort();
  await until(() => engine.occupancy.waiting === 0 && admission.open === 1);
  expect(await waiting).toBeInstanceOf(Error);
  expect(lines).toMatchObject([{ status: 499, completionTokens: 0 }]);
  expect((await running).status).toBe(200);
});

test.each([true, false])(
  "a client that goes away while its prompt is tokenized is forgotten (stream: %s)",
  async (stream) => {
    const seen: AbortSignal[] = [];
    const prompts: OriginOptions["prompts"] = {
      encode: (_, signal) => {
        seen.push(signal);
        return new Promise((_resolve, reject) =>
          signal.addEventListener("abort", () => reject(signal.reason as Error)),
        );
      },
    };
    const { engine, admission, post, lines } = await listen({ prompts });
    const client = new AbortController();
    const gone = post({ max_tokens: 4, stream }, client.signal).catch((error: Error) => error);
    await until(() => seen.length === 1);
    client.abort();
    await until(() => lines.length === 1 && admission.present === 0);
    expect(seen[0]?.aborted).toBe(true);
    expect(lines).toMatchObject([{ status: 499 }]);
    expect(admission.open).toBe(0);
    expect(engine.occupancy).toEqual({ running: 0, waiting: 0 });
    expect(await gone).toBeInstanceOf(Error);
  },
);

test("a client that goes away in the middle of its prompt's prefill frees its row at once", async () => {
  // Two tokens a step: the prompt would take two seconds.
  const { engine, admission, post, lines } = await listen({ prefillChunkTokens: 2 });
  const client = new AbortController();
  const gone = post({ prompt: "x".repeat(400), max_tokens: 4, stream: true }, client.signal).catch((e: Error) => e);
  await until(() => engine.occupancy.running === 1);
  await sleep(5 * STEP_MS);
  client.abort();
  await until(() => engine.occupancy.running === 0);
  await until(() => lines.length === 1);
  expect(lines).toMatchObject([{ status: 499, promptTokens: 400, completionTokens: 0 }]);
  expect(admission.open).toBe(0);
  expect(await gone).toBeInstanceOf(Error);
});

test.each([true, false])("a client that closes after the end has had its answer (stream: %s)", async (stream) => {
  const { engine, admission, post, lines } = await listen();
  const client = new AbortController();
  const response = await post({ max_tokens: 3, stream }, client.signal);
  await response.text();
  client.abort();
  await until(() => lines.length === 1 && admission.present === 0);
  expect(lines).toMatchObject([{ status: 200, completionTokens: 3, finish: "length" }]);
  expect(engine.occupancy).toEqual({ running: 0, waiting: 0 });
  expect((await post({ max_tokens: 2 })).status).toBe(200);
});

test("clients that go away at any moment leave nothing behind", async () => {
  const { engine, admission, post, lines } = await listen({ prefillChunkTokens: 8 });
  const clients = Array.from({ length: 8 }, async (_, i) => {
    const client = new AbortController();
    const over = post({ prompt: "x".repeat(40), max_tokens: 20, stream: i % 2 === 0 }, client.signal)
      .then((response) => response.text())
      .catch((error: Error) => error);
    await sleep(i * 17);
    client.abort();
    await over;
  });
  await Promise.all(clients);
  // The first ones may not even have been sent.
  await until(() => admission.present === 0 && engine.occupancy.running + engine.occupancy.waiting === 0);
  expect(lines.every(({ status }) => status === 499 || status === 200)).toBe(true);
  expect((await post({ max_tokens: 2 })).status).toBe(200);
});

test("a client that never reads its stream holds no row", async () => {
  const { engine, admission, post } = await listen();
  const response = await post({ max_tokens: 50, stream: true });
  await until(() => admission.open === 0);
  expect(engine.occupancy.running).toBe(0);
  expect(await response.text()).toContain("[DONE]");
});

test("a client that takes nothing of its stream for too long counts as gone, and one that reads slowly does not", async () => {
  const engine = await startFakeEngine({ runtime: { slots: 1, stepMs: STEP_MS } });
  onTestFinished(() => engine.stop());
  const admission = new Admission({ openMax: 10, followersMax: 10, waitMs: () => undefined });
  const { ask, lines } = await createOrigin({ engine, admission, stallMs: 100 });
  const body = { model: "bytes", prompt: "x", max_tokens: 400, stream: true };
  const stalled = await ask("/v1/completions", body);
  await until(() => admission.present === 0 && engine.occupancy.running === 0);
  expect(lines).toMatchObject([{ status: 499 }]);
  await expect(stalled.text()).rejects.toThrow("takes nothing");

  const slow = await ask("/v1/completions", { ...body, max_tokens: 60 });
  let text = "";
  for await (const bytes of slow.body ?? []) {
    text += Buffer.from(bytes).toString();
    await sleep(50);
  }
  expect(text).toMatch(/data: \[DONE\]\n\n$/);
  await until(() => admission.present === 0);
});
