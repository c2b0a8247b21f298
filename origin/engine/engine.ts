/**
 * Continuous batching: one `step()` is schedule → run → sample → publish, and rows join and leave at every step. Works
 * on token ids only; knows nothing of threads, text or HTTP. Calls never overlap: submit and cancel come between steps.
 *
 * Running rows stay packed in slots 0 to B−1. A prompt is prefilled in slot B as it is when its prefill starts; B can
 * only shrink until it joins, so the slot stays outside the running rows, and in the common case (nobody left meanwhile)
 * the row joins without a copy. A row that leaves is replaced by the last one.
 *
 * A sequence knows its tokens, so its row can be taken away at any time: preempted, or after a run has failed, it goes
 * back to the queue and is prefilled again, from the prefix cache as far as that has it: its answer token by token, as it
 * was made, so that it goes on to the bit as if nothing had been.
 */
import type { Runtime, StepBatch } from "../runtime/port/runtime.ts";
import { createSteadyClock } from "./clock.ts";
import { type KvBudget, longestRow } from "./kv-budget.ts";
import { LogprobReader, type TokenLogprobs } from "./logprobs.ts";
import { Sampler } from "./sample.ts";
import { admit, type Plan, planLoad, schedule, type ScheduleLimits, type ScheduleState } from "./scheduler.ts";
import { createSequence, type Sequence, type SequenceRequest, type QueuePolicy } from "./sequence.ts";
import { Slab, type SlabCounters } from "./slab.ts";
import { StepTimeModel } from "./step-time.ts";
import { warmUp } from "./warm-up.ts";

/**
 * What became of a sequence in a step. `running`: it goes on. `stop`: the token is one of the model's end tokens.
 * `length`: the token is its last. `poisoned`: its logits were not numbers. `expired`: it waited too long for a row.
 * `deadline`: its time was up. `failed`: every run that it was part of failed. `stuck`: it has a grammar, and no mask came
 * or it allows no token. The last five come without a token.
 */
export type SequenceStatus = "running" | "stop" | "length" | "poisoned" | "expired" | "deadline" | "failed" | "stuck";

export interface SequenceUpdate {
  readonly id: number;
  /** -1 where there is none. */
  readonly token: number;
  readonly status: SequenceStatus;
  /** Prompt tokens that came from the prefix cache. */
  readonly cachedTokens: number;
  /** Of the token, where they were asked for. */
  readonly logprobs?: TokenLogprobs;
}

export interface StepReport {
  /** In the order of their tokens; a sequence may have several. */
  readonly updates: readonly SequenceUpdate[];
  /** Why the run failed, for the log. */
  readonly failure: unknown;
  /** How long the run took; undefined where there was none, or it failed. */
  readonly stepMs: number | undefined;
  /** Of each sequence that got its first row, how long it waited for it. */
  readonly queuedMs: readonly number[];
}

/** Since the start. */
export interface EngineCounters extends SlabCounters {
  readonly preemptions: number;
  readonly draftedTokens: number;
  /** Drafted tokens that were right. */
  readonly acceptedTokens: number;
}

export interface EngineOptions extends Omit<ScheduleLimits, "budget" | "draftTokens">, QueuePolicy {
  readonly runtime: Runtime;
  /** Tokens that end an answer. */
  readonly endTokens: readonly number[];
  /** Bytes that the KV slab may take. */
  readonly kvBytes: number;
  /** Bytes that the prefix cache may take beside the slab; 0 turns it off, the slab's share too. */
  readonly prefixCacheBytes: number;
  /** How long a step waits for a row's mask: every other row waits as well. */
  readonly maskWaitMs: number;
  /** Milliseconds; may jump. */
  readonly now: () => number;
}

type Chunk = NonNullable<Plan["chunk"]>;

/** Failed runs that a sequence may have been in beside others before it is given up with them. */
const FAILURES_MAX = 2;

/** What one more served sequence weighs in the mean time of service. */
const SERVICE_WEIGHT = 0.1;

export class Engine {
  /** Tokens that a sequence may have, prompt and answer together. */
  readonly longestRow: number;
  readonly #options: EngineOptions;
  readonly #limits: ScheduleLimits;
  readonly #now: () => number;
  readonly #sampler: Sampler;
  readonly #logprobs: LogprobReader;
  readonly #ends: ReadonlySet<number>;
  readonly #slab: Slab;
  readonly #stepTime = new StepTimeModel();
  /** By rank. */
  #waiting: Sequence[] = [];
  #prefilling: Sequence | undefined;
  readonly #running: Sequence[] = [];
  #serviceMs: number | undefined;
  /** Gathered while a step begins, and given away with its report. */
  #queuedMs: number[] = [];
  #preemptions = 0;
  #draftedTokens = 0;
  #acceptedTokens = 0;

