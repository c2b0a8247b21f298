/**
 * Equal questions at the same time share one generation: over the real app, on a real engine thread. One row and slow
 * steps, so that a second generation could not go unnoticed.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { Admission } from "../../../origin/request/admit.ts";
import type { EngineClient } from "../../../origin/engine/client.ts";
import type { EdgeContext } from "../../../shared/edge-context.ts";
import { startFakeEngine } from "../../fakes/engine.ts";
import { createOrigin } from "../../fakes/origin.ts";

const STEP_MS = 4;
const TOKENS = 60;
/** For tests that must do something before the end, on a machine that has other work. */
const LONG = { max_tokens: 400 };
const DIGEST = "q".repeat(43);
const TENANT = "t".repeat(43);
const CONTEXT: EdgeContext = { digest: DIGEST, tenant: TENANT };

let engine: EngineClient;
beforeEach(async () => {
  engine = await startFakeEngine({ runtime: { slots: 4, stepMs: STEP_MS }, onCrash: () => {} });
});
afterEach(() => engine.stop());

async function open({ openMax = 10, followersMax = 200 } = {}) {
  const admission = new Admission({ openMax, followersMax, waitMs: () => undefined });
  const origin = await createOrigin({ engine, admission });
  interface Asking {
    readonly context?: EdgeContext;
    readonly signal?: AbortSignal;
    readonly fields?: object;
  }
  const post = async (stream: boolean, { context = CONTEXT, signal, fields = {} }: Asking = {}) => {
    const question = { model: "bytes", prompt: "x", max_tokens: TOKENS, temperature: 1, ...fields };
    const options = stream ? { stream, stream_options: { include_usage: true } } : {};
    const request = await origin.signed("/v1/completions", JSON.stringify({ ...question, ...options }), { context });
    return origin.app.request(signal === undefined ? request : new Request(request, { signal }));
  };
  const metric = async (name: string) => {
    const lines = (await (await origin.app.request("/metrics")).text()).split("\n");
    return Number(lines.find((line) => line.startsWith(`coldpath_origin_${name}{`))?.split(" ")[1]);
  };
  return { ...origin, admission, post, metric };
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await sleep(1);
}

interface Reply {
  readonly id: string;
  readonly created: number;
  readonly text: string;
  readonly finish: string;
  readonly usage: unknown;
  readonly coalesced: string | null;
}

interface Body {
  readonly id: string;
  readonly created: number;
  readonly choices: readonly { readonly text: string; readonly finish_reason: string | null }[];
  readonly usage?: unknown;
}

/** What a client has in the end, whichever form it asked for. */
async function read(response: Response): Promise<Reply> {
  expect(response.status).toBe(200);
  const coalesced = response.headers.get("coldpath-coalesced");
  const raw = await response.text();
  const isStream = response.headers.get("content-type")?.startsWith("text/event-stream") === true;
  if (isStream) expect(raw).toMatch(/data: \[DONE\]\n\n$/);
  const bodies = isStream
    ? raw.split("\n\n").flatMap((block) => (block.startsWith("data: {") ? [JSON.parse(block.slice(6)) as Body] : []))
    : [JSON.parse(raw) as Body];
  const choices = bodies.flatMap((body) => body.choices);
  const [head] = bodies;
  return {
    id: head?.id ?? "",
    created: head?.created ?? 0,
    text: choices.map((choice) => choice.text).join(""),
    finish: choices.at(-1)?.finish_reason ?? "",
    usage: bodies.at(-1)?.usage,
    coalesced,
  };
}

