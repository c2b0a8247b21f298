/**
 * What only real weights can show: that an answer is the same to the bit whatever runs beside it, wherever its prompt was
 * cut, whether its prompt was cached, its row was taken away and given back, or its tokens were guessed. Log probabilities
 * are compared as they are: the default model rounds activations to 8 bits, so a last bit that differs anywhere shows.
 */
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import { Engine, type EngineOptions, type SequenceUpdate } from "../../../origin/engine/engine.ts";
import type { SequenceRequest } from "../../../origin/engine/sequence.ts";
import { readManifest } from "../../../origin/manifest/manifest.ts";
import { createRuntime } from "../../../origin/runtime/create-runtime.ts";
import type { Runtime } from "../../../origin/runtime/port/runtime.ts";
import { loadTokenizer, type Tokenizer } from "../../../origin/tokenize/tokenizer.ts";
import { ENGINE_OPTIONS } from "../../fakes/engine-options.ts";
import { GREEDY } from "../../fakes/greedy.ts";

const SYSTEM = "You are the librarian of a small town. Answer in one sentence, kindly, and name the shelf. ".repeat(50);
const COPY =
  "Copy this text exactly: The quick brown fox jumps over the lazy dog. The dog sleeps in the sun. The fox runs away.";

let runtime: Runtime;
let tokenizer: Tokenizer;
beforeAll(async () => {
  const folder = inject("modelFolder");
  runtime = await createRuntime({ backend: "capi", folder, slots: 5, capacity: 1536, threads: 2 });
  tokenizer = loadTokenizer(folder, readManifest(folder).tokens);
}, 60_000);
afterAll(() => runtime[Symbol.dispose]());

function createEngine(options: Partial<EngineOptions> = {}): Engine {
  runtime.resize({ slots: 0, capacity: 0, kept: [] });
  return new Engine({
    ...ENGINE_OPTIONS,
    runtime,
    prefixCacheBytes: 2 ** 27,
    now: () => performance.now(),
    ...options,
  });
}

function ask(id: number, text: string, changes: Partial<SequenceRequest> = {}): SequenceRequest {
  const prompt = tokenizer.encodeChat([{ role: "user", content: text }]);
  return { id, prompt, maxTokens: 12, sampling: GREEDY, logprobs: 2, ...changes };
}

/** Every answer: tokens, and their log probabilities to the last bit. */
async function run(engine: Engine): Promise<Map<number, unknown[]>> {
  const answers = new Map<number, unknown[]>();
  while (engine.busy) for (const update of (await engine.step()).updates) note(answers, update);
  return answers;
}

function note(answers: Map<number, unknown[]>, { id, token, status, logprobs }: SequenceUpdate): void {
  answers.set(id, [...(answers.get(id) ?? []), { token, status, logprobs }]);
}

/** The answer of one request with nobody beside it and nothing cached. */
async function alone(request: SequenceRequest, options: Partial<EngineOptions> = {}): Promise<unknown> {
  const engine = createEngine({ prefixCacheBytes: 0, ...options });
  engine.submit(request);
  return (await run(engine)).get(request.id);
}

describe("an answer is the same to the bit", () => {
  const sampled = { ...GREEDY, temperature: 1, topP: 0.9, seed: 7 };

  test("whatever runs beside it, and wherever its prompt is cut", async () => {
    const requests = [
      ask(1, "Explain how a bicycle stays upright.", { sampling: sampled }),
      ask(2, "Tell me a story about a fox and a crow.", { maxTokens: 20 }),
      ask(3, COPY, { sampling: { ...sampled, seed: 8 } }),
      ask(4, "Why is the sky blue?"),
    ];
    const together = createEngine({ prefillChunkTokens: 17, prefixCacheBytes: 0 });
    for (const one of requests) together.submit(one);
    const answers = await run(together);
    for (const one of requests) expect(answers.get(one.id), `request ${one.id}`).toEqual(await alone(one));
  });

  test("whether its prompt was cached or not", async () => {
    const opening = SYSTEM.slice(0, 1500);
    const request = ask(2, `${opening} Where are the maps?`);
    const cold = await alone(request);
    const engine = createEngine();
    engine.submit(ask(1, `${opening} Where are the novels?`));
    await run(engine);
    engine.submit(request);
    // From the slot that the first has left.
    expect((await run(engine)).get(2)).toEqual(cold);
    engine.rest();
    engine.submit(request);
    // From the second tier.
    expect((await run(engine)).get(2)).toEqual(cold);
    expect(engine.counters.prefixHits).toBe(2);
    expect(engine.counters.prefixHitTokens).toBeGreaterThan(500);
  });

  test("after its row was taken away and given back", async () => {
    const request = ask(1, "Tell me a story about a fox and a crow.", {
      priority: 2,
      maxTokens: 20,
      sampling: sampled,
    });
    const undisturbed = await alone(request);
    // One row at a time.
    const limited = createEngine({ kvBytes: 256 * runtime.limits.tokenBytes });
    limited.submit(request);
    const answers = new Map<number, unknown[]>();
    for (let i = 0; i < 8; i++) for (const update of (await limited.step()).updates) note(answers, update);
    limited.submit(ask(2, "Why is the sky blue?", { priority: 0, maxTokens: 3 }));
    for (const [id, later] of await run(limited)) answers.set(id, [...(answers.get(id) ?? []), ...later]);
    expect(limited.counters.preemptions).toBe(1);
    expect(answers.get(1)).toEqual(undisturbed);
  });

  test.each([
    ["greedy, one that copies", COPY, GREEDY],
    ["sampled, one that copies", COPY, sampled],
    ["greedy, one that does not", "Write a poem about the sea.", GREEDY],
  ])("with its tokens guessed, one or several at once: %s", async (_, text, sampling) => {
    const request = ask(1, text, { maxTokens: 30, sampling });
    const plain = await alone(request);
    for (const speculationTokens of [1, 3]) {
      // A clock that stands still: the model of times is then the built-in guess, by which a guess pays.
      const engine = createEngine({ speculationTokens, now: () => 0 });
      engine.submit(request);
      expect((await run(engine)).get(1), `${speculationTokens} at once`).toEqual(plain);
      if (text === COPY && sampling === GREEDY) expect(engine.counters.acceptedTokens).toBeGreaterThan(10);
    }
  });
});

test("a thousand tokens that were seen before are not computed again", async () => {
  const shared = tokenizer.encodePrompt(SYSTEM).subarray(0, 1000);
  const request = (id: number): SequenceRequest => {
    const prompt = Int32Array.from([...shared, ...tokenizer.encodePrompt(` Visitor number ${id} asks for maps.`)]);
    return { id, prompt, maxTokens: 1, sampling: GREEDY };
  };
  expect(shared).toHaveLength(1000);
  const engine = createEngine();
  for (const id of [1, 2]) {
    engine.submit(request(id));
    await run(engine);
  }
  expect(engine.counters.prefixHitTokens).toBeGreaterThanOrEqual(1000);
});
