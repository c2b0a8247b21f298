import { expect, test } from "vitest";
import { IsolateMemory } from "../../../edge/cache/memory.ts";
import type { KnownQuestion } from "../../../edge/question/known-question.ts";

const PATH = "/v1/chat/completions";
const SIZES = { isolateQuestionBytesMax: 1_000_000, isolateAnswerBytesMax: 1_000_000 };

function question(digest: string): KnownQuestion {
  const estimate = { promptTokens: 1, answerTokensMax: 1 };
  return { digest, form: { type: "json" }, modelId: "m", modelDigest: "d", estimate };
}

test("the same text is another question for another tenant and on another path", () => {
  const memory = new IsolateMemory(SIZES);
  memory.keepQuestion("a", PATH, "text", question("1"));
  memory.keepQuestion("b", PATH, "text", question("2"));
  memory.keepQuestion("a", "/v1/completions", "text", question("3"));
  expect(memory.question("a", PATH, "text")?.digest).toBe("1");
  expect(memory.question("b", PATH, "text")?.digest).toBe("2");
  expect(memory.question("a", "/v1/completions", "text")?.digest).toBe("3");
  expect(memory.question("c", PATH, "text")).toBeUndefined();
  expect(memory.question("a", PATH, "text ")).toBeUndefined();
});

test("no tenant's name reaches another tenant's question", () => {
  const memory = new IsolateMemory(SIZES);
  memory.keepQuestion("b", PATH, "text", question("1"));
  for (const name of ["", " b", `b ${PATH}`, `${PATH} b`, "b\0"]) {
    expect(memory.question(name, PATH, "text"), name).toBeUndefined();
  }
});

test("one text asked by a thousand tenants is remembered for the last of them, in bounded memory", () => {
  const memory = new IsolateMemory(SIZES);
  for (let tenant = 0; tenant < 1_000; tenant++) {
    memory.keepQuestion(`t${tenant}`, PATH, "hi", question(String(tenant)));
    expect(memory.question(`t${tenant}`, PATH, "hi")?.digest).toBe(String(tenant));
  }
  expect(memory.question("t0", PATH, "hi")).toBeUndefined();
});

test("a text that weighs more than the whole memory is not kept, and pushes nothing out", () => {
  const memory = new IsolateMemory({ ...SIZES, isolateQuestionBytesMax: 5_000 });
  memory.keepQuestion("a", PATH, "short", question("1"));
  memory.keepQuestion("a", PATH, "x".repeat(5_000), question("2"));
  expect(memory.question("a", PATH, "x".repeat(5_000))).toBeUndefined();
  expect(memory.question("a", PATH, "short")?.digest).toBe("1");
});
