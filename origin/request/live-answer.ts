/**
 * One answer while it is being made, and everybody who reads it. Each reader begins at the first event, whenever he
 * comes, and reads at his own pace; an event is kept once for all of them, so a slow reader holds a position and the
 * answer, which `max_tokens` bounds, and nothing else. When the last one has left an answer that nobody else wants, its
 * maker is told to stop. Knows neither engine nor HTTP.
 */
import type { TextEvent } from "../stream/text-reader.ts";

/** An event of one choice; `generated` counts the tokens of all choices until then. */
export type AnswerEvent = TextEvent & { readonly index: number };

/** `queued`: the answer waits for its turn, as the first, second, … in line; only for readers who want to know. */
export type LiveEvent = AnswerEvent | { readonly type: "queued"; readonly position: number };

export interface LiveAnswerOptions {
  /** What the answer's id ends with, and when it was begun in Unix seconds: the same for every reader. */
  readonly suffix: string;
  readonly created: number;
  /** Called once, when it has finished, failed or been given up. */
  readonly onEnd: () => void;
}

/** Everybody left before the end. */
export class Abandoned extends Error {
  override readonly name = "Abandoned";
}

export class LiveAnswer {
  readonly suffix: string;
  readonly created: number;
  /** Tokens of the prompt, as soon as it is known. */
  promptTokens: number | undefined;
  /** Of those, how many did not have to be computed; known at the end. */
  cachedTokens = 0;
  readonly #onEnd: () => void;
  readonly #events: AnswerEvent[] = [];
  readonly #readers = new Set<LiveReader>();
  #position: number | undefined;
  #stop: (() => void) | undefined;
  /** Set once. */
  #end: { readonly failure: Error | undefined } | undefined;

  constructor({ suffix, created, onEnd }: LiveAnswerOptions) {
    this.suffix = suffix;
    this.created = created;
    this.#onEnd = onEnd;
  }

  /** Whether anything may still come. The maker looks before it makes more. */
  get open(): boolean {
    return this.#end === undefined;
  }

  /** How the maker is stopped when everybody has left. */
  whenAbandoned(stop: () => void): void {
    if (this.#end?.failure instanceof Abandoned) stop();
    else this.#stop = stop;
  }

  publish(event: AnswerEvent): void {
    if (!this.open) return;
    this.#position = undefined;
    this.#events.push(event);
    this.#wake();
  }

  queue(position: number): void {
    if (!this.open) return;
    this.#position = position;
    this.#wake();
  }

  finish(): void {
    this.#close(undefined);
  }

  fail(failure: Error): void {
    this.#close(failure);
  }

  /** A reader at the answer's beginning. */
  join(): LiveReader {
    const reader = new LiveReader({
      events: this.#events,
      position: () => this.#position,
      end: () => this.#end,
      leave: (leaving) => this.#leave(leaving),
    });
    this.#readers.add(reader);
    return reader;
  }

  #leave(reader: LiveReader): void {
    this.#readers.delete(reader);
    if (this.#readers.size > 0 || !this.open) return;
    this.#close(new Abandoned("everybody who read the answer has left"));
    this.#stop?.();
  }

  #close(failure: Error | undefined): void {
    if (!this.open) return;
    this.#end = { failure };
    this.#onEnd();
    this.#wake();
  }

  #wake(): void {
    for (const reader of this.#readers) reader.wake();
  }
}

interface LiveReaderOptions {
  readonly events: readonly AnswerEvent[];
  readonly position: () => number | undefined;
  readonly end: () => { readonly failure: Error | undefined } | undefined;
  readonly leave: (reader: LiveReader) => void;
}

/** One reader's place in an answer. Disposing of it is leaving. */
export class LiveReader implements Disposable {
  readonly #options: LiveReaderOptions;
  #next = 0;
  #tellsPosition = false;
  #toldPosition: number | undefined;
  #left = false;
  #wake: (() => void) | undefined;

  constructor(options: LiveReaderOptions) {
    this.#options = options;
  }

  /**
   * What has come since the last call, at most `eventsMax` of it; empty at the end. Waits until there is something.
   *
   * @throws {Error} what the answer failed of, once everything before it is read; {@link Abandoned} after leaving
   */
  async read(eventsMax: number): Promise<readonly LiveEvent[]> {
    for (;;) {
      const events = this.#take(eventsMax);
      if (events !== undefined) return events;
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      await promise;
    }
  }

  /** From now on this reader wants to know where in line the answer waits. */
  tellPosition(): void {
    this.#tellsPosition = true;
    this.wake();
  }

  /** There is something new. */
  wake(): void {
    this.#wake?.();
    this.#wake = undefined;
  }

  [Symbol.dispose](): void {
    if (this.#left) return;
    this.#left = true;
    this.#options.leave(this);
    this.wake();
  }

  #take(eventsMax: number): readonly LiveEvent[] | undefined {
    const { events, position, end } = this.#options;
    if (this.#left) throw new Abandoned("this reader has left");
    if (this.#next < events.length) {
      const taken = events.slice(this.#next, this.#next + eventsMax);
      this.#next += taken.length;
      return taken;
    }
    const ended = end();
    if (ended?.failure !== undefined) throw ended.failure;
    if (ended !== undefined) return [];
    const now = this.#tellsPosition ? position() : undefined;
    if (now === undefined || now === this.#toldPosition) return undefined;
    this.#toldPosition = now;
    return [{ type: "queued", position: now }];
  }
}
