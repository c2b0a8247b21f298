/**
 * Continuous batching: one `step()` is schedule → run → sample → publish, and rows join and leave at every step. Works
 * on token ids only; knows nothing of threads, text or HTTP. Calls never overlap: submit and cancel come between steps.
 *
 * Running rows stay packed in slots 0 to B−1. A prompt is prefilled in slot B as it is when its prefill starts; B can
 * only shrink until it joins, so the slot stays outside the running rows, and in the common case (nobody left meanwhile)
 * the row joins without a copy. A row that leaves is replaced by the last one.
 */
import type { Runtime, StepBatch } from "../runtime/runtime.ts";
import { LogprobReader, type TokenLogprobs } from "./logprobs.ts";
import { Sampler } from "./sample.ts";
import { type Plan, type ScheduleLimits, schedule } from "./scheduler.ts";
import { type Sequence, type SequenceRequest, createSequence } from "./sequence.ts";

/**
 * What became of a sequence in a step. `running`: it goes on. `stop`: the token is one of the model's end tokens.
 * `length`: the token is its last. `poisoned`: its logits were not numbers. `expired`: it waited too long. `failed`: the
 * run it was part of failed. The last three come without a token.
 */
export type SequenceStatus = "running" | "stop" | "length" | "poisoned" | "expired" | "failed";

export interface SequenceUpdate {
  readonly id: number;
  /** -1 where there is none. */
  readonly token: number;
  readonly status: SequenceStatus;
  /** Of the token, where they were asked for. */
  readonly logprobs?: TokenLogprobs;
}

export interface StepReport {
  readonly updates: readonly SequenceUpdate[];
  /** Why the run failed, for the log. Every sequence of the batch then has the status `failed`. */
  readonly failure: unknown;
}

export interface EngineOptions extends Omit<ScheduleLimits, "slots"> {
  readonly runtime: Runtime;
  /** Tokens that end an answer. */
  readonly endTokens: readonly number[];
  /** How long a sequence may wait for its prefill to start. */
  readonly queueWaitMs: number;
  /** Monotonic milliseconds. */
  readonly now: () => number;
}

export class Engine {
  readonly #options: EngineOptions;
  readonly #limits: ScheduleLimits;
  readonly #sampler: Sampler;
  readonly #logprobs: LogprobReader;
  readonly #ends: ReadonlySet<number>;
  #waiting: Sequence[] = [];
  #prefilling: Sequence | undefined;
  readonly #running: Sequence[] = [];

  constructor(options: EngineOptions) {
    const { slots, capacity, vocabSize } = options.runtime.limits;
    options.runtime.resize({ slots, capacity, kept: [] });
    this.#options = options;
    this.#limits = { slots, prefillChunkTokens: options.prefillChunkTokens };
    this.#sampler = new Sampler({ vocabSize, endTokens: options.endTokens });
    this.#logprobs = new LogprobReader(vocabSize);
    this.#ends = new Set(options.endTokens);
  }

  /** Packed: `running[i]` lives in slot `i`. */
  get running(): readonly Sequence[] {
    return this.#running;
  }

  get prefilling(): Sequence | undefined {
    return this.#prefilling;
  }

  get waiting(): readonly Sequence[] {
    return this.#waiting;
  }

  /** Whether a step has anything to do. */
  get busy(): boolean {
    return this.#running.length > 0 || this.#prefilling !== undefined || this.#waiting.length > 0;
  }

  /**
   * Queues a sequence. The caller bounds how many are open.
   *
   * @throws {RangeError} on an empty prompt, a token outside the vocabulary or more tokens than a row holds
   */
  submit(request: SequenceRequest): void {
    const { vocabSize, capacity } = this.#options.runtime.limits;
    const { prompt, maxTokens } = request;
    if (prompt.length === 0 || maxTokens < 1) throw new RangeError("a sequence needs a prompt and room for an answer");
    if (prompt.length + maxTokens > capacity) throw new RangeError(`a sequence must fit into ${capacity} tokens`);
    if (prompt.some((token) => token < 0 || token >= vocabSize))
      throw new RangeError("a token is not in the vocabulary");
    this.#waiting.push(createSequence(request, this.#options.now() + this.#options.queueWaitMs));
  }

