/** Vectors that come in from the origin, in one piece: says whether they are what was asked for. */
import * as z from "zod";
import { ColdpathError } from "../../shared/errors.ts";
import type { VectorAnswer } from "./answer.ts";
import type { Drafting, EventRole } from "./draft.ts";

const base64 = z.string().regex(/^[\w+/]+={0,2}$/);
const listSchema = z.object({
  object: z.literal("list"),
  model: z.string(),
  data: z.array(z.object({ index: z.int().min(0), embedding: base64 })),
  usage: z.object({ prompt_tokens: z.int().min(0), total_tokens: z.int().min(0) }),
});

export class VectorDraft implements Drafting {
  readonly #texts: number;
  #answer: VectorAnswer | undefined;
  /** Nothing is streamed that could be gone on with. */
  readonly eventId = undefined;
  readonly answerTokens = 0;

  /** @param texts - how many vectors were asked for */
  constructor(texts: number) {
    this.#texts = texts;
  }

  /** Takes the origin's whole answer. */
  add(data: string): EventRole {
    const parsed = listSchema.safeParse(parseJson(data));
    const { data: list = [], model = "", usage } = parsed.data ?? {};
    if (usage === undefined || list.length !== this.#texts || list.some(({ index }, place) => index !== place)) {
      throw new ColdpathError("origin_failed", "the model's server sent other vectors than were asked for", {
        cause: parsed.error,
      });
    }
    this.#answer = { type: "vectors", model, vectors: list.map(({ embedding }) => embedding), usage };
    return "done";
  }

  finish(): VectorAnswer {
    if (this.#answer !== undefined) return this.#answer;
    throw new ColdpathError("origin_failed", "the model's server broke the answer off");
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
