/**
 * What a model's weight format lost: the same text is read by the model and by the same file's weights in full
 * precision, and their predictions are compared at every token. Prose, code and Chinese are read as they stand; to
 * questions the reference gives its greedy answer, and the model reads that.
 *
 * Until the first token on which they disagree both have read the same answer, so how long greedy answers stay the same
 * comes out of the same run.
 */
import type { Runtime } from "../runtime/port/runtime.ts";
import type { Tokenizer } from "../tokenize/tokenizer.ts";
import { argmax, compareToken, type Comparison, summarize, type TokenComparison } from "./compare.ts";
import { QUESTIONS, type Text, TEXTS } from "./texts.ts";

/** Tokens of a text or an answer with its question: more than any here has, less than any model's context. */
export const EVALUATION_CAPACITY = 1024;
/** Tokens of the reference's answer, unless it ends sooner. */
const ANSWER_TOKENS_MAX = 48;
/** Tokens read in one step; logits are wanted of every one of them, and come to 6 MiB of a vocabulary of 49,152. */
const CHUNK_TOKENS = 32;

/** A loaded model of at least one slot and `EVALUATION_CAPACITY` tokens, or its context where that is less. */
export interface EvaluateOptions {
  readonly reference: Runtime;
  readonly candidate: Runtime;
  /** Both models'. */
  readonly tokenizer: Tokenizer;
  /** Tokens that end an answer. */
  readonly endTokens: readonly number[];
  readonly texts?: readonly Text[];
  readonly questions?: readonly string[];
  /** Told after every text and question. */
  readonly onProgress?: (done: number, total: number) => void;
}

export interface Evaluation {
  /** The texts by name, and the answers as `chat`. */
  readonly parts: Readonly<Record<string, Comparison>>;
  /** All texts, which somebody wrote: the reference can be wrong there. Perplexity and accuracy are read here. */
  readonly texts: Comparison;
  /** Texts and answers. Divergence and agreement are read here. */
  readonly all: Comparison;
  /** Mean number of an answer's leading tokens that both models choose, of `answerTokens`. */
  readonly sameGreedyTokens: number;
  readonly answerTokens: number;
}

/** Reads everything with both models. Their slabs are theirs to give: the first slot is overwritten. */
export async function evaluate(options: EvaluateOptions): Promise<Evaluation> {
  const { reference, candidate, tokenizer, texts = TEXTS, questions = QUESTIONS, onProgress } = options;
  for (const runtime of [reference, candidate]) {
    runtime.resize({ slots: 1, capacity: slabCapacity(runtime), kept: [] });
  }
  const total = texts.length + questions.length;
  let done = 0;
  const parts: Record<string, TokenComparison[]> = {};
  for (const { name, content } of texts) {
    parts[name] = await compareReading(options, tokenizer.encodePrompt(content), 1);
    onProgress?.(++done, total);
  }
  const read = Object.values(parts).flat();
  const answers: TokenComparison[][] = [];
  for (const content of questions) {
    // A base model goes on with the question's own text.
    const question = tokenizer.canChat
      ? tokenizer.encodeChat([{ role: "user", content }])
      : tokenizer.encodePrompt(content);
    // A model of so short a context has no answer to it.
    if (question.length >= slabCapacity(reference)) continue;
    const answer = await answerGreedily(options, question);
    answers.push(await compareReading(options, Int32Array.of(...question, ...answer), question.length));
    onProgress?.(++done, total);
  }
  const chat = answers.flat();
  return {
    parts: Object.fromEntries(Object.entries({ ...parts, chat }).map(([name, tokens]) => [name, summarize(tokens)])),
    texts: summarize(read),
    all: summarize([...read, ...chat]),
    sameGreedyTokens: answers.reduce((sum, answer) => sum + sameStart(answer), 0) / answers.length,
    answerTokens: chat.length / answers.length,
  };
}

function slabCapacity({ limits }: Runtime): number {
  return Math.min(EVALUATION_CAPACITY, limits.capacity);
}

/** How many of an answer's first tokens the candidate would have chosen too. */
function sameStart(answer: readonly TokenComparison[]): number {
  const parting = answer.findIndex(({ isAgreed }) => !isAgreed);
  return parting === -1 ? answer.length : parting;
}

/** Lets both models read the same tokens and compares what they expect at each, from `first` on. */
async function compareReading(
  { reference, candidate }: EvaluateOptions,
  tokens: Int32Array,
  first: number,
): Promise<TokenComparison[]> {
  const { vocabSize } = reference.limits;
  const length = Math.min(tokens.length, slabCapacity(reference));
  const compared: TokenComparison[] = [];
  // The last token is expected, and need not be read.
  for (let past = 0; past < length - 1; past += CHUNK_TOKENS) {
    const chunk = tokens.subarray(past, Math.min(past + CHUNK_TOKENS, length - 1));
    const expected = await readChunk(reference, chunk, past, chunk.length);
    const actual = await readChunk(candidate, chunk, past, chunk.length);
    for (let at = 0; at < chunk.length; at++) {
      const next = past + at + 1;
      if (next < first) continue;
      const row = [at * vocabSize, (at + 1) * vocabSize] as const;
      compared.push(compareToken(expected.subarray(...row), actual.subarray(...row), tokens[next]!));
    }
  }
  return compared;
}

async function answerGreedily({ reference, endTokens }: EvaluateOptions, question: Int32Array): Promise<number[]> {
  const answer: number[] = [];
  const room = slabCapacity(reference) - question.length;
  let logits = await readChunk(reference, question, 0, 1);
  while (answer.length < Math.min(ANSWER_TOKENS_MAX, room)) {
    const token = argmax(logits);
    answer.push(token);
    if (endTokens.includes(token)) break;
    logits = await readChunk(reference, Int32Array.of(token), question.length + answer.length - 1, 1);
  }
  return answer;
}

async function readChunk(runtime: Runtime, tokens: Int32Array, past: number, sampled: number): Promise<Float32Array> {
  const nobody = { tokens: new Int32Array(0), pasts: new Int32Array(0) };
  return await runtime.step({ decode: nobody, prefill: { slot: 0, tokens, past, sampled } });
}
