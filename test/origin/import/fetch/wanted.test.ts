/** Names of what to fetch: which are understood how, what is kept of them, and what they can't be. */
import { describe, expect, test } from "vitest";
import { parseWanted, wantedModelName, wantedName } from "../../../../origin/import/fetch/wanted.ts";

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
])("%s is kept as %s and imported as %s", (name, kept, model) => {
  const wanted = parseWanted(name)!;
  expect([wantedName(wanted), wantedModelName(wanted)]).toEqual([kept, model]);
});

const named = (query: string) => wantedName(parseWanted(`https://example.org/m.gguf?X-Amz-Signature=${query}`)!);

test("of a query, which may be a signature, only a digest is kept", () => {
  expect(named("secret")).toMatch(/^https:\/\/example\.org\/m\.gguf\?[0-9a-f]{12}$/);
  expect(named("secret")).not.toBe(named("other"));
});

test.each(["gpt-5", "./a/b", "/a/b", "../a", "a/b/c", "a/", "/a", "", "a\\b", "models/..", "..", ".hidden/x"])(
  "%j can only be something local",
  (name) => expect(parseWanted(name)).toBeUndefined(),
);

describe("refuses, in one sentence, a name that can't be meant:", () => {
  test.each([
    ["hf:", /owner\/name/],
    ["hf:../x", /owner\/name/],
    ["ms:a/../b", /owner\/name/],
    ["hf:a/b@../../c", /owner\/name/],
    ["https://", /no URL/],
    ["https://user:secret@example.org/m.gguf", /can't hold a user or a password/],
    ["https://example.org/m.gguf#sha256=12", /64 hex digits/],
    ["https://example.org/m.gguf#part", /64 hex digits/],
    [`https://example.org/m/#sha256=${DIGEST}`, /a folder has no digest/],
  ])("%s", (name, message) => {
    expect(() => parseWanted(name)).toThrow(message);
    expect(() => parseWanted(name)).not.toThrow(/secret/);
  });
});
