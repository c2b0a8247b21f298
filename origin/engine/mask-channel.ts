/**
 * How a row that must keep to a grammar learns which tokens may come next: memory that its engine shares with the thread
 * that knows the grammar. The engine writes the token it chose and goes on to the next step; the other thread writes the
 * mask while the model computes. Knows no grammar.
 *
 * Words: how many masks were asked for, how many were given, whether the channel is closed, the last token, the mask.
 */

/** What a sequence carries to the engine. */
export interface MaskSource {
  readonly channel: SharedArrayBuffer;
  /** One word, changed and notified whenever a channel of the grammar's thread has a token. */
  readonly bell: SharedArrayBuffer;
}

const ASKED = 0;
const GIVEN = 1;
const CLOSED = 2;
const TOKEN = 3;
const MASK = 4;

/** @param vocabSize - a bit for each token is needed */
export function createMaskChannel(vocabSize: number): SharedArrayBuffer {
  const channel = new SharedArrayBuffer((MASK + Math.ceil(vocabSize / 32)) * Int32Array.BYTES_PER_ELEMENT);
  // The first mask is wanted before there is any token.
  new Int32Array(channel)[ASKED] = 1;
  return channel;
}

/** Ends the waiting of whoever waits: no mask will come any more. */
export function closeMaskChannel(channel: SharedArrayBuffer): void {
  const words = new Int32Array(channel);
  Atomics.store(words, CLOSED, 1);
  Atomics.notify(words, GIVEN);
}

/** The engine's side. */
export class MaskReader {
  readonly #words: Int32Array;
  readonly #bell: Int32Array;
  readonly #mask: Int32Array;

  constructor({ channel, bell }: MaskSource) {
    this.#words = new Int32Array(channel);
    this.#bell = new Int32Array(bell);
    this.#mask = new Int32Array(channel, MASK * Int32Array.BYTES_PER_ELEMENT);
  }

  /** The row went on by this token. Every telling is followed by a reading before the next. */
  tell(token: number): void {
    this.#words[TOKEN] = token;
    Atomics.add(this.#words, ASKED, 1);
    Atomics.add(this.#bell, 0, 1);
    Atomics.notify(this.#bell, 0);
  }

  /**
   * The mask for the next token. Blocks the thread until it is there, which it mostly is already.
   *
   * @param waitMs - the longest wait; every other row waits as well
   * @returns `undefined` when it did not come in time, will not come, or allows no token at all
   */
  read(waitMs: number): Int32Array | undefined {
    const asked = Atomics.load(this.#words, ASKED);
    const endMs = performance.now() + waitMs;
    for (;;) {
      const given = Atomics.load(this.#words, GIVEN);
      if (Atomics.load(this.#words, CLOSED) !== 0) return undefined;
      if (given === asked) return this.#mask.some((word) => word !== 0) ? this.#mask : undefined;
      if (Atomics.wait(this.#words, GIVEN, given, Math.max(endMs - performance.now(), 0)) === "timed-out") {
        return undefined;
      }
    }
  }
}

/** The side of the thread that knows the grammar. */
export class MaskWriter {
  readonly #words: Int32Array;
  #given = 0;

  constructor(channel: SharedArrayBuffer) {
    this.#words = new Int32Array(channel);
  }

  /** The token that a mask is asked for after; -1 for the first; `undefined` when nothing is asked. */
  asked(): number | undefined {
    if (Atomics.load(this.#words, ASKED) === this.#given) return undefined;
    return this.#given === 0 ? -1 : (this.#words[TOKEN] ?? -1);
  }

  /** Answers the last question. */
  give(mask: Int32Array): void {
    this.#words.set(mask.subarray(0, this.#words.length - MASK), MASK);
    this.#given += 1;
    Atomics.store(this.#words, GIVEN, this.#given);
    Atomics.notify(this.#words, GIVEN);
  }
}
