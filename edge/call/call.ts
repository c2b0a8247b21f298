/** One request on its way: its id, how long each step took, and the one line that is logged about it. */
import { decodeBody } from "./decode-body.ts";
import type { Incoming } from "./incoming.ts";
import type { Platform } from "../platform/platform.ts";
import type { StoreWaiter } from "../regional/regional-store.ts";
import { type Reply, setHeader } from "./reply.ts";

/** What the log line says; never a prompt, an answer or a token. */
export interface CallRecord {
  tenant?: string;
  subject?: string;
  model?: string;
  tier?: "isolate" | "regional";
  /** A stored answer did not open. */
  unreadable?: true;
  cache?: "HIT" | "STALE" | "MISS" | "BYPASS" | "COALESCED";
  /** Why the call went on with less than usual. */
  degraded?: string;
  /** Why a complete answer was not kept: another model gave it than the one it was identified with, or a purge came. */
  notKept?: "other-model" | "purged";
  /** How a streamed answer ended. */
  ended?: "complete" | "aborted" | "broken";
  usedTokens?: number;
  /** The error's code; with `cause` where the client was told less. */
  error?: string;
  cause?: string;
}

/** Work that must outlive the response. */
export type WaitUntil = (work: Promise<unknown>) => void;

/** Told how a call ended. */
export type Observe = (ended: {
  readonly route: string;
  readonly status: number;
  readonly ms: number;
  readonly record: CallRecord;
}) => void;

export class Call implements StoreWaiter {
  readonly request: Incoming;
  readonly requestId: string;
  readonly platform: Platform;
  readonly waitUntil: WaitUntil;
  readonly record: CallRecord = {};
  storeWaitedMs = 0;
  /** Unix milliseconds; the request's own "now" for whatever need not be finer. */
  readonly startedMs: number;
  readonly #timings: { readonly step: string; readonly ms: number }[] = [];
  #reading: Promise<string> | undefined;
  #body: string | undefined;
  #status = 0;
  #open: Promise<unknown> | undefined;

  readonly #observe: Observe | undefined;

  /** @param observe - told once nothing more can happen */
  constructor(request: Incoming, platform: Platform, waitUntil: WaitUntil, observe?: Observe) {
    this.#observe = observe;
    this.request = request;
    this.platform = platform;
    this.waitUntil = waitUntil;
    this.requestId = requestIdOf(request) ?? platform.randomId();
    this.startedMs = platform.now();
  }

  /** Of the URL, without its query. */
  get path(): string {
    return this.request.path;
  }

  /**
   * The body, read once however often it is asked for.
   *
   * @throws {ColdpathError} `body_too_large`, or `invalid_json` where it is not UTF-8
   */
  text(bytesMax: number): Promise<string> {
    return (this.#reading ??= this.request.bytes(bytesMax).then((bytes) => (this.#body = decodeBody(bytes, bytesMax))));
  }

  /** What `text` has read; `undefined` before that. */
  get body(): string | undefined {
    return this.#body;
  }

  /** Runs one step and notes its duration, also when it fails. */
  async step<Result>(step: string, run: () => Promise<Result>): Promise<Result> {
    const startedMs = this.platform.now();
    try {
      return await run();
    } finally {
      this.noteStep(step, startedMs);
    }
  }

  /** For a step that was not run by `step`. */
  noteStep(step: string, startedMs: number): void {
    this.#timings.push({ step, ms: this.platform.now() - startedMs });
  }

  /** Every reply says the request's id and the steps' durations. */
  stamp(reply: Reply): Reply {
    setHeader(reply, "x-request-id", this.requestId);
    let timing = "";
    for (const { step, ms } of this.#timings) timing += `${timing === "" ? "" : ", "}${step};dur=${ms}`;
    if (timing !== "") setHeader(reply, "server-timing", timing);
    return reply;
  }

  /** The call goes on after its response's headers, until this ends, too; it never rejects. */
  continuesIn(work: Promise<unknown>): void {
    this.#open = this.#open === undefined ? work : Promise.all([this.#open, work]);
    this.waitUntil(work);
  }

  /** Writes the one log line once nothing more can happen. */
  end(status: number): void {
    this.#status = status;
    if (this.#open === undefined) this.#log();
    else this.waitUntil(this.#closed().then(() => this.#log()));
  }

  async #closed(): Promise<void> {
    for (let open; open !== this.#open;) {
      open = this.#open;
      await open;
    }
  }

  #log(): void {
    const ms = this.platform.now() - this.startedMs;
    this.#observe?.({ route: this.path, status: this.#status, ms, record: this.record });
    this.platform.log(this.#line(ms), this.waitUntil);
  }

  /** JSON put together by hand, because it is written on every hit: from an object of all this it took 3 µs. */
  #line(ms: number): string {
    const { method } = this.request;
    let steps = "";
    for (const { step, ms: stepMs } of this.#timings) steps += `${steps === "" ? "" : ","}"${step}":${stepMs}`;
    const record = JSON.stringify(this.record).slice(1, -1);
    return (
      `{"at":"${new Date(this.startedMs).toISOString()}","requestId":"${this.requestId}"` +
      `,"method":${JSON.stringify(method)},"path":${JSON.stringify(this.path)},"status":${this.#status}` +
      `,"ms":${ms},"steps":{${steps}}${record === "" ? "" : ","}${record}}`
    );
  }
}

/** A client's own id where it is harmless in headers, logs and signatures. */
function requestIdOf(request: Incoming): string | undefined {
  const id = request.header("x-request-id");
  return id !== null && /^[\w.-]{1,64}$/.test(id) ? id : undefined;
}
