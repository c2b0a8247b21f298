/**
 * Lets equal questions that come at the same time share one answer. Whether they are equal is the edge's word, the digest
 * it signed, and our own look: the same question, field by field, of the same tenant, spelled alike as far as the edge
 * tells spellings apart. A question without a digest shares
 * nothing. Knows nothing of how an answer is made.
 */
import { hash } from "node:crypto";
import type { ChatCompletionRequest, Question } from "../../shared/completion-request.ts";
import { type Normalization, normalizeQuestion } from "../../shared/normalize.ts";
import type { LiveAnswer } from "./live-answer.ts";
import type { AnyCompletionRequest } from "./prepare.ts";

/** Which question, whose. */
export interface Asked {
  readonly digest: string | undefined;
  readonly tenant: string;
  readonly normalize: Normalization;
  readonly request: AnyCompletionRequest;
}

export interface Attached {
  readonly answer: LiveAnswer;
  /** Whether it was begun for somebody else. */
  readonly coalesced: boolean;
}

interface Open {
  readonly answer: LiveAnswer;
  readonly fingerprint: string;
}

export class Coalescer {
  readonly #open = new Map<string, Open>();
  readonly #onConflict: () => void;

  /** @param onConflict - two different questions came under one digest: a fault of an edge, without consequence here */
  constructor({ onConflict }: { readonly onConflict: () => void }) {
    this.#onConflict = onConflict;
  }

  /** Answers under way that others may join; for the tests. */
  get size(): number {
    return this.#open.size;
  }

  /**
   * The answer under way to the same question, or a new one.
   *
   * @param begin - begins an answer, and calls `onEnd` when nobody may join it any more; what it throws is thrown
   */
  attach({ digest, tenant, normalize, request }: Asked, begin: (onEnd: () => void) => LiveAnswer): Attached {
    if (digest === undefined) return { answer: begin(() => {}), coalesced: false };

    const key = `${tenant} ${digest}`;
    const fingerprint = takeFingerprint(normalizeQuestion(questionOf(request), normalize));
    const known = this.#open.get(key);
    if (known?.fingerprint === fingerprint) return { answer: known.answer, coalesced: true };
    if (known !== undefined) {
      this.#onConflict();
      return { answer: begin(() => {}), coalesced: false };
    }
    const answer = begin(() => this.#open.delete(key));
    if (answer.open) this.#open.set(key, { answer, fingerprint });
    return { answer, coalesced: false };
  }
}

function questionOf(request: AnyCompletionRequest): Question {
  return "messages" in request
    ? { path: "/v1/chat/completions", request: request as ChatCompletionRequest }
    : { path: "/v1/completions", request };
}

/** Everything but the form of the reply, which is each reader's own. Another order of fields is another question. */
function takeFingerprint({ request }: Question): string {
  const { stream: _, stream_options: __, ...question } = request;
  return hash("sha256", JSON.stringify(question), "base64url");
}
