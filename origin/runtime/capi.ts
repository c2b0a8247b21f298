/**
 * The runtime on ONNX Runtime's C API: no copies, no event loop, every handle kept for as long as it is of use. A step
 * blocks its thread, so it belongs in a worker. Knows how to run the two graphs, nothing of who the rows belong to.
 */
import { join } from "node:path";
import { DECODER_FILE, MIXED_DECODER_FILE } from "../manifest.ts";
import { type Handle, openOrtApi, type OrtApi, type Releasable } from "./capi/ort-api.ts";
import { loadSharedWeights, type SharedWeights } from "./capi/shared-weights.ts";
import { Scratch } from "./capi/scratch.ts";
import { addressOf, makeTensor, type TensorMemory } from "./capi/tensor.ts";
import { checkBatch, checkCopy, checkLoad, checkResize, checkSave } from "./check-batch.ts";
import { type KvModel, KvSlab, type SlotRange } from "./kv-slab.ts";
import { planRun, type RunPlan, type SmallInput } from "./plan-run.ts";
import {
  type KvBlock,
  type Resize,
  type Runtime,
  RuntimeError,
  type RuntimeLimits,
  type RuntimeShape,
  type StepBatch,
} from "./runtime.ts";
import { SESSION_ENTRIES } from "./session-entries.ts";

export interface CapiOptions {
  readonly folder: string;
  readonly limits: RuntimeLimits;
  readonly kv: KvModel;
  readonly threads: number;
}

/** `ORT_LOGGING_LEVEL_FATAL`: errors come back as statuses, and are not to be printed besides. */
const LOG_FATAL = 4;
const FLOAT_BYTES = 4;
const INT32_BYTES = 4;

/** A runtime whose step is over when it returns. */
export interface BlockingRuntime extends Runtime {
  step(batch: StepBatch): Float32Array;
}

/** Loads both graphs of a model folder. @throws {RuntimeError} with ONNX Runtime's message */
export function createCapiRuntime(options: CapiOptions): BlockingRuntime {
  using failing = new DisposableStack();
  const api = openOrtApi();
  const own = (kind: Releasable, handle: Handle): Handle => {
    failing.defer(() => api.release(kind, handle));
    return handle;
  };
  const env = own("env", api.make("createEnv", LOG_FATAL, "coldpath"));
  const memoryInfo = own("memoryInfo", api.make("createCpuMemoryInfo", 0, 0));
  const runOptions = own("runOptions", api.make("createRunOptions"));
  api.call("runOptionsSetRunLogSeverityLevel", runOptions, LOG_FATAL);
  const weights = failing.use(loadSharedWeights(api, memoryInfo, options.folder));
  const plain = own("session", makeSession(api, env, weights, DECODER_FILE, options));
  const mixed = own("session", makeSession(api, env, weights, MIXED_DECODER_FILE, options));
  const handles = { memoryInfo, runOptions, sessions: { plain, mixed } };
  return new CapiRuntime(api, options, handles, failing.move());
}

function makeSession(
  api: OrtApi,
  env: Handle,
  weights: SharedWeights,
  file: string,
  { folder, threads }: CapiOptions,
): Handle {
  const path = join(folder, file);
  const options = api.make("createSessionOptions");
  try {
    api.call("setSessionLogSeverityLevel", options, LOG_FATAL);
    api.call("setIntraOpNumThreads", options, threads);
    for (const [key, value] of SESSION_ENTRIES) api.call("addSessionConfigEntry", options, key, value);
    weights.addTo(options, path);
    return api.make("createSessionWithPrepackedWeightsContainer", env, path, options, weights.prepacked);
  } finally {
    api.release("sessionOptions", options);
  }
}

interface Handles {
  readonly memoryInfo: Handle;
  readonly runOptions: Handle;
  readonly sessions: Readonly<Record<RunPlan["graph"], Handle>>;
}

class CapiRuntime implements BlockingRuntime {
  readonly limits: RuntimeLimits;
  readonly #api: OrtApi;
  readonly #handles: Handles;
  readonly #resources: DisposableStack;
  readonly #slab: KvSlab;
  readonly #scratch: Scratch;
  /** Of the most rows that were wanted so far. */
  #logits = new Float32Array(new ArrayBuffer(0));
  /**
   * The slab's tensors by the range they show, in the slab's order; of this shape of the slab only. At most `2 * slots`
   * ranges are ever asked for: the first 1 … slots rows, and each slot alone.
   */
  readonly #views = new Map<string, BigUint64Array>();
  readonly #names = new Map<RunPlan["graph"], GraphNames>();

  constructor(api: OrtApi, { limits, kv }: CapiOptions, handles: Handles, resources: DisposableStack) {
    this.limits = limits;
    this.#api = api;
    this.#handles = handles;
    this.#resources = resources;
    this.#resources.defer(() => this.#releaseViews());
    this.#slab = new KvSlab(kv);
    // Per token of the largest batch: itself and that it is sampled; per row: that it is sampled, and how long it is.
    this.#scratch = new Scratch((limits.capacity * 2 + limits.slots * 4) * INT32_BYTES);
  }

  get shape(): RuntimeShape {
    const { slots, capacity } = this.#slab;
    return { vocabSize: this.limits.vocabSize, slots, capacity };
  }

