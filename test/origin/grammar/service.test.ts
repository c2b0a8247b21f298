/** Grammars on their real engine and threads: what may come next, hostile schemas, and threads that are lost. */
import { afterAll, beforeAll, describe, expect, inject, onTestFinished, test } from "vitest";
import { MaskReader } from "../../../origin/engine/mask-channel.ts";
import { createRandom } from "../../../origin/engine/random.ts";
import type { GrammarSpec } from "../../../origin/grammar/messages.ts";
import { type GrammarLease, GrammarService, type GrammarServiceOptions } from "../../../origin/grammar/service.ts";
import { readManifest } from "../../../origin/manifest/manifest.ts";
import { loadTokenizer } from "../../../origin/tokenize/tokenizer.ts";
import { BYTE_VOCAB_SIZE, IM_END } from "../../fakes/byte-tokenizer.ts";
import { createGrammars } from "../../fakes/origin.ts";

const CALM = new AbortController().signal;
const WAIT_MS = 20_000;

const jsonSchema = (schema: unknown, closed = true): GrammarSpec => ({
  type: "json_schema",
  schema: JSON.stringify(schema),
  closed,
});
const PERSON = {
  type: "object",
  properties: { name: { type: "string", pattern: "^[a-z]{2,5}$" }, age: { type: "integer", minimum: 0, maximum: 150 } },
  required: ["name", "age"],
  additionalProperties: false,
};

function start(options: Partial<GrammarServiceOptions> = {}): GrammarService {
  const service = createGrammars(options);
  onTestFinished(() => service.stop());
  return service;
}

function allowed(mask: Int32Array | undefined, vocabSize = BYTE_VOCAB_SIZE): number[] {
  return Array.from({ length: vocabSize }, (_, id) => id).filter(
    (id) => (((mask?.[id >> 5] ?? 0) >>> (id & 31)) & 1) === 1,
  );
}

/** Goes on by tokens that the masks allow, chosen at random, until an end token is; the tokens before it. */
function walk(
  lease: GrammarLease,
  seed: number,
  { ends = [IM_END], vocabSize = BYTE_VOCAB_SIZE, max = 300 } = {},
): number[] {
  const reader = new MaskReader(lease.open());
  const random = createRandom(seed);
  const said: number[] = [];
  while (said.length < max) {
    const choices = allowed(reader.read(WAIT_MS), vocabSize);
    expect(choices.length, `after ${said.join()}`).toBeGreaterThan(0);
    const end = choices.find((id) => ends.includes(id));
    if (end !== undefined) return said;
    const token = choices[Math.floor(random() * choices.length)] ?? 0;
    said.push(token);
    reader.tell(token);
  }
  return said;
}

const textOf = (tokens: readonly number[]) => new TextDecoder().decode(Uint8Array.from(tokens));

