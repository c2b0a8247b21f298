/**
 * Decides what the next step does, in two pure functions. `admit`: who gets a row, and who has to give one up for it.
 * `schedule`: what is computed. Moves no sequence and knows no runtime.
 *
 * - The queue is ordered by rank: the time of arrival, put off by `ageingMs` for each class below the highest. Ranks
 *   never change, so waiting is ageing, and nobody starves: a sequence of class p is overtaken only by those that come
 *   less than p × `ageingMs` after it. The same holds for a row that is preempted, which keeps its rank.
 * - The first in the queue that has no room waits, and so do those behind it, though a smaller one might fit: else a
 *   large one would wait as long as small ones come.
 * - Every row decodes in every step; what is prefilled beside them is sized by time (`chunkFor`).
 */
import { guessNext, type GuessRecord, type Match } from "./draft.ts";
import { fitSlab, type KvBudget, type SlabShape } from "./kv-budget.ts";
import { type Sequence, tokensNeeded } from "./sequence.ts";
import type { StepLoad, StepTimeModel } from "./step-time.ts";

/** Where every open sequence is. */
export interface ScheduleState {
  /** Packed: `running[i]` lives in slot `i`. */
  readonly running: readonly Sequence[];
  readonly prefilling: Sequence | undefined;
  /** By rank. */
  readonly waiting: readonly Sequence[];
  /** The present slab. */
  readonly slab: SlabShape;
}

export interface ScheduleLimits {
  readonly budget: KvBudget;
  /** Prompt tokens in one step, at most; what a step takes while no row is running. */
  readonly prefillChunkTokens: number;
  /** The time between two tokens of a stream that a prompt beside it must keep, milliseconds. */
  readonly interTokenMs: number;
  /** Tokens of one row guessed in one step, at most, where that pays; no more than `draftTokens`. */
  readonly speculationTokens: number;
  /** What the runtime computes, and needs room for, when it checks several guessed tokens, however few they are. */
  readonly draftTokens: number;
}

/** Changes before the next run. */
export interface Admission {
  /** Leaves its row and waits again. */
  readonly preempt: Sequence | undefined;
  /** Its prefill begins, in a slab of this shape. */
  readonly start: { readonly sequence: Sequence; readonly slab: SlabShape } | undefined;
}

/** One step's work. */
export interface Plan {
  readonly decode: readonly Sequence[];
  /** Tokens fed to one slot: the next ones of a prompt, or the guess of a row's next ones. */
  readonly chunk: { readonly sequence: Sequence; readonly tokens: Int32Array; readonly sampled: number } | undefined;
}

/**
 * A prompt beside running rows may stretch their step to this many times its length. Twice is what a reader may notice
 * at worst; aiming a little lower leaves room for steps that take longer than foreseen.
 */
const STRETCH = 1.7;

/**
 * Nor need a step be shorter than this for evenness' sake, however short one without a prompt is: nobody reads sixty tokens a
 * second. A GPU plays steps without a prompt back in 1.4 ms and takes 6 for any with one; of 8 tokens each it took 1.4 s for a
 * prompt of 1,000.
 */
const UNNOTICED_MS = 15;

/** Prompt tokens that every step takes along, however slow: without them a prompt might never end. */
const CHUNK_TOKENS_MIN = 3;

/**
 * Prompt tokens that a step takes along, whatever the knob, where it gets no longer by them than by `STRETCH`, or than the
 * prompt's last step will be with the least: attention over a chunk reads all that lies before it, so that a prompt's
 * steps get longer as it goes on, and sparing its first ones would not shorten the worst.
 */
const CHUNK_TOKENS_FAIR = 5;

/** Whether one may take the other's row: both its class and its place in the queue are ahead. */
function outranks(one: Sequence, other: Sequence): boolean {
  return one.priority < other.priority && one.rankMs < other.rankMs;
}

/** Neither a chunk nor a guess beside the rows. */
const ALONE = { chunk: 0, guessed: 0, past: 0 } as const;

/** A guess must promise so many times the tokens per time of a step without: what is foreseen of both is some percent off. */
const WORTH = 1.08;

/** Who gets the next row. */
export function admit(state: ScheduleState, { budget }: ScheduleLimits): Admission {
  const sequence = state.waiting[0];
  if (sequence === undefined) return { preempt: undefined, start: undefined };
  if (state.prefilling !== undefined) {
    if (!outranks(sequence, state.prefilling)) return { preempt: undefined, start: undefined };
    return startAfter(state.prefilling);
  }
  const slab = fit(state.running);
  if (slab !== undefined) return { preempt: undefined, start: { sequence, slab } };
  const last = state.running.reduce<Sequence | undefined>(
    (worst, row) => (worst === undefined || isBehind(row, worst) ? row : worst),
    undefined,
  );
  if (last === undefined || !outranks(sequence, last)) return { preempt: undefined, start: undefined };
  return startAfter(last);

  function startAfter(preempt: Sequence): Admission {
    const left = fit(state.running.filter((row) => row !== preempt));
    return { preempt, start: left === undefined || sequence === undefined ? undefined : { sequence, slab: left } };
  }

  function fit(rows: readonly Sequence[]): SlabShape | undefined {
    const together = sequence === undefined ? rows : [...rows, sequence];
    const tokens = Math.max(...together.map(tokensNeeded));
    return fitSlab(state.slab, { rows: together.length, tokens }, budget);
  }
}

function isBehind(one: Sequence, other: Sequence): boolean {
  return one.priority === other.priority ? one.rankMs > other.rankMs : one.priority > other.priority;
}

