/**
 * What a tenant asks most, for warming: counted in the isolate, told to the region now and then, and kept there with the
 * questions, sealed like the answers. Knows no answers.
 *
 * Counting is to cost a hit nothing. An answer out of the isolate's memory is not counted by itself: the one that has the
 * permits renewed stands for all since the last renewal, so a question is met as often as it is asked, by chance. What is
 * counted goes to the region behind a response, at most every ten seconds; an isolate that dies before takes it along.
 */
import * as z from "zod";
import {
  isCompletionPath,
  parseCompletionRequest,
  responseAsChat,
  type CompletionPath,
} from "../../shared/completion-request.ts";
import type { Call } from "../call/call.ts";
import { canonicalQuestion } from "../question/identify.ts";
import { StoreUnavailable, type RegionalStore } from "../regional/regional-store.ts";
import type { SealContext, Sealer } from "./seal.ts";
import { askForVectors } from "../question/validate.ts";

/** A question that was asked, and about how often lately. */
export interface AskedQuestion {
  readonly digest: string;
  /** A day ago counts half. */
  readonly times: number;
  readonly path: CompletionPath;
  /** Without the fields that say nothing about the answer, such as `user`. */
  readonly body: Readonly<Record<string, unknown>>;
}

interface MostAskedParts {
  readonly store: RegionalStore;
  readonly sealer: Sealer;
  readonly config: {
    /** Most questions in a tenant's list; 0 counts none. */
    readonly askedMax: number;
  };
}

interface Noted {
  readonly tenant: string;
  readonly digest: string;
  readonly times: number;
}

interface Count {
  times: number;
  readonly path: CompletionPath;
  readonly text: string;
}

const TELL_MS = 10_000;
/** Different questions between two tellings; what comes on top is not counted. */
const COUNTS_MAX = 256;
/** A longer one is a document that was pasted, and seldom asked twice. */
const QUESTION_CHARS_MAX = 16_384;

const questionSchema = z.object({
  path: z.string().refine(isCompletionPath),
  body: z.record(z.string(), z.unknown()),
});

export class MostAsked {
  readonly #parts: MostAskedParts;
  /** Tenant → digest → count. */
  #counts = new Map<string, Map<string, Count>>();
  #size = 0;
  #toldMs = Number.NEGATIVE_INFINITY;

  constructor(parts: MostAskedParts) {
    this.#parts = parts;
  }

  /** Counts the question of a call whose body was read, and now and then tells the region, behind the answer. */
  note(call: Call, { tenant, digest, times }: Noted): void {
    const { path, body: text } = call;
    if (this.#parts.config.askedMax === 0 || !isCompletionPath(path)) return;
    if (text === undefined || text.length > QUESTION_CHARS_MAX) return;
    const counts = this.#counts.get(tenant) ?? new Map<string, Count>();
    const count = counts.get(digest);
    if (count !== undefined) count.times += times;
    else if (this.#size < COUNTS_MAX) {
      this.#counts.set(tenant, counts.set(digest, { times, path, text }));
      this.#size += 1;
    }
    const nowMs = call.platform.now();
    if (nowMs - this.#toldMs >= TELL_MS) call.waitUntil(this.#tell(nowMs));
  }

  /** What this tenant asked most, most often first. What does not open is left out. @throws {StoreUnavailable} */
  async top(tenant: string, count: number): Promise<readonly AskedQuestion[]> {
    const { store, sealer } = this.#parts;
    const asked = await store.topAsked(tenant, count);
    const opened = asked.map(async ({ digest, times, sealed }): Promise<AskedQuestion | undefined> => {
      const text = await sealer.open(contextOf(tenant, digest), sealed);
      if (text === undefined) return undefined;
      const { path, body } = questionSchema.parse(JSON.parse(text));
      return { digest, times, path, body };
    });
    return (await Promise.all(opened)).filter((question) => question !== undefined);
  }

  async #tell(nowMs: number): Promise<void> {
    const counts = this.#counts;
    this.#counts = new Map();
    this.#size = 0;
    this.#toldMs = nowMs;
    try {
      for (const [tenant, ofTenant] of counts) await this.#tellOf(tenant, ofTenant);
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) throw error;
    }
  }

  async #tellOf(tenant: string, counts: ReadonlyMap<string, Count>): Promise<void> {
    const { store, sealer, config } = this.#parts;
    const asked = [...counts].map(([digest, { times }]) => ({ digest, times }));
    const wanted = await store.countAsked(tenant, asked, config.askedMax);
    const sealed = wanted.map(async (digest): Promise<readonly [string, string] | undefined> => {
      const count = counts.get(digest);
      return count === undefined
        ? undefined
        : [digest, await sealer.seal(contextOf(tenant, digest), questionOf(count))];
    });
    const questions = (await Promise.all(sealed)).filter((question) => question !== undefined);
    if (questions.length > 0) await store.keepQuestions(tenant, questions);
  }
}

function contextOf(tenant: string, digest: string): SealContext {
  return { tenant, place: `question ${digest}` };
}

/** Only for the few that are new to the list, so it may be read once more. */
function questionOf({ path, text }: Count): string {
  // A response is asked for again as the chat that it stands for.
  const asked = path === "/v1/responses" ? "/v1/chat/completions" : path;
  return JSON.stringify({ path: asked, body: JSON.parse(canonicalOf(path, text)) as unknown });
}

function canonicalOf(path: CompletionPath, text: string): string {
  switch (path) {
    case "/v1/chat/completions":
      return canonicalQuestion({ path, request: parseCompletionRequest(path, text) });
    case "/v1/completions":
      return canonicalQuestion({ path, request: parseCompletionRequest(path, text) });
    case "/v1/responses":
      return canonicalQuestion({
        path: "/v1/chat/completions",
        request: responseAsChat(parseCompletionRequest(path, text)),
      });
    case "/v1/embeddings":
      return canonicalQuestion(askForVectors(parseCompletionRequest(path, text)));
    case "/generate":
      return text;
    default:
      return path satisfies never;
  }
}
