/** Model references: how names are parsed, the names that they are stored under, and names that are refused. */
import { describe, expect, test } from "vitest";
import { parseReference, referencedModelName, referenceName } from "../../../../origin/import/fetch/reference.ts";

const DIGEST = "ab".repeat(32);

test.each([
  ["smollm2-135m-instruct", "smollm2-135m-instruct", "smollm2-135m-instruct"],
  ["Qwen/Qwen3-0.6B", "hf:Qwen/Qwen3-0.6B", "qwen3-0.6b"],
  ["hf:Qwen/Qwen3-0.6B", "hf:Qwen/Qwen3-0.6B", "qwen3-0.6b"],
  ["ms:Qwen/Qwen3-0.6B@v1.0", "ms:Qwen/Qwen3-0.6B@v1.0", "qwen3-0.6b-v1.0"],
  ["a/b-GGUF:Q8_0", "hf:a/b-GGUF:Q8_0", "b-gguf-q8_0"],
  ["a/b:sub/c.gguf@refs/pr/3", "hf:a/b:sub/c.gguf@refs/pr/3", "b-sub-c.gguf-refs-pr-3"],
  ["https://example.org/x/M.gguf", "https://example.org/x/M.gguf", "m"],
  ["https://example.org/x/model/", "https://example.org/x/model/", "model"],
  [`https://example.org/M.gguf#sha256=${DIGEST.toUpperCase()}`, `https://example.org/M.gguf#sha256=${DIGEST}`, "m"],
  ["s3://bucket/models/M.gguf", "s3://bucket/models/M.gguf", "m"],
])("%s is stored as %s and imported as %s", (name, stored, model) => {
  const reference = parseReference(name)!;
  expect([referenceName(reference), referencedModelName(reference)]).toEqual([stored, model]);
});

const named = (query: string) => referenceName(parseReference(`https://example.org/m.gguf?X-Amz-Signature=${query}`)!);

test("replaces a query, which may be a signature, by its digest", () => {
  expect(named("secret")).toMatch(/^https:\/\/example\.org\/m\.gguf\?[0-9a-f]{12}$/);
  expect(named("secret")).not.toBe(named("other"));
});

test.each(["gpt-5", "./a/b", "/a/b", "../a", "a/b/c", "a/", "/a", "", "a\\b", "models/..", "..", ".hidden/x"])(
  "%j is no reference, so it can only be a local name",
  (name) => expect(parseReference(name)).toBeUndefined(),
);

describe("refuses, in one sentence, the malformed reference", () => {
  test.each([
    ["hf:", /owner\/name/],
    ["hf:../x", /owner\/name/],
    ["ms:a/../b", /owner\/name/],
    ["hf:a/b@../../c", /owner\/name/],
    ["https://", /not a valid URL/],
    ["https://user:secret@example.org/m.gguf", /must not contain a user or password/],
    ["https://example.org/m.gguf#sha256=12", /64 hex digits/],
    ["https://example.org/m.gguf#part", /64 hex digits/],
    [`https://example.org/m/#sha256=${DIGEST}`, /a folder has no digest/],
  ])("%s", (name, message) => {
    expect(() => parseReference(name)).toThrow(message);
    expect(() => parseReference(name)).not.toThrow(/secret/);
  });
});