describe("equal questions", () => {
  test("a hundred at once, streaming or not, cost one generation and get one answer", async () => {
    const { post, admission, lines, metric } = await open();
    const asked = Array.from({ length: 100 }, (_, i) => post(i % 2 === 0));
    await until(() => engine.occupancy.running > 0);
    const replies = await Promise.all(asked.map(async (one) => read(await one)));
    const [first] = replies;
    for (const reply of replies) expect({ ...reply, coalesced: null }).toEqual({ ...first, coalesced: null });
    expect(first).toMatchObject({ finish: "length", usage: { prompt_tokens: 1, completion_tokens: TOKENS } });
    expect(replies.filter(({ coalesced }) => coalesced === "1")).toHaveLength(99);
    expect(await metric("generation_tokens_total")).toBe(TOKENS);
    expect(await metric("prompt_tokens_total")).toBe(1);
    expect(await metric("coalesced_requests_total")).toBe(99);
    expect(lines).toHaveLength(100);
    expect(lines.filter(({ coalesced }) => coalesced === true)).toHaveLength(99);
    for (const line of lines) expect(line).toMatchObject({ status: 200, promptTokens: 1, completionTokens: TOKENS });
    expect([admission.open, admission.present]).toEqual([0, 0]);
  });

  test("a late one gets what there is at once, then the rest as it comes", async () => {
    const { post } = await open();
    const leader = await post(true);
    await sleep(TOKENS * STEP_MS * 0.5);
    const response = await post(true);
    const reader = response.body?.getReader();
    const piece = new TextDecoder().decode((await reader?.read())?.value);
    // Many events in the first piece, and not the end. (Most bytes are no character by themselves.)
    expect(piece.match(/data: /g)?.length).toBeGreaterThan(2);
    expect(piece).not.toContain("[DONE]");
    let rest = "";
    for (;;) {
      const { done, value } = (await reader?.read()) ?? { done: true, value: undefined };
      if (done) break;
      rest += new TextDecoder().decode(value);
    }
    expect(piece + rest).toBe(await leader.text());
  });

  test("are told apart as far as the edge does: another spelling, and nothing beside it", async () => {
    const { post, metric } = await open();
    const asked = (prompt: string, normalize?: EdgeContext["normalize"], fields: object = {}) =>
      post(true, { context: { ...CONTEXT, normalize }, fields: { ...LONG, prompt, ...fields } });
    const leader = await asked("caf\u00e9 1", "width");
    const others = [
      await asked("cafe\u0301 \uff11", "width"),
      await asked("cafe\u0301 1", "unicode"),
      await asked("cafe\u0301 \uff11", "unicode"),
      await asked("cafe\u0301 1"),
      await asked("cafe 1", "width"),
      await asked("caf\u00e9 1", "width", { seed: 1 }),
    ];
    expect(others.map(({ headers }) => headers.get("coldpath-coalesced"))).toEqual(["1", "1", null, null, null, null]);
    expect(await metric("coalesce_conflicts_total")).toBe(4);
    for (const { body } of [leader, ...others]) await body?.cancel();
  });

  test("one that comes when the answer is finished gets one of its own", async () => {
    const { post, metric } = await open();
    await read(await post(true));
    expect((await read(await post(true))).coalesced).toBeNull();
    expect(await metric("generation_tokens_total")).toBe(2 * TOKENS);
  });

  test("one that comes in the very moment of finishing gets a whole answer, of either kind", async () => {
    const { post, admission } = await open();
    const leader = post(false);
    const others: Promise<Reply>[] = [];
    let over = false;
    void leader.then(() => (over = true));
    // Joins all the time, beyond the end.
    for (let after = 0; after < 3; after += over ? 1 : 0) {
      others.push(post(others.length % 2 === 0).then(read));
      await sleep(2);
    }
    await leader;
    const replies = await Promise.all(others);
    expect(replies.some(({ coalesced }) => coalesced === "1")).toBe(true);
    for (const reply of replies)
      expect(reply).toMatchObject({ finish: "length", usage: { completion_tokens: TOKENS } });
    await until(() => admission.open === 0 && admission.present === 0);
  });

  test.each([true, false])("go on when the first who asked leaves (stream: %s)", async (stream) => {
    const { post, lines, admission } = await open();
    const leaving = new AbortController();
    const leader = post(stream, { signal: leaving.signal, fields: LONG }).then((response) => response.text());
    await until(() => engine.occupancy.running === 1);
    const followers = [post(true, { fields: LONG }), post(false, { fields: LONG })].map(async (one) => read(await one));
    await until(() => admission.present === 3);
    leaving.abort();
    await Promise.allSettled([leader]);
    await until(() => lines.length === 1);
    expect(lines[0]).toMatchObject({ status: 499 });
    expect([engine.occupancy.running, admission.open, admission.present]).toEqual([1, 1, 2]);
    for (const reply of await Promise.all(followers)) {
      expect(reply).toMatchObject({ finish: "length", coalesced: "1", usage: { completion_tokens: 400 } });
    }
  });

  test("free their row when the last one leaves, in whatever order", async () => {
    const { post, admission, lines } = await open();
    const clients = Array.from({ length: 6 }, () => new AbortController());
    const asked = clients.map(({ signal }, i) =>
      post(i % 2 === 0, { signal, fields: LONG }).then((response) => response.text()),
    );
    await until(() => engine.occupancy.running === 1 && admission.present === 6);
    const order = [3, 0, 5, 1, 4];
    for (const i of order) {
      clients[i]?.abort();
      await sleep(STEP_MS);
      expect(engine.occupancy.running).toBe(1);
    }
    const begun = performance.now();
    clients[2]?.abort();
    await until(() => engine.occupancy.running === 0);
    expect(performance.now() - begun).toBeLessThan((400 * STEP_MS) / 2);
    await Promise.allSettled(asked);
    await until(() => lines.length === 6);
    expect(lines.every(({ status }) => status === 499)).toBe(true);
    expect([admission.open, admission.present]).toEqual([0, 0]);
    expect((await read(await post(true))).coalesced).toBeNull();
  });

  test("all hear of it when the engine dies", async () => {
    const { post, admission } = await open();
    const streams = await Promise.all([post(true, { fields: LONG }), post(true, { fields: LONG })]);
    const whole = post(false, { fields: LONG });
    await until(() => admission.present === 3);
    await engine.stop();
    for (const response of streams) expect(await response.text()).toMatch(/event: error\ndata: .*"not_ready"/);
    expect((await whole).status).toBe(503);
    expect([admission.open, admission.present]).toEqual([0, 0]);
  });

  test("share even a refusal, and the next asking begins anew", async () => {
    const { post } = await open();
    const fields = { max_tokens: 10_000 };
    const both = await Promise.all([post(true, { fields }), post(false, { fields })]);
    expect(both.map(({ status }) => status)).toEqual([400, 400]);
    expect((await read(await post(false))).finish).toBe("length");
  });
});

