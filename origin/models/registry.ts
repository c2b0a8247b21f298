/**
 * The models that one origin serves, in the order in which they were named: which of them a request means, and what can
 * be said of them all. Each has its own engine, queue and answers under way, so that one that is full or has died takes
 * nothing from the others. Starts and stops none.
 */
import type { Model } from "../../shared/completion-response.ts";
import { ColdpathError } from "../../shared/errors.ts";
import type { Admission } from "../request/admit.ts";
import type { Coalescer } from "../request/coalesce.ts";
import type { ServedEncoder } from "../request/answer-embeddings.ts";
import type { Embedder } from "../embed/embedder.ts";
import type { EngineClient } from "../engine/client.ts";
import type { EngineCounters } from "../engine/engine.ts";
import type { Occupancy } from "../engine/messages.ts";
import type { EngineStatus } from "../engine/supervisor.ts";
import type { GrammarService } from "../grammar/service.ts";
import type { ModelMetrics } from "../operate/metrics.ts";
import type { ServedModel } from "../request/prepare.ts";
import type { PromptEncoder } from "../prompts/encoder.ts";
import type { SelfTest } from "../runtime/port/runtime.ts";

/** What computes a model, as far as whoever watches over it needs to know. Its values are those of now. */
interface RunningEngine {
  readonly status: EngineStatus;
  readonly occupancy: Occupancy;
  /** Absent where there are neither keys and values nor drafts. */
  readonly counters?: EngineCounters;
  /** Absent where it was not tested. */
  readonly selfTest?: SelfTest | undefined;
  /** Ends what is open, and the engine's thread. */
  stop(): Promise<void>;
}

interface Service {
  readonly admission: Admission;
  readonly metrics: ModelMetrics;
}

/** A model that makes text, and what its requests meet. */
export interface DecoderService extends Service {
  readonly task: "generate";
  readonly model: ServedModel;
  readonly engine: RunningEngine & Pick<EngineClient, "submit">;
  readonly grammars: Pick<GrammarService, "lease">;
  readonly prompts: Pick<PromptEncoder, "encode">;
  readonly coalescer: Coalescer;
}

/** A model that makes vectors. */
export interface EncoderService extends Service {
  readonly task: "embed";
  readonly model: ServedEncoder;
  readonly engine: RunningEngine & Pick<Embedder, "embed">;
}

export type ModelService = DecoderService | EncoderService;

/**
 * `loading` until every model is there → `ready`, `degraded` while some can answer and others can't, `restarting` while
 * none can and one will, → `draining`, or `failed` when none ever will.
 */
export type OriginStatus = "loading" | "ready" | "degraded" | "restarting" | "draining" | "failed";

export class ServedModels {
  /** By id, in order; `undefined` until it is loaded. */
  readonly #services: Map<string, ModelService | undefined>;
  #closed: "draining" | "failed" | undefined;

  /** @param ids - of the models that are going to be served, the default one first; each once */
  constructor(ids: readonly string[]) {
    this.#services = new Map(ids.map((id) => [id, undefined]));
  }

  /** The models that are loaded. */
  get loaded(): readonly ModelService[] {
    return [...this.#services.values()].filter((service) => service !== undefined);
  }

  get status(): OriginStatus {
    if (this.#closed !== undefined) return this.#closed;
    if (this.loaded.length < this.#services.size) return "loading";
    const statuses = this.loaded.map(({ engine }) => engine.status);
    if (statuses.every((status) => status === "ready")) return "ready";
    if (statuses.includes("ready")) return "degraded";
    return statuses.includes("restarting") ? "restarting" : "failed";
  }

  /** Each model's own status. */
  get statuses(): Readonly<Record<string, "loading" | EngineStatus>> {
    return Object.fromEntries([...this.#services].map(([id, service]) => [id, service?.engine.status ?? "loading"]));
  }

  /** Whether any of them may still answer something, now or later. */
  get hasFuture(): boolean {
    return Object.values(this.statuses).some((status) => status !== "failed" && status !== "stopped");
  }

  /** A model is loaded. */
  add(service: ModelService): void {
    this.#services.set(service.model.id, service);
  }

  /** Nobody gets anything any more. */
  close(why: "draining" | "failed"): void {
    this.#closed = why;
  }

  /**
   * What `/v1/models` says: all of them, also those that are being started anew, whose answers an edge may still have.
   *
   * @throws {ColdpathError} `not_ready` before all are loaded, and at the end
   */
  list(): readonly Model[] {
    this.#expectOpen();
    return this.loaded.map(({ task, model: { id, created, digest, contextLength } }) => ({
      id,
      object: "model",
      created,
      owned_by: "coldpath",
      digest,
      context_length: contextLength,
      task,
    }));
  }

  /**
   * The model of a request that names none: the first that makes text.
   *
   * @throws {ColdpathError} `not_ready`; `invalid_request` where there is none
   */
  default(): DecoderService {
    this.#expectOpen();
    const decoder = this.loaded.find((service) => service.task === "generate");
    if (decoder !== undefined) return decoder;
    throw new ColdpathError(
      "invalid_request",
      "no model that makes text is served here: POST /v1/embeddings takes texts",
    );
  }

  /**
   * The model that is asked for text.
   *
   * @throws {ColdpathError} `not_ready`, `model_not_found`, `invalid_request` where it makes vectors
   */
  decoder(id: string): DecoderService {
    const service = this.#find(id);
    if (service.task === "generate") return expectReady(service);
    const message = `the model "${id}" makes vectors and no text: it takes POST /v1/embeddings`;
    throw new ColdpathError("invalid_request", message, { param: "model" });
  }

  /**
   * The model that is asked for vectors.
   *
   * @throws {ColdpathError} as `decoder` does
   */
  encoder(id: string): EncoderService {
    const service = this.#find(id);
    if (service.task === "embed") return expectReady(service);
    const message = `the model "${id}" makes text and no vectors: it takes POST /v1/chat/completions`;
    throw new ColdpathError("invalid_request", message, { param: "model" });
  }

  #find(id: string): ModelService {
    this.#expectOpen();
    const service = this.#services.get(id);
    if (service !== undefined) return service;
    throw new ColdpathError("model_not_found", `the model "${id}" is not served here`, { param: "model" });
  }

  #expectOpen(): void {
    const { status } = this;
    if (status === "loading" || this.#closed !== undefined) throw notReady(status);
  }
}

function expectReady<T extends ModelService>(service: T): T {
  const { status } = service.engine;
  if (status !== "ready") throw notReady(status);
  return service;
}

function notReady(status: string): ColdpathError {
  return new ColdpathError("not_ready", `the model is not available: ${status}`, { retryAfterSeconds: 1 });
}
