/** The fields of a `POST /v1/responses` request that its response repeats. Knows nothing of answers. */
import type { ResponseRequest } from "../../shared/response-request.ts";

/** These fields as JSON: one text, so that forms can be compared and kept. */
export type ResponseSettings = string;

export function settingsOf(request: ResponseRequest): ResponseSettings {
  const { instructions, max_output_tokens, metadata, parallel_tool_calls, temperature, top_p } = request;
  const { text, tools, tool_choice, top_logprobs, user } = request;
  return JSON.stringify({
    instructions: instructions ?? null,
    max_output_tokens: max_output_tokens ?? null,
    metadata: metadata ?? {},
    parallel_tool_calls: parallel_tool_calls ?? true,
    // null where the request has none: the origin's own default is not known here.
    temperature: temperature ?? null,
    text: { format: text?.format ?? { type: "text" } },
    tool_choice: tool_choice ?? "auto",
    tools: tools ?? [],
    top_logprobs: top_logprobs ?? 0,
    top_p: top_p ?? null,
    user: user ?? null,
  });
}