describe("a grammar", () => {
  const service = createGrammars();
  afterAll(() => service.stop());

  test("lets only what fits its schema be said, whatever is chosen", async () => {
    using lease = await service.lease(jsonSchema(PERSON), CALM);
    for (let seed = 0; seed < 20; seed++) {
      const person = JSON.parse(textOf(walk(lease, seed))) as { name: string; age: number };
      expect(Object.keys(person)).toEqual(["name", "age"]);
      expect(person.name).toMatch(/^[a-z]{2,5}$/);
      expect(person.age).toSatisfy((age: number) => Number.isInteger(age) && age >= 0 && age <= 150);
    }
  });

  test.each([
    [
      "a choice",
      { enum: ["red", "grün", "🙂", 5, null] },
      (value: unknown) => ["red", "grün", "🙂", 5, null].includes(value as string),
    ],
    ["a constant", { const: { a: [1] } }, (value: unknown) => JSON.stringify(value) === '{"a":[1]}'],
    [
      "a list with bounds",
      { type: "array", items: { type: "boolean" }, minItems: 2, maxItems: 3 },
      (value: unknown) => Array.isArray(value) && value.length >= 2 && value.length <= 3,
    ],
    [
      "one of several",
      { anyOf: [{ type: "boolean" }, { type: "null" }] },
      (value: unknown) => value === null || typeof value === "boolean",
    ],
    ["parts by reference", { $ref: "#/$defs/x", $defs: { x: { const: 7 } } }, (value: unknown) => value === 7],
  ])("keeps to %s", async (_, schema, fits) => {
    using lease = await service.lease(jsonSchema(schema), CALM);
    for (let seed = 0; seed < 10; seed++) expect(JSON.parse(textOf(walk(lease, seed)))).toSatisfy(fits);
  });

  test("is kept by each of its sequences apart", async () => {
    using lease = await service.lease(jsonSchema({ enum: ["aa", "bb"] }), CALM);
    const [one, other] = [new MaskReader(lease.open()), new MaskReader(lease.open())];
    for (const reader of [one, other]) {
      reader.read(WAIT_MS);
      reader.tell(34);
      reader.read(WAIT_MS);
    }
    one.tell(97);
    other.tell(98);
    expect(allowed(one.read(WAIT_MS))).toEqual([97]);
    expect(allowed(other.read(WAIT_MS))).toEqual([98]);
  });

  test("is compiled once for many who ask at the same time, and again for nobody", async () => {
    const threads = start({ threadsMax: 4 });
    const spec = jsonSchema({ const: 1 });
    const leases = await Promise.all(Array.from({ length: 8 }, () => threads.lease(spec, CALM)));
    expect(threads.threads).toBe(1);
    for (const lease of leases) lease[Symbol.dispose]();
    using again = await threads.lease(spec, CALM);
    expect(textOf(walk(again, 1))).toBe("1");
    expect(threads.threads).toBe(1);
  });
});

describe("the real model's vocabulary", () => {
  const folder = inject("modelFolder");
  const { tokens, architecture } = readManifest(folder);
  const tokenizer = loadTokenizer(folder, tokens);
  let service: GrammarService;
  beforeAll(() => {
    const vocabulary = tokenizer.listVocabulary();
    service = createGrammars({ vocabulary, vocabSize: architecture.vocabSize, endTokens: tokens.ends });
  });
  afterAll(() => service.stop());

  test("says valid JSON with tokens of any length, Chinese characters in pieces too, and never a control token", async () => {
    const schema = {
      type: "object",
      properties: { 名前: { enum: ["北京市", "👩‍👩‍👧"] }, n: { type: "integer" } },
      required: ["名前", "n"],
      additionalProperties: false,
    };
    using lease = await service.lease(jsonSchema(schema), CALM);
    for (let seed = 0; seed < 10; seed++) {
      const said = walk(lease, seed, { ends: [...tokens.ends], vocabSize: architecture.vocabSize });
      const detokenizer = tokenizer.createDetokenizer({ continues: false });
      const text = said.map((id) => detokenizer.push(id)).join("") + detokenizer.flush();
      const value = JSON.parse(text) as Record<string, unknown>;
      expect(["北京市", "👩‍👩‍👧"]).toContain(value["名前"]);
      expect(said.every((id) => tokenizer.spell(id).bytes !== undefined)).toBe(true);
    }
  });
});

