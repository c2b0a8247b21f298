/**
 * What this isolate remembers, so that the same request again needs neither parsing nor cryptography nor a network: which
 * question a body asks, and the finished reply to it, both least recently used first out and bounded by bytes. Knows no
 * limits and no store.
 *
 * The body's own text is the key, not a digest of it: a Map compares the very bytes, so nothing can collide, and it is
 * cheaper than SHA-256 through WebCrypto (0.5 against 3 µs for 1 KB on workerd).
 */
import type { KnownQuestion } from "../question/known-question.ts";
import type { ReplyForm } from "../question/reply-form.ts";
import { Lru } from "../../shared/lru.ts";

/** A reply as it goes out. */
export interface KnownReply {
  readonly body: string;
  /** Unix seconds. */
  readonly storedAt: number;
  readonly expiresMs: number;
  /** The tenant's purge it was read under. */
  readonly generation: string;
}

/** Most bytes of the two kinds of memory; 0 keeps none. */
export interface IsolateSettings {
  readonly isolateQuestionBytesMax: number;
  readonly isolateAnswerBytesMax: number;
}

/** Objects, list and map around one value, generously: what makes a million tiny values cost memory, too. */
const OVERHEAD_BYTES = 400;

/** Tenants for whom one text is remembered: bounds the work of one more. Beyond it the text is learnt anew. */
const ASKERS_MAX = 64;

export class IsolateMemory {
  /** By text, then by who asks where: a long key put together for each look-up costs more than the look-up. */
  readonly #questions: Lru<ReadonlyMap<string, KnownQuestion>>;
  readonly #replies: Lru<KnownReply>;

  constructor({ isolateQuestionBytesMax, isolateAnswerBytesMax }: IsolateSettings) {
    this.#questions = new Lru({
      weightMax: isolateQuestionBytesMax,
      weigh: (askers, text) => {
        let bytes = textBytes(text) + OVERHEAD_BYTES;
        for (const [asker, { form }] of askers) {
          bytes += textBytes(asker) + OVERHEAD_BYTES;
          if (form.type === "response") bytes += textBytes(form.settings);
        }
        return bytes;
      },
    });
    this.#replies = new Lru({
      weightMax: isolateAnswerBytesMax,
      weigh: ({ body }, key) => textBytes(body) + textBytes(key) + OVERHEAD_BYTES,
    });
  }

  question(tenant: string, path: string, text: string): KnownQuestion | undefined {
    return this.#questions.get(text)?.get(askerKey(tenant, path));
  }

  keepQuestion(tenant: string, path: string, text: string, question: KnownQuestion): void {
    const others = this.#questions.get(text);
    const shared = others !== undefined && others.size < ASKERS_MAX ? others : [];
    this.#questions.set(text, new Map([...shared, [askerKey(tenant, path), question]]));
  }

  /** A reply that is still fresh. */
  reply(digest: string, form: ReplyForm, nowMs: number): KnownReply | undefined {
    const reply = this.#replies.get(replyKey(digest, form));
    return reply === undefined || nowMs >= reply.expiresMs ? undefined : reply;
  }

  keepReply(digest: string, form: ReplyForm, reply: KnownReply): void {
    this.#replies.set(replyKey(digest, form), reply);
  }
}

/** No path holds a space, so no tenant's name can run into it. */
function askerKey(tenant: string, path: string): string {
  return `${path} ${tenant}`;
}

/** The commonest form is the digest itself: a text that is put together anew has to be hashed anew. */
function replyKey(digest: string, form: ReplyForm): string {
  if (form.type === "json") return digest;
  if (form.type === "vectors") return `${digest} ${form.encoding}`;
  if (form.type === "response") return `${digest} ${form.type} ${form.streamed} ${form.settings}`;
  return form.type === "sse" && form.includeUsage ? `${digest} sse+usage` : `${digest} ${form.type}`;
}

/** V8 keeps one byte a character for Latin-1 and two for everything else; two is the careful side. */
function textBytes(text: string): number {
  return text.length * 2;
}
