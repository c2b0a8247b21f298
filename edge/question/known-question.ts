/** What a lookup needs to know of a question; the question's own text is needed only if no answer is stored. */
import type { TokenEstimate } from "./estimate.ts";
import type { ReplyForm } from "./reply-form.ts";

/** A request body's question, for one tenant. */
export interface KnownQuestion {
  /** Base64url; covers the tenant, the question and the model's digest. */
  readonly digest: string;
  readonly form: ReplyForm;
  /** The digest holds only while this id means the model with `modelDigest`. */
  readonly modelId: string;
  readonly modelDigest: string;
  readonly estimate: TokenEstimate;
}