  /** Forgets a sequence, wherever it is; its row is free for the next step. Does nothing when it has ended already. */
  cancel(id: number): void {
    const row = this.#running.findIndex((sequence) => sequence.id === id);
    if (row >= 0) this.#leave(row);
    else if (this.#prefilling?.id === id) this.#prefilling = undefined;
    else this.#waiting = this.#waiting.filter((sequence) => sequence.id !== id);
  }

  /** Advances every running row by one token and one prompt by one chunk. */
  async step(): Promise<StepReport> {
    const expired = this.#expire();
    const plan = schedule(this, this.#limits);
    if (plan.decode.length === 0 && plan.prefill === undefined) return { updates: expired, failure: undefined };

    const batch = this.#begin(plan);
    let logits: Float32Array;
    try {
      logits = await this.#options.runtime.step(batch);
    } catch (failure) {
      return { updates: [...expired, ...this.#abandon()], failure };
    }
    return { updates: [...expired, ...this.#publish(plan, logits)], failure: undefined };
  }

  /** Gives up sequences that have waited too long. They are in the order of their deadlines. */
  #expire(): SequenceUpdate[] {
    const now = this.#options.now();
    const first = this.#waiting.findIndex((sequence) => sequence.expiresAtMs > now);
    const count = first < 0 ? this.#waiting.length : first;
    return this.#waiting.splice(0, count).map(({ id }) => ({ id, token: -1, status: "expired" }));
  }

  /** Moves a newly chosen prompt from the queue to its slot and writes the plan down for the runtime. */
  #begin({ decode, prefill }: Plan): StepBatch {
    const rows = {
      tokens: Int32Array.from(decode, (sequence) => sequence.last),
      pasts: Int32Array.from(decode, (sequence) => sequence.past),
    };
    if (prefill === undefined) return { decode: rows };

    const { sequence, from, to } = prefill;
    if (sequence !== this.#prefilling) {
      this.#waiting.shift();
      this.#prefilling = sequence;
      sequence.slot = this.#running.length;
    }
    const tokens = sequence.prompt.subarray(from, to);
    const sampled = to === sequence.prompt.length ? 1 : 0;
    return { decode: rows, prefill: { slot: sequence.slot, tokens, past: from, sampled } };
  }

  /** Samples every row that has logits, lets finished rows go and a prefilled one join. */
  #publish({ decode, prefill }: Plan, logits: Float32Array): SequenceUpdate[] {
    const { vocabSize } = this.#options.runtime.limits;
    const rowLogits = (row: number) => logits.subarray(row * vocabSize, (row + 1) * vocabSize);
    const rows = decode.length;
    const updates = decode.map((sequence, row) => {
      sequence.past += 1;
      return this.#sample(sequence, rowLogits(row));
    });
    // From the last row down, so that the row that fills a gap is one that stays.
    for (let row = rows - 1; row >= 0; row--) if (updates[row]?.status !== "running") this.#leave(row);

    if (prefill === undefined) return updates;
    prefill.sequence.past = prefill.to;
    if (prefill.to < prefill.sequence.prompt.length) return updates;

    this.#prefilling = undefined;
    const update = this.#sample(prefill.sequence, rowLogits(rows));
    if (update.status === "running") this.#join(prefill.sequence);
    return [...updates, update];
  }

  #sample(sequence: Sequence, logits: Float32Array): SequenceUpdate {
    const { id, sampling, history, logprobs: alternatives } = sequence;
    if (alternatives !== undefined) this.#logprobs.observe(logits, alternatives);
    const token = this.#sampler.sample(logits, sampling, history);
    if (token === undefined) return { id, token: -1, status: "poisoned" };

    sequence.last = token;
    history.note(token);
    const status = this.#statusAfter(sequence, token);
    if (alternatives === undefined) return { id, token, status };
    return { id, token, status, logprobs: this.#logprobs.read(token) };
  }

  #statusAfter({ history, maxTokens }: Sequence, token: number): SequenceStatus {
    if (this.#ends.has(token)) return "stop";
    return history.generated >= maxTokens ? "length" : "running";
  }

  #join(sequence: Sequence): void {
    this.#place(sequence, this.#running.length);
    this.#running.push(sequence);
  }

  #leave(row: number): void {
    const last = this.#running.pop();
    if (last === undefined || row === this.#running.length) return;
    this.#place(last, row);
    this.#running[row] = last;
  }

  #place(sequence: Sequence, slot: number): void {
    if (sequence.slot !== slot) {
      this.#options.runtime.copySlot({ from: sequence.slot, to: slot, tokens: sequence.past });
    }
    sequence.slot = slot;
  }

  /** After a failed run the KV of its rows is undefined: all of them end, the queue stays. */
  #abandon(): SequenceUpdate[] {
    const lost = this.#prefilling === undefined ? [...this.#running] : [...this.#running, this.#prefilling];
    this.#running.length = 0;
    this.#prefilling = undefined;
    return lost.map(({ id }) => ({ id, token: -1, status: "failed" }));
  }
}
