/**
 * What is asked: a request's body becomes one question, for a chat, a text or vectors, plus how the client wants the
 * reply. Knows no caller and no model.
 */
import {
  generateAsChat,
  parseCompletionRequest,
  responseAsChat,
  type ChatCompletionRequest,
  type CompletionPath,
  type CompletionRequest,
  type Question,
} from "../../shared/completion-request.ts";
import type { EmbeddingRequest, VectorQuestion } from "../../shared/embedding-request.ts";
import { ColdpathError } from "../../shared/errors.ts";
import { listTexts } from "../../shared/text-input.ts";
import type { Call } from "../call/call.ts";
import type { Incoming } from "../call/incoming.ts";
import type { ReplyForm } from "./reply-form.ts";
import { settingsOf } from "./response-settings.ts";

export interface Asked {
  readonly question: Question;
  readonly form: ReplyForm;
}

/**
 * Reads and checks one request's body.
 *
 * @param defaultModel - what `/generate` means when it names no model
 * @throws {ColdpathError} `unsupported_media_type`, `body_too_large`, `invalid_json`, `invalid_request` or
 * `unsupported_parameter`
 */
export async function validate(
  path: CompletionPath,
  call: Call,
  { bodyBytesMax, defaultModel }: { readonly bodyBytesMax: number; readonly defaultModel: () => Promise<string> },
): Promise<Asked> {
  requireJson(call.request);
  const text = await call.text(bodyBytesMax);
  switch (path) {
    case "/v1/chat/completions": {
      const parsed = parseCompletionRequest(path, text);
      return { question: { path, request: parsed }, form: replyForm(parsed) };
    }
    case "/v1/completions": {
      const parsed = parseCompletionRequest(path, text);
      return { question: { path, request: { ...parsed, prompt: plainPrompt(parsed) } }, form: replyForm(parsed) };
    }
    case "/v1/responses": {
      const parsed = parseCompletionRequest(path, text);
      const form = { type: "response", streamed: parsed.stream === true, settings: settingsOf(parsed) } as const;
      return { question: { path: "/v1/chat/completions", request: responseAsChat(parsed) }, form };
    }
    case "/v1/embeddings": {
      const parsed = parseCompletionRequest(path, text);
      return {
        question: askForVectors(parsed),
        form: { type: "vectors", encoding: parsed.encoding_format ?? "float" },
      };
    }
    case "/generate": {
      const parsed = parseCompletionRequest(path, text);
      const chat = generateAsChat(parsed, parsed.model ?? (await defaultModel()));
      return { question: { path: "/v1/chat/completions", request: chat }, form: { type: "generate" } };
    }
    default:
      return path satisfies never;
  }
}

/** The question that a request for vectors stands for: in either form of answer they are the same vectors. */
export function askForVectors(asked: EmbeddingRequest): VectorQuestion {
  const request = { ...asked, input: listTexts(asked.input) };
  delete request.encoding_format;
  return { path: "/v1/embeddings", request };
}

/** A list of one prompt is the same question as that prompt. */
function plainPrompt({ prompt }: CompletionRequest): CompletionRequest["prompt"] {
  const [first, ...others] = listTexts(prompt);
  return first === undefined || others.length > 0 ? prompt : first;
}

function requireJson(request: Incoming): void {
  const contentType = request.header("content-type") ?? "";
  const mediaType = contentType.split(";")[0]?.trim().toLowerCase();
  // A comma: the header came twice, and which of them is meant nobody can say.
  if (mediaType !== "application/json" || contentType.includes(",")) {
    throw new ColdpathError("unsupported_media_type", "the body must be JSON, with content-type: application/json");
  }
  if ((request.header("content-encoding") ?? "identity").toLowerCase() !== "identity") {
    throw new ColdpathError("unsupported_media_type", "a compressed body is not accepted");
  }
}

function replyForm(request: ChatCompletionRequest | CompletionRequest): ReplyForm {
  if (request.stream !== true) return { type: "json" };
  return { type: "sse", includeUsage: request.stream_options?.include_usage === true };
}
