/**
 * The runtime on `onnxruntime-node`'s own binding: the reference that `capi-runtime.ts` is held to, and the way out where the C
 * API can't be called. It is correct and slow: keys and values are appended in place, but the binding then copies every
 * output it hands back, the whole KV view included, on every step.
 *
 * There is a trick against the copy (a sequence as first output makes the binding throw after the run and before the
 * copies); it rests on an error path and is not used: a reference should not need an excuse.
 */
import { join } from "node:path";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { checkBatch, checkCopy, checkLoad, checkResize, checkSave } from "./port/check-batch.ts";
import type { KvModel } from "./port/kv-model.ts";
import { KvSlab } from "./port/kv-slab.ts";
import { type GraphFiles, type KvView, planRun, type RunPlan, type SmallInput } from "./port/plan-run.ts";
import {
  type KvBlock,
  type Resize,
  type Runtime,
  RuntimeError,
  type RuntimeLimits,
  type RuntimeShape,
  type StepBatch,
} from "./port/runtime.ts";
import { sessionEntries } from "./port/session-entries.ts";

export interface BindingOptions {
  readonly folder: string;
  /** Of keys and values in `float32`: the binding has no array for `float16`. */
  readonly graphs: GraphFiles;
  readonly limits: RuntimeLimits;
  readonly kv: KvModel;
  readonly threads: number;
  readonly spinning?: boolean;
  readonly shared?: boolean;
}

/** Loads the graphs of a model folder. @throws {RuntimeError} with ONNX Runtime's message */
export async function createBindingRuntime(binding: BindingOptions): Promise<Runtime> {
  const { folder, graphs, limits, kv, threads, spinning = true, shared = false } = binding;
  const options: InferenceSession.SessionOptions = {
    intraOpNumThreads: threads,
    logSeverityLevel: 4,
    extra: Object.fromEntries(sessionEntries({ spinning, shared })),
  };
  try {
    const open = (file: string) => InferenceSession.create(join(folder, file), options);
    const [plain, mixed] = [await open(graphs.plain), await open(graphs.mixed)];
    const draft = graphs.draft === undefined ? undefined : await open(graphs.draft);
    return new BindingRuntime(limits, new KvSlab(kv), { plain, mixed, ...(draft && { draft }) });
  } catch (cause) {
    throw runtimeError(cause);
  }
}

type Sessions = Readonly<Partial<Record<RunPlan["graph"], InferenceSession>>>;

class BindingRuntime implements Runtime {
  readonly limits: RuntimeLimits;
  readonly #slab: KvSlab;
  readonly #sessions: Sessions;
  /** Of the most rows that were wanted so far. */
  #logits = new Float32Array();
  /** idle → running (step begins) → idle (step ends); any → disposed. */
  #state: "idle" | "running" | "disposed" = "idle";

  constructor(limits: RuntimeLimits, slab: KvSlab, sessions: Sessions) {
    this.limits = limits;
    this.#slab = slab;
    this.#sessions = sessions;
  }

  get shape(): RuntimeShape {
    const { slots, capacity } = this.#slab;
    return { vocabSize: this.limits.vocabSize, slots, capacity };
  }

  async step(batch: StepBatch): Promise<Float32Array> {
    this.#expectIdle("run a step");
    checkBatch(this.shape, this.limits, batch);
    this.#state = "running";
    try {
      return await this.#run(batch);
    } catch (cause) {
      throw runtimeError(cause);
    } finally {
      if (this.#state === "running") this.#state = "idle";
    }
  }

  async #run(batch: StepBatch): Promise<Float32Array> {
    const plan = planRun(batch);
    const session = this.#sessions[plan.graph];
    if (session === undefined) throw new RuntimeError(`the ${plan.graph} graph is not loaded`);
    const feeds: Record<string, Tensor> = {};
    const fetches: Record<string, Tensor> = {};
    for (const input of plan.inputs) feeds[input.name] = smallTensor(input);
    for (const view of plan.views) this.#addView(view, feeds, fetches);
    const size = plan.sampled * this.limits.vocabSize;
    if (size > this.#logits.length) this.#logits = new Float32Array(size);
    const logits = this.#logits.subarray(0, size);
    fetches["logits"] = new Tensor("float32", logits, [1, plan.sampled, this.limits.vocabSize]);
    await session.run(feeds, fetches);
    return logits;
  }

  /** The same tensor goes in as past and out as present: that is what appends in place. */
  #addView(
    { prefix, range, chained = false }: KvView,
    feeds: Record<string, Tensor>,
    fetches: Record<string, Tensor>,
  ): void {
    const { stride, model } = this.#slab;
    const slotSize = model.kvHeads * stride * model.headDim;
    for (const [index, { buffer }] of this.#slab.buffers.entries()) {
      const first = range.first * slotSize * Float32Array.BYTES_PER_ELEMENT;
      const rows = new Float32Array(buffer, first, range.rows * slotSize);
      const tensor = new Tensor("float32", rows, [range.rows, model.kvHeads, stride, model.headDim]);
      const name = `${index % 2 === 0 ? "key" : "value"}.${index >> 1}`;
      if (!chained) feeds[`${prefix}past_${name}`] = tensor;
      fetches[`${prefix}present_${name}`] = tensor;
    }
  }

  copySlot(copy: { readonly from: number; readonly to: number; readonly tokens: number }): void {
    this.#expectIdle("copy a slot");
    checkCopy(this.shape, copy);
    this.#slab.copySlot(copy);
  }

  resize(resize: Resize): void {
    this.#expectIdle("be resized");
    checkResize(this.shape, this.limits, resize);
    this.#slab.resize(resize);
  }

  saveTokens(slot: number, from: number, to: number): KvBlock {
    this.#expectIdle("save tokens");
    checkSave(this.shape, slot, from, to);
    return this.#slab.save({ slot, from, tokens: to - from });
  }

  loadTokens(slot: number, from: number, block: KvBlock): void {
    this.#expectIdle("load tokens");
    checkLoad(this.shape, this.limits, { slot, from, block });
    this.#slab.load(slot, block);
  }

  #expectIdle(purpose: string): void {
    if (this.#state !== "idle") throw new RuntimeError(`a ${this.#state} runtime can't ${purpose}`);
  }

  [Symbol.dispose](): void {
    if (this.#state === "disposed") return;
    this.#state = "disposed";
    // The binding frees a session when it is collected; release() only does it sooner, and has nothing to report.
    for (const session of Object.values(this.#sessions)) void session.release();
  }
}

function smallTensor({ values, dimensions }: SmallInput): Tensor {
  return values instanceof BigInt64Array
    ? new Tensor("int64", values, dimensions)
    : new Tensor("int32", values, dimensions);
}

function runtimeError(cause: unknown): RuntimeError {
  if (cause instanceof RuntimeError) return cause;
  return new RuntimeError(cause instanceof Error ? cause.message : String(cause), { cause });
}