  constructor(options: EngineOptions) {
    const { slots, capacity, vocabSize, tokenBytes, draftTokens } = options.runtime.limits;
    const budget: KvBudget = { slots, capacity, tokenBytes, kvBytes: options.kvBytes };
    this.#options = options;
    const speculationTokens = Math.min(options.speculationTokens, draftTokens);
    this.#limits = { ...options, speculationTokens, draftTokens, budget };
    this.longestRow = longestRow(budget);
    this.#now = createSteadyClock(options.now);
    this.#sampler = new Sampler({ vocabSize, endTokens: options.endTokens });
    this.#logprobs = new LogprobReader(vocabSize);
    this.#ends = new Set(options.endTokens);
    this.#slab = new Slab(options.runtime, options);
  }

  /** Packed: `running[i]` lives in slot `i`. */
  get running(): readonly Sequence[] {
    return this.#running;
  }

  get prefilling(): Sequence | undefined {
    return this.#prefilling;
  }

  /** In the order in which they will be served, if nobody else comes. */
  get waiting(): readonly Sequence[] {
    return this.#waiting;
  }

  /** Whether a step has anything to do. */
  get busy(): boolean {
    return this.#running.length > 0 || this.#prefilling !== undefined || this.#waiting.length > 0;
  }

  get counters(): EngineCounters {
    const { counters } = this.#slab;
    const own = { draftedTokens: this.#draftedTokens, acceptedTokens: this.#acceptedTokens };
    return { ...counters, ...own, preemptions: this.#preemptions };
  }

  /** The mean time that a sequence had a row, of those that ended lately; undefined before the first. */
  get serviceMs(): number | undefined {
    return this.#serviceMs;
  }

  /**
   * Queues a sequence. The caller bounds how many are open.
   *
   * @throws {RangeError} on an empty prompt, a token outside the vocabulary or more tokens than a row may ever have
   */
  submit(request: SequenceRequest): void {
    const { vocabSize } = this.#options.runtime.limits;
    const { prompt, maxTokens } = request;
    if (prompt.length === 0 || !(maxTokens >= 1)) {
      throw new RangeError("a sequence needs a prompt and room for an answer");
    }
    if (prompt.length + maxTokens > this.longestRow) {
      throw new RangeError(`a sequence must fit into ${this.longestRow} tokens`);
    }
    if (prompt.some((token) => token < 0 || token >= vocabSize)) {
      throw new RangeError("a token is not in the vocabulary");
    }
    this.#queue(createSequence(request, this.#now(), this.#options));
  }

  /** Forgets a sequence, wherever it is; its row is free for the next step. Does nothing when it has ended already. */
  cancel(id: number): void {
    this.#remove((sequence) => sequence.id === id);
  }

  /** Learns how long steps take, before the first request. @throws {RuntimeError} when the runtime can't run at all */
  async warmUp(): Promise<void> {
    await warmUp(this.#options.runtime, this.#stepTime, {
      now: this.#now,
      guesses: this.#limits.speculationTokens > 0,
    });
  }

  /** Gives the slab's memory back; what it holds of prefixes goes to the second tier. For when nobody has a row. */
  rest(): void {
    if (!this.busy) this.#slab.rest();
  }

  /** Advances every running row by a token or more, or one prompt by a chunk. */
  async step(): Promise<StepReport> {
    const ended = [...this.#expire(), ...this.#admit()];
    const queuedMs = this.#queuedMs.splice(0);
    const plan = schedule(this.#state, this.#limits, this.#stepTime);
    if (plan.decode.length === 0 && plan.chunk === undefined) {
      return { updates: ended, failure: undefined, stepMs: undefined, queuedMs };
    }

    const load = planLoad(plan, this.#limits);
    const begunAtMs = this.#now();
    let logits: Float32Array;
    try {
      logits = await this.#options.runtime.step(toBatch(plan));
    } catch (failure) {
      return { updates: [...ended, ...this.#recover(plan)], failure, stepMs: undefined, queuedMs };
    }
    const stepMs = this.#now() - begunAtMs;
    this.#stepTime.observe(load, stepMs);
    const updates = [...ended, ...this.#publish(plan, logits)];
    if (this.#running.length > 0 || this.#prefilling !== undefined) this.#slab.saveAhead();
    return { updates, failure: undefined, stepMs, queuedMs };
  }

  get #state(): ScheduleState {
    return { running: this.#running, prefilling: this.#prefilling, waiting: this.#waiting, slab: this.#slab.shape };
  }

  /** Ends what has waited too long for a row, and what has run out of time wherever it is. */
  #expire(): SequenceUpdate[] {
    const nowMs = this.#now();
    const late = this.#remove(({ endByMs }) => endByMs <= nowMs);
    // Who has had a row is not turned away for having been asked to leave it.
    const overdue = this.#remove(
      ({ startedAtMs, startByMs }, isWaiting) => isWaiting && startedAtMs === undefined && startByMs <= nowMs,
    );
    return [...late.map((one) => endUpdate(one, "deadline")), ...overdue.map((one) => endUpdate(one, "expired"))];
  }

  /** Gives the next in the queue its row, if it is its turn. */
  #admit(): SequenceUpdate[] {
    const { preempt, start } = admit(this.#state, this.#limits);
    if (preempt !== undefined) this.#park(preempt);
    if (start === undefined) return [];
    const { sequence, slab } = start;
    this.#waiting = this.#waiting.filter((one) => one !== sequence);
    try {
      this.#slab.begin(sequence, this.#running, slab);
    } catch {
      // The slab's memory can't be had. Whoever needs less may still fit.
      return [endUpdate(sequence, "failed")];
    }
    if (sequence.startedAtMs === undefined) {
      sequence.startedAtMs = this.#now();
      this.#queuedMs.push(sequence.startedAtMs - sequence.submittedAtMs);
    }
    if (sequence.length === sequence.promptTokens) sequence.cachedTokens = sequence.past;
    this.#prefilling = sequence;
    return [];
  }

  /** Sends a row back to the queue. Its tokens stay where they are, until somebody needs the slot. */
  #park(sequence: Sequence): void {
    const row = this.#running.indexOf(sequence);
    this.#slab.retire(sequence);
    if (row >= 0) this.#close(row);
    else this.#prefilling = undefined;
    this.#queue(sequence);
    this.#preemptions += 1;
  }

  /** Samples everything that has logits, lets finished rows go and a prefilled one join. */
  #publish({ decode, chunk }: Plan, logits: Float32Array): SequenceUpdate[] {
    const { vocabSize } = this.#options.runtime.limits;
    const logitsOf = (row: number) => logits.subarray(row * vocabSize, (row + 1) * vocabSize);
    const updates = decode.map((sequence, row) => {
      sequence.past += 1;
      return this.#sample(sequence, logitsOf(row));
    });
    if (chunk !== undefined) {
      const sample = (token: number) => this.#sample(chunk.sequence, logitsOf(decode.length + token));
      if (chunk.sequence === this.#prefilling) updates.push(...this.#publishPrompt(chunk, () => sample(0)));
      else updates.push(...this.#publishGuess(chunk, sample));
    }

    const isOver = new Map(updates.map(({ id, status }) => [id, status]));
    // From the last row down, so that the row that fills a gap is one that stays.
    for (let row = this.#running.length - 1; row >= 0; row--) {
      const sequence = this.#running[row];
      const status = sequence === undefined ? undefined : isOver.get(sequence.id);
      if (sequence !== undefined && status !== undefined && status !== "running") this.#leave(row, status);
    }
    return updates;
  }

  /** A prompt goes on, or ends and joins the running rows with its first token. */
  #publishPrompt({ sequence, tokens, sampled }: Chunk, sample: () => SequenceUpdate): SequenceUpdate[] {
    sequence.past += tokens.length;
    if (sampled === 0) return [];
    const update = sample();
    this.#prefilling = undefined;
    sequence.suspect = false;
    // Also one that ends with its first token: the one way to leave is through `#leave`.
    this.#slab.move(sequence, this.#running.length);
    this.#running.push(sequence);
    return [update];
  }

  /**
   * The tokens behind a row's own, as far as they were guessed right. Of a wrong guess nothing is left: its keys and
   * values lie where `past` ends, and the next steps write over them.
   *
   * @param sample - draws the token behind the guessed one of this place
   */
  #publishGuess({ sequence, tokens }: Chunk, sample: (token: number) => SequenceUpdate): SequenceUpdate[] {
    const updates: SequenceUpdate[] = [];
    this.#draftedTokens += tokens.length;
    for (const [place, token] of tokens.entries()) {
      // A row that came to an end without a token has no more to be fed.
      if (sequence.tokens[sequence.length - 1] !== token || sequence.past !== sequence.length - 1) break;
      this.#acceptedTokens += 1;
      if (this.#hasEnded(sequence)) break;
      sequence.past += 1;
      updates.push(sample(place));
    }
    return updates;
  }

  #sample(sequence: Sequence, logits: Float32Array): SequenceUpdate {
    const { id, sampling, history, masks, cachedTokens, logprobs: alternatives } = sequence;
    if (alternatives !== undefined) this.#logprobs.observe(logits, alternatives);
    const mask = masks?.read(this.#options.maskWaitMs);
    if (masks !== undefined && mask === undefined) return endUpdate(sequence, "stuck");
    const token = this.#sampler.sample(logits, sampling, history, mask);
    if (token === undefined) return endUpdate(sequence, "poisoned");

    sequence.tokens[sequence.length] = token;
    sequence.length += 1;
    history.note(token);
    if (this.#limits.speculationTokens > 0) sequence.guesses.observe(sequence.tokens.subarray(0, sequence.length));
    const status = this.#statusAfter(sequence, token);
    if (status === "running") masks?.tell(token);
    if (alternatives === undefined) return { id, token, status, cachedTokens };
    return { id, token, status, cachedTokens, logprobs: this.#logprobs.read(token) };
  }

  #hasEnded(sequence: Sequence): boolean {
    return this.#statusAfter(sequence, sequence.tokens[sequence.length - 1] ?? -1) !== "running";
  }

  #statusAfter({ history, maxTokens }: Sequence, token: number): SequenceStatus {
    if (this.#ends.has(token)) return "stop";
    return history.generated >= maxTokens ? "length" : "running";
  }

  /** A row that has ended: what it computed is worth keeping, unless it is not numbers. */
  #leave(row: number, status: SequenceStatus): void {
    const sequence = this.#running[row];
    if (sequence === undefined) return;
    if (status === "poisoned") this.#slab.distrust(sequence);
    else this.#slab.retire(sequence);
    this.#noteService(sequence);
    this.#close(row);
  }

  /** Takes a row out of the running ones and closes the gap. */
  #close(row: number): void {
    const last = this.#running.pop();
    if (last === undefined || row === this.#running.length) return;
    this.#slab.move(last, row);
    this.#running[row] = last;
  }

  #noteService({ startedAtMs }: Sequence): void {
    if (startedAtMs === undefined) return;
    const tookMs = this.#now() - startedAtMs;
    this.#serviceMs = this.#serviceMs === undefined ? tookMs : mix(this.#serviceMs, tookMs, SERVICE_WEIGHT);
  }

  /**
   * After a failed run the KV of its rows is undefined, and any of them may be what made it fail. Each is prefilled
   * again, alone; whoever fails alone, or once too often in company, is given up.
   */
  #recover({ decode, chunk }: Plan): SequenceUpdate[] {
    const batch = chunk === undefined ? [...decode] : [...new Set([...decode, chunk.sequence])];
    this.#remove((sequence) => batch.includes(sequence), { keep: false });
    const updates: SequenceUpdate[] = [];
    for (const sequence of batch) {
      sequence.failures += 1;
      sequence.suspect = true;
      if (batch.length === 1 || sequence.failures > FAILURES_MAX) updates.push(endUpdate(sequence, "failed"));
      else this.#queue(sequence);
    }
    return updates;
  }

  #queue(sequence: Sequence): void {
    const behind = this.#waiting.findLastIndex(({ rankMs }) => rankMs <= sequence.rankMs);
    this.#waiting.splice(behind + 1, 0, sequence);
  }

  /** Takes sequences out of wherever they are. What they have computed is kept, unless it can't be trusted. */
  #remove(
    isMeant: (sequence: Sequence, isWaiting: boolean) => boolean,
    { keep = true }: { readonly keep?: boolean } = {},
  ): Sequence[] {
    const removed = this.#waiting.filter((sequence) => isMeant(sequence, true));
    if (removed.length > 0) this.#waiting = this.#waiting.filter((sequence) => !removed.includes(sequence));
    const prefilling = this.#prefilling;
    if (prefilling !== undefined && isMeant(prefilling, false)) {
      if (keep) this.#slab.retire(prefilling);
      this.#prefilling = undefined;
      removed.push(prefilling);
    }
    for (let row = this.#running.length - 1; row >= 0; row--) {
      const sequence = this.#running[row];
      if (sequence === undefined || !isMeant(sequence, false)) continue;
      if (keep) this.#slab.retire(sequence);
      this.#close(row);
      removed.push(sequence);
    }
    return removed;
  }
}

/** The plan in the runtime's terms. */
function toBatch({ decode, chunk }: Plan): StepBatch {
  const rows = {
    tokens: Int32Array.from(decode, ({ tokens, length }) => tokens[length - 1] ?? 0),
    pasts: Int32Array.from(decode, ({ past }) => past),
  };
  if (chunk === undefined) return { decode: rows };
  const { sequence, tokens, sampled } = chunk;
  // A guess goes behind the row's own token, which is fed in the same run.
  const past = decode.includes(sequence) ? sequence.past + 1 : sequence.past;
  return { decode: rows, prefill: { slot: sequence.slot, past, tokens, sampled } };
}

function endUpdate({ id, cachedTokens }: Sequence, status: SequenceStatus): SequenceUpdate {
  return { id, token: -1, status, cachedTokens };
}

function mix(old: number, latest: number, weight: number): number {
  return old * (1 - weight) + latest * weight;
}
