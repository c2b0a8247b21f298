/**
 * The identity seen from the wire: whole requests as text, through the parser. The same request written in another way
 * is the same question; one field changed is another one.
 */
import {
  array,
  assert,
  asyncProperty,
  boolean,
  constantFrom,
  double,
  integer,
  option,
  oneof,
  record,
  string,
  type Arbitrary,
} from "fast-check";
import { describe, expect, it } from "vitest";
import { identify } from "../../../edge/question/identify.ts";
import { createWebCrypto } from "../../../edge/platform/web-crypto.ts";
import { parseCompletionRequest } from "../../../shared/completion-request.ts";

const { mac } = createWebCrypto({ randomBytes: (length) => new Uint8Array(length) });

async function digest(text: string): Promise<string> {
  const path = "/v1/chat/completions";
  const asked = { path, request: parseCompletionRequest(path, text) } as const;
  const scope = { tenant: "acme", modelDigest: "m1", normalize: "off" } as const;
  return (await identify(await mac("k", "test"), asked, scope)).digest;
}

const words = string({ unit: "grapheme", maxLength: 12 });
const nullable = <Value>(value: Arbitrary<Value>): Arbitrary<Value | null> => option(value, { freq: 8 });
const schema = record({
  type: constantFrom("object"),
  properties: record({ b: record({ type: constantFrom("string", "number") }), a: record({ description: words }) }),
});
const named = { name: constantFrom("look_up", "f-1") };

/** Every field that the wire knows and that can change an answer, with all its values. */
const FIELDS = {
  model: constantFrom("tiny", "small"),
  messages: array(
    oneof(
      record({ role: constantFrom("system", "user", "developer"), content: words }),
      record({
        role: constantFrom("user"),
        content: array(record({ type: constantFrom("text"), text: words }), { minLength: 1, maxLength: 3 }),
      }),
    ),
    { minLength: 1, maxLength: 3 },
  ),
  n: nullable(integer({ min: 1, max: 128 })),
  seed: nullable(integer({ min: -1000, max: 1e6 })),
  temperature: nullable(double({ min: 0, max: 2, noNaN: true })),
  top_p: nullable(double({ min: 0, max: 1, noNaN: true })),
  top_k: nullable(integer({ min: 0, max: 1000 })),
  min_p: nullable(double({ min: 0, max: 1, noNaN: true })),
  max_tokens: nullable(integer({ min: 1, max: 4096 })),
  stop: nullable(oneof(string({ minLength: 1 }), array(string({ minLength: 1 }), { minLength: 1, maxLength: 4 }))),
  presence_penalty: nullable(double({ min: -2, max: 2, noNaN: true })),
  frequency_penalty: nullable(double({ min: -2, max: 2, noNaN: true })),
  repetition_penalty: nullable(double({ min: 0.1, max: 2, noNaN: true })),
  logit_bias: nullable(record({ "11": integer({ min: -100, max: 100 }), "7": integer({ min: -100, max: 100 }) })),
  logprobs: nullable(boolean()),
  response_format: nullable(
    oneof(
      record({ type: constantFrom("text", "json_object") }),
      record({ type: constantFrom("json_schema"), json_schema: record({ ...named, schema }) }),
    ),
  ),
} as const;
/** Valid only together with others, so added where those are fixed. */
const TOOLS = array(
  record({ type: constantFrom("function"), function: record({ ...named, description: words, parameters: schema }) }),
  {
    minLength: 1,
    maxLength: 1,
  },
);
const requests = record(FIELDS) as Arbitrary<Readonly<Record<string, unknown>>>;

/** Lone surrogates are refused, and are tested elsewhere; `-0` is written as `0` by every client. */
const isSendable = (value: unknown): boolean => JSON.stringify(value).isWellFormed();

/** Choices of a writer, one after the other; the same again from its start. */
type Dice = () => number;
const dice = array(integer({ min: 0, max: 999 }), { minLength: 40, maxLength: 40 }).map((rolls): Dice => {
  let next = 0;
  return () => rolls[next++ % rolls.length] ?? 0;
});

/** The same JSON in another hand: white space, escapes, number forms, and the order of fields where it says nothing. */
function write(value: unknown, roll: Dice, ordered = false): string {
  const gap = ["", " ", "\n", "\t ", "\r\n"][roll() % 5] ?? "";
  if (typeof value === "string") return gap + writeText(value, roll) + gap;
  if (typeof value === "number") return gap + writeNumber(value, roll) + gap;
  if (Array.isArray(value)) return `${gap}[${value.map((each) => write(each, roll, ordered)).join(",")}${gap}]`;
  if (typeof value !== "object" || value === null) return gap + JSON.stringify(value);
  const entries = Object.entries(value);
  const shuffled = ordered
    ? entries
    : entries
        .map((entry) => ({ entry, at: roll() }))
        .toSorted((a, b) => a.at - b.at)
        .map(({ entry }) => entry);
  const members = shuffled.map(
    ([name, inner]) =>
      `${writeText(name, roll)}${gap}:${write(inner, roll, ordered || name === "tools" || name === "response_format")}`,
  );
  return `{${gap}${members.join(`,${gap}`)}}`;
}

