/**
 * One request's account: what is noted while it is served becomes one log line and a few metrics when it ends, once,
 * whoever ends it. Never holds a prompt or an answer.
 */
import type { FinishReason } from "../../shared/completion-response.ts";
import type { ColdpathError } from "../../shared/errors.ts";
import type { Metrics, ModelMetrics } from "../operate/metrics.ts";

/** A line of the log, written as JSON. */
export type Log = (line: Readonly<Record<string, unknown>>) => void;

/** nginx's number for a client that closed the connection. */
export const CLIENT_CLOSED = 499;

export interface ExchangeOptions {
  readonly requestId: string;
  readonly method: string;
  readonly path: string;
  /** The path where it is one of ours, else `other`: what metrics may be labelled with. */
  readonly route: string;
  readonly metrics: Pick<Metrics, "requests">;
  readonly log: Log;
  /** Monotonic milliseconds. */
  readonly now: () => number;
}

export class Exchange {
  readonly requestId: string;
  readonly #options: ExchangeOptions;
  readonly #startedMs: number;
  /** Known once it is clear who answers; before, there is nothing to note. */
  #model: { readonly id: string; readonly metrics: ModelMetrics } | undefined;
  #coalesced: true | undefined;
  #promptTokens: number | undefined;
  #generatedTokens = 0;
  #firstTokenMs: number | undefined;
  #lastTokenMs = 0;
  #finish: FinishReason | undefined;
  #ended = false;

  constructor(options: ExchangeOptions) {
    this.requestId = options.requestId;
    this.#options = options;
    this.#startedMs = options.now();
  }

  /** Which model answers. */
  noteModel(id: string, metrics: ModelMetrics): void {
    this.#model = { id, metrics };
  }

  /** The answer is being made for another request, and this one reads it too. */
  noteCoalesced(): void {
    this.#coalesced = true;
    this.#model?.metrics.coalesced.inc();
  }

  /** The prompt's length, as soon as it is known. */
  notePrompt(tokens: number): void {
    this.#promptTokens = tokens;
  }

  /** How many generated tokens have reached this request by now. */
  noteGenerated(tokens: number): void {
    // A piece of text that ends the answer, or says the prompt again, need not have brought a token.
    if (tokens <= this.#generatedTokens) return;
    const metrics = this.#model?.metrics;
    const nowMs = this.#options.now();
    if (this.#firstTokenMs === undefined) {
      this.#firstTokenMs = nowMs;
      metrics?.timeToFirstToken.observe((nowMs - this.#startedMs) / 1000);
    } else {
      metrics?.interTokenLatency.observe((nowMs - this.#lastTokenMs) / 1000);
    }
    this.#lastTokenMs = nowMs;
    this.#generatedTokens = tokens;
  }

  noteFinish(reason: FinishReason): void {
    this.#finish = reason;
  }

  /** Closes the account; later calls do nothing. `status` is what the client got, or would have got. */
  end({ status, error }: { readonly status: number; readonly error?: ColdpathError }): void {
    if (this.#ended) return;
    this.#ended = true;
    const { requestId, method, path, route, metrics, log } = this.#options;
    metrics.requests.inc({ route, status: String(status) });
    this.#observeTimes();
    log({
      level: status >= 500 ? "error" : "info",
      event: "request",
      requestId,
      method,
      path,
      status,
      model: this.#model?.id,
      durationMs: round(this.#options.now() - this.#startedMs),
      promptTokens: this.#promptTokens,
      completionTokens: this.#promptTokens === undefined ? undefined : this.#generatedTokens,
      firstTokenMs: this.#firstTokenMs === undefined ? undefined : round(this.#firstTokenMs - this.#startedMs),
      finish: this.#finish,
      coalesced: this.#coalesced,
      code: error?.code,
      // The whole story of what no client is told.
      cause: error?.cause instanceof Error ? error.cause.stack : error?.cause,
    });
  }

  #observeTimes(): void {
    const metrics = this.#model?.metrics;
    if (metrics === undefined || this.#firstTokenMs === undefined) return;
    metrics.requestLatency.observe((this.#lastTokenMs - this.#startedMs) / 1000);
    if (this.#generatedTokens < 2) return;
    metrics.timePerOutputToken.observe((this.#lastTokenMs - this.#firstTokenMs) / 1000 / (this.#generatedTokens - 1));
  }
}

function round(ms: number): number {
  return Math.round(ms * 10) / 10;
}