describe("refused, with a reason, and the next one works", () => {
  const service = createGrammars();
  afterAll(() => service.stop());

  test.each([
    ["a type that does not exist", { type: "wizard" }, /wizard/],
    ["a range that is empty", { type: "integer", minimum: 5, maximum: 1 }, /minimum greater than maximum/],
    ["a reference to nowhere", { $ref: "#/nope" }, /nope/],
    ["a reference to itself", { $ref: "#" }, /no answer can satisfy/],
    [
      "references in a ring",
      { $ref: "#/$defs/a", $defs: { a: { $ref: "#/$defs/b" }, b: { $ref: "#/$defs/a" } } },
      /no answer/,
    ],
    ["a choice of nothing", { enum: [] }, /./],
    ["a broken expression", { type: "string", pattern: "[" }, /Unclosed/],
    ["an expression that looks ahead", { type: "string", pattern: "(?=x)y" }, /Lookahead/],
  ])("%s", async (_, schema, reason) => {
    const spec = jsonSchema(schema);
    for (let round = 0; round < 2; round++) {
      await expect(service.lease(spec, CALM)).rejects.toMatchObject({
        reason: "refused",
        message: expect.stringMatching(reason),
      });
    }
    using lease = await service.lease(jsonSchema({ const: "fine" }), CALM);
    expect(textOf(walk(lease, 1))).toBe('"fine"');
  });

  test("what is deeper than its stack", async () => {
    let schema: object = { type: "string" };
    for (let depth = 0; depth < 2000; depth++) schema = { type: "object", properties: { a: schema }, required: ["a"] };
    await expect(service.lease(jsonSchema(schema), CALM)).rejects.toMatchObject({ reason: "refused" });
  });

  test("what takes too long, and its thread is not waited for", async () => {
    const hasty = start({ compileMs: 300 });
    // Compiling is quadratic in the properties: 500 take 0.4 s, 4,000 take 5 s, these some 20.
    const properties = Object.fromEntries(Array.from({ length: 8_000 }, (_, i) => [`p${i}`, { type: "string" }]));
    const startedMs = performance.now();
    const slow = hasty.lease(jsonSchema({ type: "object", properties, additionalProperties: false }), CALM);
    await expect(slow).rejects.toMatchObject({ reason: "refused", message: expect.stringContaining("300 ms") });
    expect(performance.now() - startedMs).toBeLessThan(10_000);
    expect(hasty.threads).toBe(0);
  });

  test("what takes too much memory", async () => {
    const small = start({ bytesMax: 1 });
    await expect(small.lease(jsonSchema({ const: 1 }), CALM)).rejects.toMatchObject({
      reason: "refused",
      message: expect.stringContaining("memory"),
    });
    expect(small.threads).toBe(0);
  });
});

describe("a thread", () => {
  test("compiles only while no row depends on it; who must wait too long is told to come again", async () => {
    const service = start({ threadsMax: 1, compileMs: 1_500 });
    const lease = await service.lease(jsonSchema({ const: 1 }), CALM);
    const reader = new MaskReader(lease.open());
    await expect(service.lease(jsonSchema({ const: 2 }), CALM)).rejects.toMatchObject({ reason: "busy" });
    expect(allowed(reader.read(WAIT_MS))).toEqual(["1".charCodeAt(0)]);

    const waiting = service.lease(jsonSchema({ const: 3 }), CALM);
    lease[Symbol.dispose]();
    using next = await waiting;
    expect(textOf(walk(next, 1))).toBe("3");
  });

  test("that is ended closes the channels of its rows at once: nobody waits for a mask that can't come", async () => {
    const service = start();
    const lease = await service.lease(jsonSchema({ type: "string" }), CALM);
    const reader = new MaskReader(lease.open());
    expect(reader.read(WAIT_MS)).toBeDefined();
    await service.stop();
    const startedMs = performance.now();
    reader.tell(34);
    expect(reader.read(WAIT_MS)).toBeUndefined();
    expect(performance.now() - startedMs).toBeLessThan(1_000);
  });

  test("closes the channel of a token that the grammar does not allow", async () => {
    using lease = await start().lease(jsonSchema({ const: 1 }), CALM);
    const reader = new MaskReader(lease.open());
    reader.read(WAIT_MS);
    reader.tell("x".charCodeAt(0));
    expect(reader.read(WAIT_MS)).toBeUndefined();
  });

  test("is not waited for by who has gone: the compilation goes on for the next", async () => {
    const service = start();
    const leaving = new AbortController();
    const gone = service.lease(jsonSchema({ const: 4 }), leaving.signal);
    leaving.abort();
    await expect(gone).rejects.toThrow("aborted");
    using lease = await service.lease(jsonSchema({ const: 4 }), CALM);
    expect(textOf(walk(lease, 1))).toBe("4");
    expect(service.threads).toBe(1);
  });
});