function writeText(text: string, roll: Dice): string {
  const units = Array.from({ length: text.length }, (_, place) => {
    const unit = text.charAt(place);
    if (roll() % 3 !== 0) return /[\ud800-\udfff]/.test(unit) ? unit : JSON.stringify(unit).slice(1, -1);
    const hex = text.charCodeAt(place).toString(16).padStart(4, "0");
    return `\\u${roll() % 2 === 0 ? hex : hex.toUpperCase()}`;
  });
  return `"${units.join("")}"`;
}

function writeNumber(value: number, roll: Dice): string {
  const plain = JSON.stringify(value);
  const forms = [plain, value.toExponential(), value.toExponential().replace("e", "E")];
  if (Number.isInteger(value)) forms.push(`${plain}.0`, `${plain}e0`, `${plain}.000E+00`);
  return forms[roll() % forms.length] ?? plain;
}

function tool(name: string, properties: object): object {
  return { type: "function", function: { name, parameters: { type: "object", properties } } };
}

describe("a request written in another way", () => {
  it("is the same question: white space, escapes, forms of numbers, order, and fields that say nothing", async () => {
    await assert(
      asyncProperty(
        requests.filter(isSendable),
        TOOLS.filter(isSendable),
        dice,
        boolean(),
        async (request, tools, roll, withTools) => {
          const { response_format: _, logprobs: __, ...untold } = request;
          const asked = withTools ? { ...untold, tools } : request;
          const more = { stream: roll() % 2 === 0, user: "u", metadata: { a: roll() }, stream_options: null };
          const other = write({ ...asked, ...more }, roll);
          expect(await digest(other)).toBe(await digest(JSON.stringify(asked)));
        },
      ),
    );
  });

  it("is the same question with every kind of white space and number that there is", async () => {
    const plain = '{"model":"tiny","messages":[{"role":"user","content":"é🙂"}],"n":1,"temperature":1,"seed":10}';
    const other =
      '\r\n\t {"seed":1e1, "temperature" : 1.0,"n":10E-1,"messages":[{"content":"\\u00E9\\ud83d\\uDE42","role":"us\\u0065r"}],"model":"tiny"} ';
    expect(await digest(other)).toBe(await digest(plain));
  });
});

describe("a request that means something else", () => {
  it.each(Object.entries(FIELDS))("is another question: %s", async (field, values: Arbitrary<unknown>) => {
    await assert(
      asyncProperty(requests.filter(isSendable), values.filter(isSendable), async (asked, value) => {
        // `null` and left out are the same, 0 and -0 too: what JSON can tell apart is what counts.
        if (JSON.stringify(asked[field]) === JSON.stringify(value)) return;
        const other = { ...asked, [field]: value };
        expect(await digest(JSON.stringify(other))).not.toBe(await digest(JSON.stringify(asked)));
      }),
      { numRuns: 60 },
    );
  });

  it("is another question: tools, how they are chosen, and how many log probabilities", async () => {
    const base = { model: "tiny", messages: [{ role: "user", content: "hi" }] };
    const asked = [
      base,
      { ...base, tools: [tool("f", { a: {}, b: {} })] },
      { ...base, tools: [tool("f", { b: {}, a: {} })] },
      { ...base, tools: [tool("g", { a: {}, b: {} })] },
      { ...base, tools: [tool("f", {}), tool("g", {})] },
      { ...base, tools: [tool("g", {}), tool("f", {})] },
      { ...base, tools: [tool("f", {})], tool_choice: "required" },
      { ...base, tools: [tool("f", {})], tool_choice: { type: "function", function: { name: "f" } } },
      { ...base, tools: [tool("f", {})], parallel_tool_calls: false },
      { ...base, logprobs: true },
      { ...base, logprobs: true, top_logprobs: 1 },
      { ...base, logprobs: true, top_logprobs: 2 },
      { ...base, max_completion_tokens: 7 },
      { ...base, max_tokens: 7 },
      { ...base, min_tokens: 7 },
      { ...base, ignore_eos: true },
      { ...base, seed: 0 },
      { ...base, a_field_of_tomorrow: 1 },
    ].map((each) => digest(JSON.stringify(each)));
    expect(new Set(await Promise.all(asked)).size).toBe(asked.length);
  });
});
