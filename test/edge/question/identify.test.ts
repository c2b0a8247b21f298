/** The identity's two promises, on generated questions: what means the same is the same, and what differs differs. */
import { assert, asyncProperty, dictionary, integer, jsonValue, string, uniqueArray } from "fast-check";
import { describe, expect, it } from "vitest";
import { canonicalQuestion, identify, type IdentityScope } from "../../../edge/question/identify.ts";
import { createWebCrypto } from "../../../edge/platform/web-crypto.ts";
import type { Question } from "../../../shared/completion-request.ts";

type Fields = Record<string, unknown>;

const messages = [{ role: "user", content: "hi" }];
const base = { model: "tiny", messages };
const scope: IdentityScope = { tenant: "acme", modelDigest: "m1", normalize: "off" };

function question(fields: Fields, path: Question["path"] = "/v1/chat/completions"): Question {
  return { path, request: fields } as unknown as Question;
}

const { mac } = createWebCrypto({ randomBytes: (length) => new Uint8Array(length) });

async function digest(asked: Question, where = scope): Promise<string> {
  return (await identify(await mac("k", "test"), asked, where)).digest;
}

/** The same JSON with every object's keys in reverse. */
function reversed(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(reversed);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .toReversed()
      .map(([key, inner]) => [key, reversed(inner)]),
  );
}

const WITHOUT_INFLUENCE = ["stream", "stream_options", "user", "metadata"];
const name = string({ minLength: 1, unit: "grapheme" }).filter(
  // The wire's parser drops `__proto__` before.
  (candidate) => ![...WITHOUT_INFLUENCE, "__proto__"].includes(candidate),
);
const fields = dictionary(name, jsonValue({ maxDepth: 4 }), { maxKeys: 6 }).map((extra): Fields =>
  Object.assign(extra, base),
);

describe("the identity of a question", () => {
  it("does not depend on the order of fields, at any depth", async () => {
    await assert(
      asyncProperty(fields, async (asked) => {
        const other = reversed(asked) as Fields;
        expect(await digest(question(other))).toBe(await digest(question(asked)));
      }),
    );
  });

  it("changes with every field that gets another value, known or not, however deep it lies", async () => {
    const deep = integer({ min: 0, max: 5 });
    await assert(
      asyncProperty(
        fields,
        name,
        deep,
        uniqueArray(string({ unit: "grapheme" }), { minLength: 2, maxLength: 2 }),
        async (asked, field, depth, values) => {
          const [one, two] = values.map((value) => {
            let inner: unknown = value;
            for (let level = 0; level < depth; level += 1) inner = level % 2 === 0 ? [inner] : { inner };
            return question({ ...asked, [field]: inner });
          });
          if (one === undefined || two === undefined) throw new Error("two values make two questions");
          expect(await digest(one)).not.toBe(await digest(two));
        },
      ),
    );
  });

  it("changes with every field that is left out", async () => {
    await assert(
      asyncProperty(fields, name, string(), async (asked, field, value) => {
        const { [field]: _, ...without } = asked;
        expect(await digest(question({ ...without, [field]: value }))).not.toBe(await digest(question(without)));
      }),
    );
  });

  it.each<[string, Fields]>([
    ["stream", { stream: true }],
    ["stream_options", { stream_options: { include_usage: true } }],
    ["user", { user: "u" }],
    ["metadata", { metadata: { a: "b" } }],
    ["a field that is null", { seed: null, stop: null }],
  ])("does not change with %s", async (_, extra) => {
    expect(await digest(question({ ...base, ...extra }))).toBe(await digest(question(base)));
  });

  it.each<[string, Fields]>([
    ["a temperature of 0", { temperature: 0 }],
    ["a default that is written out", { temperature: 1 }],
    ["a seed", { seed: 1 }],
    ["a system message", { messages: [{ role: "system", content: "be brief" }, ...messages] }],
    ["another role", { messages: [{ role: "system", content: "hi" }] }],
    ["a space more", { messages: [{ role: "user", content: "hi " }] }],
    ["another Unicode form of the same letters", { messages: [{ role: "user", content: "h\u00ed" }] }],
    ["a null deep inside", { messages: [{ role: "user", content: "hi", name: null }] }],
    ["a field nobody knows yet", { reasoning_effort: "low" }],
  ])("changes with %s", async (_, extra) => {
    expect(await digest(question({ ...base, ...extra }))).not.toBe(await digest(question(base)));
  });

  it("belongs to one tenant, model, route and key", async () => {
    const own = await digest(question(base));
    const others = await Promise.all([
      digest(question(base), { ...scope, tenant: "acm" }),
      digest(question(base), { ...scope, modelDigest: "m2" }),
      digest(question(base), { ...scope, tenant: 'acme","m1', modelDigest: "" }),
      digest(question(base), { ...scope, normalize: "unicode" }),
      digest(question(base), { ...scope, normalize: "space" }),
      digest(question(base, "/v1/completions")),
      identify(await mac("other", "test"), question(base), scope).then(({ digest: other }) => other),
    ]);
    expect(new Set([own, ...others]).size).toBe(others.length + 1);
  });

  it("is made from RFC 8785's canonical form (the RFC's own example)", () => {
    const text =
      '{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],' +
      '"string":"\\u20ac$\\u000F\\u000aA\'\\u0042\\u0022\\u005c\\\\\\"\\/","literals":[null,true,false]}';
    const canonical =
      '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],' +
      '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}';
    expect(canonicalQuestion(question(JSON.parse(text) as Fields))).toBe(canonical);
  });

  it("is refused to text that is not Unicode", () => {
    const asked = question({ ...base, messages: [{ role: "user", content: "\ud800" }] });
    expect(() => canonicalQuestion(asked)).toThrowError(expect.objectContaining({ code: "invalid_request" }));
  });
});
