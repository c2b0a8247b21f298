/** The form in which a client wants its answer. Knows nothing of answers. */
import type { EncodingFormat } from "../../shared/embedding-request.ts";
import type { ResponseSettings } from "./response-settings.ts";

/** How the answer is written to the client. */
export type ReplyForm =
  | { readonly type: "json" }
  | { readonly type: "sse"; readonly includeUsage: boolean }
  /** `POST /v1/responses`; `settings` are the request's fields that its response repeats. */
  | { readonly type: "response"; readonly streamed: boolean; readonly settings: ResponseSettings }
  /** `{ response }`, as `POST /generate` has it. */
  | { readonly type: "generate" }
  | { readonly type: "vectors"; readonly encoding: EncodingFormat };