/** What the next run computes; nothing when nobody has a row. */
export function schedule(state: ScheduleState, limits: ScheduleLimits, time: StepTimeModel): Plan {
  const { running, prefilling } = state;
  if (prefilling === undefined) return guessFor(state, limits, time) ?? { decode: running, chunk: undefined };
  // Whether it is what made a run fail is found out without putting others into the run.
  const decode = prefilling.suspect ? [] : running;
  const { past, length } = prefilling;
  const size = chunkFor(prefilling, decode, { state, limits, time });
  const tokens = prefilling.tokens.subarray(past, past + size);
  return { decode, chunk: { sequence: prefilling, tokens, sampled: past + size === length ? 1 : 0 } };
}

/**
 * The tokens of a prompt that go with this step. Alone: the most there may be. Beside rows: what fits into their time,
 * the smaller of the knob and `STRETCH` times a step without it or `UNNOTICED_MS`, as many times over as there are prompts: when many
 * come together, starting them is worth more than the evenness of those that run. But never less than lets a prompt end.
 */
function chunkFor(
  sequence: Sequence,
  decode: readonly Sequence[],
  given: { readonly state: ScheduleState; readonly limits: ScheduleLimits; readonly time: StepTimeModel },
): number {
  const { state, limits, time } = given;
  const max = limits.prefillChunkTokens;
  // A row that was taken away is computed as it was the first time: its prompt as a prompt, its answer token by token.
  // Attention over several tokens adds in another order than over one, and an answer must not show that it was parked.
  const left = sequence.promptTokens - sequence.past;
  if (left <= 0) return 1;
  if (decode.length === 0) return evenOut(Math.min(max, left), left);

  const load = loadOf(decode);
  const even = Math.max(time.predict({ ...load, ...ALONE }) * STRETCH, UNNOTICED_MS);
  const stretched = even * (1 + state.waiting.length);
  const within = time.chunkWithin(Math.min(limits.interTokenMs, stretched), { ...load, past: sequence.past, max });
  const lastMs = time.predict({ ...load, chunk: CHUNK_TOKENS_MIN, guessed: 0, past: sequence.promptTokens });
  const fair = time.chunkWithin(Math.max(stretched, lastMs), { ...load, past: sequence.past, max: CHUNK_TOKENS_FAIR });
  return evenOut(Math.min(left, max, Math.max(within, fair, CHUNK_TOKENS_MIN)), left);
}

/**
 * A prompt is never cut so that one token is left over: attention over a single token takes another kernel, which adds
 * in another order, and an answer must not depend on where its prompt was cut.
 */
function evenOut(size: number, left: number): number {
  if (left - size !== 1) return size;
  return size > 2 ? size - 1 : left;
}

/**
 * The guess that brings most tokens per time, all rows counted, where one is worth it. Only one slot can take a chunk, so
 * one row has a guess.
 */
function guessFor({ running, slab }: ScheduleState, limits: ScheduleLimits, time: StepTimeModel): Plan | undefined {
  if (limits.speculationTokens === 0) return undefined;
  const load = loadOf(running);
  let plan: Plan | undefined;
  let bestRate = (load.rows / time.predict({ ...load, ...ALONE })) * WORTH;
  for (const row of running) {
    const { match } = row.guesses;
    if (match === undefined) continue;
    for (const count of guessLengths(row, slab, limits)) {
      const guessed = count === 1 ? 1 : limits.draftTokens;
      const stepMs = time.predict({ ...load, chunk: 0, guessed, past: row.past + 1 });
      const rate = (load.rows + rightOf(count, row.guesses, match)) / stepMs;
      if (rate <= bestRate) continue;
      bestRate = rate;
      const tokens = guessNext(row.tokens.subarray(0, row.length), match, count);
      plan = { decode: running, chunk: { sequence: row, tokens, sampled: count } };
    }
  }
  return plan;
}

/** How many tokens may be guessed behind a row: one, or all there may be, at the price of the most the runtime checks. */
function guessLengths(row: Sequence, { capacity }: SlabShape, limits: ScheduleLimits): readonly number[] {
  const { speculationTokens: most, draftTokens } = limits;
  // The last token of an answer needs no guess behind it.
  if (tokensLeft(row) <= 1) return [];
  const severalFit = row.past + 1 + draftTokens <= capacity && tokensLeft(row) > most;
  return most > 1 && severalFit ? [1, most] : [1];
}

/** Guessed tokens that will turn out right: each only where those before it did, which makes its match a longer one. */
function rightOf(count: number, guesses: GuessRecord, match: Match): number {
  let right = 0;
  for (let token = count - 1; token >= 0; token--) right = (right + 1) * guesses.acceptance(match.length + token);
  return right;
}

function tokensLeft({ maxTokens, history }: Sequence): number {
  return maxTokens - history.generated;
}

/** What the decoding rows of a step weigh. */
function loadOf(decode: readonly Sequence[]): Pick<StepLoad, "rows" | "context"> {
  return { rows: decode.length, context: decode.reduce((sum, { past }) => sum + past, 0) };
}

/** What a planned step computes, for the step-time model. */
export function planLoad({ decode, chunk }: Plan, { draftTokens }: Pick<ScheduleLimits, "draftTokens">): StepLoad {
  const load = loadOf(decode);
  if (chunk === undefined) return { ...load, ...ALONE };
  const { sequence, tokens } = chunk;
  if (!decode.includes(sequence)) return { ...load, chunk: tokens.length, guessed: 0, past: sequence.past };
  return { ...load, chunk: 0, guessed: tokens.length === 1 ? 1 : draftTokens, past: sequence.past + 1 };
}