describe("nothing is shared", () => {
  test.each<[string, EdgeContext, object]>([
    ["by another tenant's", { ...CONTEXT, tenant: "u".repeat(43) }, {}],
    ["by one without a tenant", { digest: DIGEST }, {}],
    ["by one without a digest", { tenant: TENANT }, {}],
    ["by another digest", { ...CONTEXT, digest: "r".repeat(43) }, {}],
    ["by another question under the same digest", CONTEXT, { prompt: "y" }],
    ["by another temperature under the same digest", CONTEXT, { temperature: 0 }],
  ])("%s", async (_, context, fields) => {
    const { post, metric } = await open();
    const leader = post(true);
    await until(() => engine.occupancy.running === 1);
    const other = await read(await post(false, { context, fields }));
    expect(other.coalesced).toBeNull();
    expect(other.id).not.toBe((await read(await leader)).id);
    expect(await metric("generation_tokens_total")).toBe(2 * TOKENS);
    expect(await metric("coalesced_requests_total")).toBe(0);
    expect(await metric("coalesce_conflicts_total")).toBe(Object.keys(fields).length);
  });

  test("by two without a digest", async () => {
    const { post, metric } = await open();
    const context = { tenant: TENANT };
    await Promise.all([post(true, { context }), post(true, { context })].map(async (one) => read(await one)));
    expect(await metric("generation_tokens_total")).toBe(2 * TOKENS);
  });
});

describe("limits", () => {
  test("followers take no place in the queue, and have a limit of their own", async () => {
    const { post, admission } = await open({ openMax: 1, followersMax: 2 });
    const leader = post(true, { fields: LONG });
    await until(() => engine.occupancy.running === 1);
    const followers = [post(true, { fields: LONG }), post(false, { fields: LONG })];
    await until(() => admission.present === 3);
    const tooMany = await post(true, { fields: LONG });
    expect([tooMany.status, await tooMany.json()]).toMatchObject([429, { error: { code: "queue_full" } }]);
    for (const one of [leader, ...followers]) expect((await read(await one)).finish).toBe("length");
    expect([admission.open, admission.present]).toEqual([0, 0]);
  });

  test("a drain waits for the followers", async () => {
    const { post, admission } = await open();
    const leaving = new AbortController();
    const leader = post(true, { signal: leaving.signal, fields: LONG }).then((response) => response.text());
    await until(() => engine.occupancy.running === 1);
    const follower = post(true, { fields: LONG }).then(read);
    await until(() => admission.present === 2);
    const drained = admission.idle(60_000);
    leaving.abort();
    await Promise.allSettled([leader]);
    await drained;
    expect((await follower).finish).toBe("length");
    expect([admission.open, admission.present]).toEqual([0, 0]);
  });
});