  step(batch: StepBatch): Float32Array {
    this.#expectOpen("run a step");
    checkBatch(this.shape, batch);
    const plan = planRun(batch);
    using own = new DisposableStack();
    this.#scratch.clear();
    const small = plan.inputs.map((input) => this.#smallTensor(input, own));
    const logits = this.#logitsTensor(plan.sampled, own);
    const views = plan.views.map(({ range }) => this.#view(range));
    this.#run(plan, joinHandles([small, ...views]), joinHandles([[logits], ...views]));
    return this.#logits.subarray(0, plan.sampled * this.limits.vocabSize);
  }

  #run(plan: RunPlan, inputs: BigUint64Array, outputs: BigUint64Array): void {
    const { runOptions, sessions } = this.#handles;
    const names = this.#names.get(plan.graph) ?? namePlan(plan, this.#slab.model.layers);
    this.#names.set(plan.graph, names);
    const given = [names.inputs.pointers, inputs, inputs.length] as const;
    const wanted = [names.outputs.pointers, outputs.length, outputs] as const;
    this.#api.call("run", sessions[plan.graph], runOptions, ...given, ...wanted);
  }

  #smallTensor({ values, dimensions }: SmallInput, own: DisposableStack): Handle {
    const type = values instanceof BigInt64Array ? "int64" : "int32";
    const address = this.#scratch.put(values);
    return this.#tensor({ address, bytes: values.byteLength, type, dimensions }, own);
  }

  #logitsTensor(rows: number, own: DisposableStack): Handle {
    const size = rows * this.limits.vocabSize;
    if (size > this.#logits.length) this.#logits = new Float32Array(new ArrayBuffer(size * FLOAT_BYTES));
    const dimensions = [1, rows, this.limits.vocabSize];
    const address = addressOf(this.#logits);
    return this.#tensor({ address, bytes: size * FLOAT_BYTES, type: "float32", dimensions }, own);
  }

  #view(range: SlotRange): BigUint64Array {
    const key = `${range.first}+${range.rows}`;
    const known = this.#views.get(key);
    if (known !== undefined) return known;
    const slotBytes = this.#slab.slotSize * FLOAT_BYTES;
    const dimensions = this.#slab.dimensions(range);
    const tensors = this.#slab.buffers.map((buffer) => {
      const address = addressOf(buffer) + BigInt(range.first * slotBytes);
      return this.#makeTensor({ address, bytes: range.rows * slotBytes, type: "float32", dimensions });
    });
    const view = BigUint64Array.from(tensors);
    this.#views.set(key, view);
    return view;
  }

  #releaseViews(): void {
    for (const view of this.#views.values()) for (const tensor of view) this.#api.release("value", tensor);
    this.#views.clear();
  }

  #tensor(memory: TensorMemory, owner: DisposableStack): Handle {
    const tensor = this.#makeTensor(memory);
    owner.defer(() => this.#api.release("value", tensor));
    return tensor;
  }

  #makeTensor(memory: TensorMemory): Handle {
    return makeTensor(this.#api, this.#handles.memoryInfo, memory);
  }

  copySlot(copy: { readonly from: number; readonly to: number; readonly tokens: number }): void {
    this.#expectOpen("copy a slot");
    checkCopy(this.shape, copy);
    this.#slab.copySlot(copy);
  }

  resize(resize: Resize): void {
    this.#expectOpen("be resized");
    checkResize(this.shape, this.limits, resize);
    this.#releaseViews();
    this.#slab.resize(resize);
  }

  saveTokens(slot: number, from: number, to: number): KvBlock {
    this.#expectOpen("save tokens");
    checkSave(this.shape, slot, from, to);
    return this.#slab.save(slot, from, to);
  }

  loadTokens(slot: number, from: number, block: KvBlock): void {
    this.#expectOpen("load tokens");
    checkLoad(this.shape, this.limits, { slot, from, block });
    this.#slab.load(slot, block);
  }

  #expectOpen(purpose: string): void {
    if (this.#resources.disposed) throw new RuntimeError(`a disposed runtime can't ${purpose}`);
  }

  [Symbol.dispose](): void {
    this.#resources.dispose();
  }
}

/** C strings, and the array of their addresses. The text is here because the addresses do not keep it alive. */
interface Names {
  readonly text: Uint8Array<ArrayBuffer>;
  readonly pointers: BigUint64Array;
}

interface GraphNames {
  readonly inputs: Names;
  readonly outputs: Names;
}

/** A graph's values in the order of `step`: they are the same for every run of it. */
function namePlan({ inputs, views }: RunPlan, layers: number): GraphNames {
  const slabNames = (part: "past" | "present"): readonly string[] =>
    views.flatMap(({ prefix }) =>
      Array.from({ length: layers }, (_, layer) => [
        `${prefix}${part}_key.${layer}`,
        `${prefix}${part}_value.${layer}`,
      ]).flat(),
    );
  return {
    inputs: makeNames([...inputs.map(({ name }) => name), ...slabNames("past")]),
    outputs: makeNames(["logits", ...slabNames("present")]),
  };
}

function makeNames(names: readonly string[]): Names {
  const text = new TextEncoder().encode(names.map((name) => `${name}\0`).join(""));
  const start = addressOf(text);
  let offset = 0;
  const pointers = BigUint64Array.from(names, (name) => {
    const pointer = start + BigInt(offset);
    offset += name.length + 1;
    return pointer;
  });
  return { text, pointers };
}

function joinHandles(parts: readonly (readonly Handle[] | BigUint64Array)[]): BigUint64Array {
  const joined = new BigUint64Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    joined.set(part, offset);
    offset += part.length;
  }
  return joined;
}
