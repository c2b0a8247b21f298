/**
 * Everything at once, on a real runtime with real grammars: rows that keep to a schema, guessed tokens, rows taken away
 * and given back, prompts cut and cached, and requests that leave. What is given must be what each request gets alone,
 * without any of it: tokens, and their log probabilities to the last bit. Seeded; a failure names its seed.
 */
import { afterAll, beforeAll, expect, test } from "vitest";
import { Engine, type EngineOptions, type SequenceUpdate } from "../../../origin/engine/engine.ts";
import { createRandom } from "../../../origin/engine/random.ts";
import type { Priority, SequenceRequest } from "../../../origin/engine/sequence.ts";
import { type GrammarLease, GrammarService } from "../../../origin/grammar/service.ts";
import { readManifest } from "../../../origin/manifest/manifest.ts";
import { createRuntime } from "../../../origin/runtime/create-runtime.ts";
import type { Runtime } from "../../../origin/runtime/port/runtime.ts";
import { loadTokenizer } from "../../../origin/tokenize/tokenizer.ts";
import { ENGINE_OPTIONS } from "../../fakes/engine-options.ts";
import { GREEDY } from "../../fakes/greedy.ts";
import { TinyModels } from "../runtime/tiny-model.ts";

/** Lists that repeat themselves, so that a random model's answer can be guessed. */
const SCHEMA = { type: "array", items: { enum: ["one", "two", true] }, minItems: 4, maxItems: 9 };
const SEEDS = Array.from({ length: 12 }, (_, i) => 1 + i);
const CAPACITY = 256;
/** Those of which it is promised, in turn. */
const FORMATS = ["int8-rotated", "int8-rows"] as const;

const models = new TinyModels();
const runtimes: Runtime[] = [];
let runtime: Runtime;
let endTokens: readonly number[];
let grammars: GrammarService;
let lease: GrammarLease;

beforeAll(async () => {
  const folders = await Promise.all(FORMATS.map((format) => models.import(format, format)));
  for (const folder of folders) {
    runtimes.push(await createRuntime({ backend: "capi", folder, slots: 3, capacity: CAPACITY, threads: 1 }));
  }
  const [folder = ""] = folders;
  const { tokens } = readManifest(folder);
  endTokens = tokens.ends;
  grammars = new GrammarService({
    vocabulary: loadTokenizer(folder, tokens).listVocabulary(),
    vocabSize: runtimes[0]!.limits.vocabSize,
    endTokens,
    threadsMax: 1,
    compileMs: 60_000,
    bytesMax: 2 ** 28,
  });
  const spec = { type: "json_schema", schema: JSON.stringify(SCHEMA), closed: true } as const;
  lease = await grammars.lease(spec, new AbortController().signal);
});
afterAll(async () => {
  lease[Symbol.dispose]();
  await grammars.stop();
  for (const each of runtimes) each[Symbol.dispose]();
  models[Symbol.dispose]();
});

interface Asked {
  readonly request: SequenceRequest;
  readonly grammar: boolean;
}

function createEngine(options: Partial<EngineOptions>): Engine {
  runtime.resize({ slots: 0, capacity: 0, kept: [] });
  return new Engine({ ...ENGINE_OPTIONS, runtime, endTokens, maskWaitMs: 60_000, ...options });
}

/** Each submission has a grammar of its own, which begins at the answer's beginning. */
function submit(engine: Engine, { request, grammar }: Asked): void {
  engine.submit(grammar ? { ...request, mask: lease.open() } : request);
}

async function alone(asked: Asked): Promise<SequenceUpdate[]> {
  const engine = createEngine({});
  submit(engine, asked);
  const updates: SequenceUpdate[] = [];
  while (engine.busy) updates.push(...(await engine.step()).updates);
  return updates;
}

/** How many tokens the prefix cache had is not the answer's. */
function answerOf(updates: readonly SequenceUpdate[]) {
  return updates.map(({ token, status, logprobs }) => ({ token, status, logprobs }));
}

const seen = { preemptions: 0, acceptedTokens: 0, draftedTokens: 0, prefixHits: 0 };

test.each(SEEDS)("changes no answer, seed %i", async (seed) => {
  runtime = runtimes[seed % runtimes.length]!;
  const random = createRandom(seed);
  const below = (limit: number) => Math.floor(random() * limit);
  const opening = Array.from({ length: 40 }, () => below(200));
  const asked = Array.from({ length: 7 }, (_, i): Asked => {
    const sampling = random() < 0.6 ? GREEDY : { ...GREEDY, temperature: 0.7, seed: below(1000) };
    const prompt = Int32Array.from([...opening.slice(0, below(2) * 40), 1 + i, ...opening.slice(0, 2 + below(9))]);
    const priority = [2, 1, 0][Math.floor(i / 3)] as Priority;
    return {
      request: { id: i + 1, prompt, maxTokens: 20 + below(30), sampling, priority, logprobs: 1 },
      grammar: random() < 0.5,
    };
  });
  const expected = new Map<number, SequenceUpdate[]>();
  for (const one of asked) expected.set(one.request.id, await alone(one));

  const engine = createEngine({
    speculationTokens: 3,
    prefillChunkTokens: 2 + below(20),
    prefixCacheBytes: 200 * runtime.limits.tokenBytes,
    // Two rows of the shortest slot there is: the third waits, or takes one away.
    kvBytes: 2 * CAPACITY * runtime.limits.tokenBytes,
  });
  const given = new Map<number, SequenceUpdate[]>(asked.map(({ request }) => [request.id, []]));
  const cancelled = new Set<number>();
  const waiting = [...asked];
  for (let step = 0; engine.busy || waiting.length > 0; step++) {
    if (step > 2_000) throw new Error("somebody starves");
    const next = step % 4 === 0 ? waiting.shift() : undefined;
    if (next !== undefined) submit(engine, next);
    if (random() < 0.02) {
      const leaving = 1 + below(asked.length - waiting.length);
      cancelled.add(leaving);
      engine.cancel(leaving);
    }
    for (const update of (await engine.step()).updates) given.get(update.id)?.push(update);
  }
  for (const { request } of asked) {
    const [actual, whole] = [answerOf(given.get(request.id) ?? []), answerOf(expected.get(request.id) ?? [])];
    const wanted = cancelled.has(request.id) ? whole.slice(0, actual.length) : whole;
    expect(actual, `request ${request.id}`).toEqual(wanted);
  }
  for (const name of Object.keys(seen) as (keyof typeof seen)[]) seen[name] += engine.counters[name];
});

test("has put all of it to the test", () => {
  expect(seen.preemptions).toBeGreaterThan(5);
  expect(seen.prefixHits).toBeGreaterThan(5);
  expect(seen.acceptedTokens).toBeGreaterThan(20);
  expect(seen.draftedTokens).toBeGreaterThan(seen.acceptedTokens);
});
