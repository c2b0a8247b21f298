/** Which spellings count as the same: never more than was asked for, and the origin is asked the client's own. */
import { assert, constantFrom, property, string } from "fast-check";
import { describe, expect, it } from "vitest";
import type { Question } from "../../../shared/completion-request.ts";
import { NORMALIZATIONS, type Normalization, normalizeQuestion } from "../../../shared/normalize.ts";
import { ask, chat, createStack } from "../stack.ts";

function chatOf(content: string): Question {
  return { path: "/v1/chat/completions", request: { model: "tiny", messages: [{ role: "user", content }] } };
}

function spelled(content: string, how: Normalization): unknown {
  const { path, request } = normalizeQuestion(chatOf(content), how);
  return path === "/v1/chat/completions" ? request.messages[0]?.content : undefined;
}

describe("a normalised question", () => {
  it.each<[string, string, string, readonly Normalization[]]>([
    ["composed and decomposed letters", "caf\u00e9", "cafe\u0301", ["unicode", "width", "space"]],
    ["Hangul syllables and their letters", "\ud55c", "\u1112\u1161\u11ab", ["unicode", "width", "space"]],
    ["full-width letters and digits", "ＧＰＵ１２", "GPU12", ["width", "space"]],
    ["full-width Chinese punctuation", "你好，世界！（真的？）", "你好,世界!(真的?)", ["width", "space"]],
    ["the ideographic space", "你　好", "你 好", ["width", "space"]],
    ["half-width katakana with its voicing mark", "ｶﾞｽ", "ガス", ["width", "space"]],
    ["outer white space, the ideographic too", "　\n 你好 \t", "你好", ["space"]],
    ["inner white space", "a  b", "a b", []],
    ["letters in circles, superscripts and ligatures", "①²ﬁ", "12fi", []],
    ["Chinese punctuation that has no width form", "你好。“是”", '你好."是"', []],
    ["upper and lower case", "GPU", "gpu", []],
    ["simplified and traditional characters", "热", "熱", []],
  ])("%s", (_, one, other, same) => {
    expect(NORMALIZATIONS.filter((how) => spelled(one, how) === spelled(other, how))).toEqual(same);
  });

  it("is its own normal form", () => {
    const text = string({ unit: "binary", maxLength: 30 });
    const width = string({ unit: constantFrom(...Array.from("ｶﾞﾊﾟＡ！　￣ﾡ가́ か\u3099")), maxLength: 12 });
    for (const how of NORMALIZATIONS) {
      for (const kind of [text, width]) {
        assert(
          property(kind, (content) => {
            const once = spelled(content, how) as string;
            expect(spelled(once, how)).toBe(once);
          }),
        );
      }
    }
  });

  it("keeps the white space between a message's parts, and a prompt's own", () => {
    const content = [" a ", " b "].map((text) => ({ type: "text", text }) as const);
    const asked: Question = {
      path: "/v1/chat/completions",
      request: { model: "tiny", messages: [{ role: "user", content }] },
    };
    expect(normalizeQuestion(asked, "space").request).toMatchObject({
      messages: [{ content: [{ text: "a " }, { text: " b" }] }],
    });
    const prompt: Question = { path: "/v1/completions", request: { model: "tiny", prompt: " Ａ " } };
    expect(normalizeQuestion(prompt, "space").request).toMatchObject({ prompt: " A " });
    const several: Question = { path: "/v1/completions", request: { model: "tiny", prompt: ["Ａ", "b "] } };
    expect(normalizeQuestion(several, "width").request).toMatchObject({ prompt: ["A", "b "] });
    const ids: Question = { path: "/v1/completions", request: { model: "tiny", prompt: [65, 66] } };
    expect(normalizeQuestion(ids, "space")).toEqual(ids);
  });

  it("touches no tool, schema or stop string", () => {
    const code = {
      stop: ["Ａ "],
      response_format: { type: "json_schema", json_schema: { name: "a", schema: { const: "Ａ" } } },
    };
    const asked = { path: "/v1/chat/completions", request: { ...chatOf("x").request, ...code } } as Question;
    expect(normalizeQuestion(asked, "space").request).toEqual(asked.request);
  });
});

it("shares one answer between spellings where the operator wants that, and asks the client's own words", async () => {
  const on = createStack({ bindings: { COLDPATH_NORMALIZE: "space" } });
  const first = await ask(on, chat(" 你好，世界？"));
  const second = await ask(on, chat("你好,世界?\n"));
  expect(await second.text()).toBe(await first.text());
  expect([first, second].map(({ headers }) => headers.get("x-cache"))).toEqual(["MISS", "HIT"]);
  expect(on.origin.asked.map(({ body }) => body["messages"])).toEqual([[{ role: "user", content: " 你好，世界？" }]]);
  // The isolate knows each body's own text: the next one asks nobody and is the same answer still.
  expect((await ask(on, chat("你好,世界?\n"))).headers.get("x-cache")).toBe("HIT");
  expect((await ask(on, chat("你好，世界"))).headers.get("x-cache")).toBe("MISS");

  const off = createStack();
  await (await ask(off, chat("Ａ"))).text();
  expect((await ask(off, chat("A"))).headers.get("x-cache")).toBe("MISS");
});
