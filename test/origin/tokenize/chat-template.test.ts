/** Published chat templates and single features against transformers; the fixture says how it was made. */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { ChatTemplate } from "../../../origin/tokenize/chat-template.ts";

interface Fixture {
  readonly conversations: readonly { readonly messages: readonly object[]; readonly tools: readonly object[] }[];
  readonly templates: readonly {
    readonly name: string;
    readonly template: string;
    readonly names: Readonly<Record<string, string>>;
    /** By conversation; of a feature, the first and the fourth only. */
    readonly rendered: readonly (string | { readonly error: string })[];
  }[];
}

const path = new URL("chat-template.fixture.json", import.meta.url);
const { conversations, templates } = JSON.parse(readFileSync(path, "utf8")) as Fixture;
const now = () => new Date(2026, 2, 7, 9, 5, 2);

describe.each(templates)("$name", ({ template, names, rendered }) => {
  const chat = new ChatTemplate({ source: template, names, now });
  const asked = rendered.length === conversations.length ? conversations : [conversations[0]!, conversations[3]!];
  test.each(rendered.map((wanted, i) => ({ wanted, said: asked[i]! })))(
    "renders what transformers does, %$",
    (each) => {
      const { wanted, said } = each;
      if (typeof wanted === "string") expect(chat.render(said)).toBe(wanted);
      else expect(() => chat.render(said)).toThrow(wanted.error);
    },
  );
});

function render(source: string, said: Partial<Fixture["conversations"][number]> = {}): string {
  const chat = new ChatTemplate({ source, names: {}, now });
  return chat.render({ messages: [{ role: "user", content: "x" }], tools: [], ...said });
}

describe("a template that", () => {
  const nest = "{% for a in range(1000) %}".repeat(3) + "{% endfor %}".repeat(3);
  const double = "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}";
  const grow = "{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}";
  test.each([
    ["loops for ever", nest, /more than \d+ steps/],
    [
      "goes through a long list again and again",
      "{% for a in range(999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
      /steps/,
    ],
    ["doubles a text for ever", double, /far more text/],
    ["doubles a list for ever", grow, /far more text/],
    ["counts too far", "{% for a in range(9999999999) %}{% endfor %}", /counts too far/],
    ["counts by nothing", "{% for a in range(0, 9, 0) %}{% endfor %}", /counts too far/],
    ["calls itself for ever", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", /nests too deeply/],
    ["throws", "{{ raise_exception('not ' ~ 'this') }}", /^not this$/],
    ["asks for what there is not", "{{ cycler(1) }}", /not a function/],
  ])("%s is an error", (_, source, reason) => expect(() => render(source)).toThrow(reason));

  test("can't be parsed is an error, and so is one that is far too long", () => {
    for (const source of ["{% if %}", "{{", "{% for x in y %}", " ".repeat(2_000_000), "{{ " + "(".repeat(99_999)]) {
      expect(() => new ChatTemplate({ source, names: {}, now })).toThrow();
    }
  });

  test("leaves its loops early is no deeper for it", () => {
    const source = "{% for a in range(5000) %}{% if a > 1 %}{% continue %}{% endif %}{{ a }}{% endfor %}";
    expect(render(source)).toBe("01");
  });

  test("goes over a long conversation may take the more steps and make the more text", () => {
    const messages = Array.from({ length: 20_000 }, (_, i) => ({ role: "user", content: `message ${i}` }));
    const text = render("{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}\n{% endif %}{% endfor %}", {
      messages,
    });
    expect(text.split("\n")).toHaveLength(20_001);
  });
});
