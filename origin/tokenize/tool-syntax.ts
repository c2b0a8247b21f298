/**
 * How models write a call of a tool: the few ways that are known, which of them a chat template teaches, and the grammar
 * that keeps a model to it. Knows no requests and no streams.
 *
 * Source: the chat templates of Qwen 2.5 and Hermes 2 Pro (`<tool_call>`), and of Llama 3.1 (bare JSON).
 */
import type { Tool } from "../../shared/completion-request.ts";
import type { GrammarSpec } from "../grammar/messages.ts";

/** A call is `begin(name)`, the arguments as a JSON object, and `end`. */
export interface ToolSyntax {
  /** What every call begins with, and no other text should. */
  readonly trigger: string;
  begin(name: string): string;
  readonly end: string;
  /** Between two calls; `undefined` where a model makes one at most. */
  readonly separator: string | undefined;
}

const HERMES: ToolSyntax = {
  trigger: "<tool_call>",
  begin: (name) => `<tool_call>\n{"name": "${name}", "arguments": `,
  end: "}\n</tool_call>",
  separator: "\n",
};

const LLAMA_3: ToolSyntax = {
  trigger: '{"name": "',
  begin: (name) => `{"name": "${name}", "parameters": `,
  end: "}",
  separator: undefined,
};

const PROBE = "coldpath_probe";

/** A conversation with a tool, a call of it and its answer, in the form that templates take. */
const PROBE_TOOLS = [
  { type: "function", function: { name: PROBE, description: "x", parameters: { type: "object", properties: {} } } },
];
const PROBE_MESSAGES = [
  { role: "user", content: "x" },
  {
    role: "assistant",
    content: "",
    tool_calls: [{ id: "call_000000", type: "function", function: { name: PROBE, arguments: { x: 1 } } }],
  },
];

/**
 * The way in which a template writes calls down, which is how its model was taught to.
 *
 * @param render - renders the template; may throw
 * @returns `undefined` for a template that does not tell of tools, or writes calls in an unknown way
 */
export function findToolSyntax(
  render: (messages: readonly object[], tools: readonly object[]) => string,
): ToolSyntax | undefined {
  try {
    const told = render(PROBE_MESSAGES.slice(0, 1), PROBE_TOOLS).includes(PROBE);
    const written = render(PROBE_MESSAGES, PROBE_TOOLS);
    return told ? [HERMES, LLAMA_3].find((syntax) => written.includes(syntax.begin(PROBE))) : undefined;
  } catch {
    // A template that can't render tools has its own words for it; here it only means that there are none.
    return undefined;
  }
}

export interface ToolUse {
  readonly tools: readonly Tool[];
  /** Whether the answer must be a call, or may be text. */
  readonly required: boolean;
  /** Whether there may be several calls. */
  readonly parallel: boolean;
}

/** The grammar of an answer that may or must call tools: free text but for the calls, whose arguments keep to schemas. */
export function toolGrammar(syntax: ToolSyntax, { tools, required, parallel }: ToolUse): GrammarSpec {
  const tags = tools.map(({ function: { name, parameters } }) => ({
    type: "tag",
    begin: syntax.begin(name),
    content: { type: "json_schema", json_schema: { type: "object", ...parameters } },
    end: syntax.end,
  }));
  const once = !parallel || syntax.separator === undefined;
  const format = required
    ? {
        type: "tags_with_separator",
        tags,
        separator: syntax.separator ?? "",
        at_least_one: true,
        stop_after_first: once,
      }
    : { type: "triggered_tags", triggers: [syntax.trigger], tags, stop_after_first: once };
  return { type: "structural_tag", tag: JSON.stringify({ type: "structural_tag", format }) };
}
