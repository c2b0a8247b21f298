/**
 * Commands of many requests in few calls, for a store that is reached by a call of its own and not over a connection: a
 * few calls are under way at once, and what is asked meanwhile goes together in the next. A call is most of what a hit
 * from the region costs on workerd (481 µs a request with one each, 289 with those that wait sharing them, at 32
 * connections). Where few ask at once each command goes at once and alone. Knows no command and no protocol.
 *
 * A call belongs to the request that makes it, and only that request can wait for it. What crosses from one request to
 * another is a promise that was made in the one and is resolved in the other, which workerd carries over
 * (`handle_cross_request_promise_resolution`, on by its compatibility date); no request hears of another's commands.
 *
 * A request can end in the middle, and with it its call. So nobody relies on another to hear of that: who waits for
 * another's call has a timer, and a call's place is free again once its time is over.
 */
import type { Command, SendCommand } from "./redis.ts";
import { StoreUnavailable } from "./regional-store.ts";

/** One command's reply, as the Upstash protocol has it. */
export type CommandReply = { readonly result: unknown } | { readonly error: string };

/**
 * Makes one call for several commands.
 *
 * @returns a reply for each, in their order
 * @throws {StoreUnavailable} where there is none for any
 */
export type CallStore = (commands: readonly Command[], timeoutMs: number) => Promise<readonly CommandReply[]>;

export interface SharingOptions {
  /** Of each command, its answer included. */
  readonly timeoutMs: number;
  /** Commands that may wait for a call. */
  readonly pendingMax: number;
  /** Milliseconds from any fixed point. */
  readonly now: () => number;
}

/** More than one, so that a request mostly waits for less than a whole call before its own; more share less. */
const CALLS_MAX = 4;
/** Of one call: what redis-rest and Upstash take many times over. */
const COMMANDS_MAX = 64;
/** A longer command, an answer to be kept, has a call of its own: nobody is to wait for its bytes. */
const SHARED_CHARS_MAX = 16_384;

/** Commands one by one, out of calls that take several. */
export function shareCalls(call: CallStore, options: SharingOptions): SendCommand {
  const sharing = new Sharing(call, options);
  return async (command, ownTimeoutMs) => {
    // One with less time than usual would end others' call with its own.
    if (ownTimeoutMs !== undefined || charsOf(command) > SHARED_CHARS_MAX) {
      const [reply] = await call([command], ownTimeoutMs ?? options.timeoutMs);
      return resultOf(reply);
    }
    return resultOf(await sharing.ask(command));
  };
}

/** What one who waits is told: its reply, or that the next call is its to make. */
type Word = CommandReply | "call";

interface Waiting {
  readonly command: Command;
  readonly word: PromiseWithResolvers<Word>;
}

class Sharing {
  readonly #call: CallStore;
  readonly #options: SharingOptions;
  /** Of the calls under way: when each is over at the latest. */
  readonly #places = new Set<{ readonly overMs: number }>();
  /** The longest waiting first. */
  readonly #waiting = new Set<Waiting>();

  constructor(call: CallStore, options: SharingOptions) {
    this.#call = call;
    this.#options = options;
  }

  async ask(command: Command): Promise<CommandReply | undefined> {
    if (this.#hasPlace()) return this.#callFor(command);
    const { pendingMax, timeoutMs } = this.#options;
    if (this.#waiting.size >= pendingMax) {
      throw new StoreUnavailable("too many commands wait for Redis", { heard: "not-asked" });
    }
    const own: Waiting = { command, word: Promise.withResolvers() };
    this.#waiting.add(own);
    let giveUp = own.word.reject;
    const timer = setTimeout(() => {
      // What was given up before it was sent is never run.
      this.#waiting.delete(own);
      giveUp(new StoreUnavailable("timeout", { heard: "silent" }));
    }, timeoutMs);
    try {
      const word = await own.word.promise;
      if (word !== "call") return word;
      // The call has all of its time, for those that go with it; this one has what it has not waited yet.
      const late = Promise.withResolvers<never>();
      giveUp = late.reject;
      return await Promise.race([this.#callFor(command), late.promise]);
    } finally {
      clearTimeout(timer);
    }
  }

  /** One whose request has ended in the middle has left its place behind. */
  #hasPlace(): boolean {
    const nowMs = this.#options.now();
    for (const place of this.#places) if (place.overMs < nowMs) this.#places.delete(place);
    return this.#places.size < CALLS_MAX;
  }

  /** Makes a call for the command and those that wait. */
  async #callFor(command: Command): Promise<CommandReply | undefined> {
    const { timeoutMs, now } = this.#options;
    const others = this.#takeWaiting(COMMANDS_MAX - 1);
    const place = { overMs: now() + timeoutMs };
    this.#places.add(place);
    try {
      const [own, ...replies] = await this.#call([command, ...others.map((other) => other.command)], timeoutMs);
      for (const [index, { word }] of others.entries()) word.resolve(replies[index] ?? UNREADABLE);
      return own;
    } catch (error) {
      for (const { word } of others) word.reject(error);
      throw error;
    } finally {
      this.#places.delete(place);
      const [next] = this.#takeWaiting(1);
      next?.word.resolve("call");
    }
  }

  #takeWaiting(most: number): readonly Waiting[] {
    const taken: Waiting[] = [];
    for (const one of this.#waiting) {
      if (taken.length === most) break;
      this.#waiting.delete(one);
      taken.push(one);
    }
    return taken;
  }
}

const UNREADABLE: CommandReply = { error: "the store's answer can't be read" };

function resultOf(reply: CommandReply | undefined = UNREADABLE): unknown {
  if ("error" in reply) throw new StoreUnavailable(reply.error);
  return reply.result;
}

function charsOf(command: Command): number {
  let chars = 0;
  for (const argument of command) if (typeof argument === "string") chars += argument.length;
  return chars;
}
