/**
 * The runtime on ONNX Runtime's C API: no copies, no event loop, every handle kept for as long as it is of use. A step
 * blocks its thread, so it belongs in a worker. Knows how to run the graphs, nothing of who the rows belong to.
 *
 * Every value of a run is bound, keys and values for as long as the same rows run, so that a step names only its small
 * inputs and its logits. The same code runs on every execution provider: what differs is the memory of the slab.
 */
import { join } from "node:path";
import { BoundGraph } from "./bound-graph.ts";
import { DeviceSlab } from "./device-slab.ts";
import { collectIntoHugePages } from "./huge-pages.ts";
import { HostSlab, type KvMemory } from "./kv-memory.ts";
import { type Handle, openOrtApi, type OrtApi, type Releasable } from "./ort-api.ts";
import { appendProvider, type ExecutionProvider, makeDeviceMemoryInfo } from "./provider.ts";
import { Runner } from "./runner.ts";
import { Scratch } from "./scratch.ts";
import { loadSharedWeights, type SharedWeights } from "./shared-weights.ts";
import { buildSaveGraph, buildSpliceGraph } from "./splice-graph.ts";
import { buildZerosGraph } from "./copy-graph.ts";
import { buildDecodeCopies, RecordedDecode } from "./recorded-decode.ts";
import { addressOf, makeTensor, withTensor } from "./tensor.ts";
import { checkBatch, checkCopy, checkLoad, checkResize, checkSave } from "../port/check-batch.ts";
import { kvHeadBytes, type KvModel, type SlotRange } from "../port/kv-model.ts";
import { type GraphFiles, type KvView, planRun, type RunPlan, type SmallInput } from "../port/plan-run.ts";
import {
  type KvBlock,
  type Resize,
  type Runtime,
  RuntimeError,
  type RuntimeLimits,
  type RuntimeShape,
  type StepBatch,
} from "../port/runtime.ts";
import { sessionEntries } from "../port/session-entries.ts";

export interface CapiOptions {
  readonly folder: string;
  readonly graphs: GraphFiles;
  readonly limits: RuntimeLimits;
  readonly kv: KvModel;
  readonly threads: number;
  readonly spinning?: boolean;
  readonly shared?: boolean;
  readonly provider: ExecutionProvider;
  /** Of a `StopSwitch`, which must outlive the runtime; absent: nobody else can end a run. */
  readonly stopSwitch?: Handle | undefined;
  /** Where keys and values live. `device` is the provider's own memory; on the CPU both are this process's. */
  readonly memory: "host" | "device";
}

/** `ORT_LOGGING_LEVEL_FATAL`: errors come back as statuses, and are not to be printed besides. */
const LOG_FATAL = 4;
const FLOAT_BYTES = 4;
const INT32_BYTES = 4;

/** A runtime whose step is over when it returns. */
export interface BlockingRuntime extends Runtime {
  step(batch: StepBatch): Float32Array;
}

/**
 * Loads the graphs of a model folder.
 *
 * @throws {RuntimeError} with ONNX Runtime's message, or in one sentence where the provider can't be had
 */
export function createCapiRuntime(options: CapiOptions): BlockingRuntime {
  using failing = new DisposableStack();
  const api = openOrtApi();
  const own = (kind: Releasable, handle: Handle): Handle => {
    failing.defer(() => api.release(kind, handle));
    return handle;
  };
  const env = own("env", api.make("createEnv", LOG_FATAL, "coldpath"));
  const memoryInfo = own("memoryInfo", api.make("createCpuMemoryInfo", 0, 0));
  const runOptions = options.stopSwitch ?? own("runOptions", api.make("createRunOptions"));
  api.call("runOptionsSetRunLogSeverityLevel", runOptions, LOG_FATAL);
  // Values handed to a session stay where they are: another device than the CPU has to load its own copy of the weights.
  const weights =
    options.provider === "cpu" ? failing.use(loadSharedWeights(api, memoryInfo, options.folder)) : undefined;
  const load = (file: string): BoundGraph =>
    failing.use(new BoundGraph(api, own("session", loadGraph(api, env, weights, file, options))));
  const { plain, mixed, draft } = options.graphs;
  // Sessions pack the weights into memory of their own.
  const graphs = collectIntoHugePages((): Graphs => ({
    plain: load(plain),
    mixed: load(mixed),
    ...(draft !== undefined && { draft: load(draft) }),
  }));

  const runner = new Runner(api, runOptions);
  const parts = { memoryInfo, runner, graphs };
  const { kv, limits, provider, memory } = options;
  if (memory === "host") {
    const slab = failing.use(new HostSlab(api, kv, limits));
    return new CapiRuntime(api, options, { ...parts, slab }, failing.move());
  }
  const build = (model: Uint8Array): Handle => own("session", loadBuilt(api, env, model, options));
  const common = {
    memoryInfo: own("memoryInfo", makeDeviceMemoryInfo(api, provider)),
    hostMemoryInfo: memoryInfo,
    runner,
  };
  const moves = {
    splice: build(buildSpliceGraph(kv)),
    save: build(buildSaveGraph(kv)),
    zeros: build(buildZerosGraph(kv.type)),
  };
  const slab = failing.use(new DeviceSlab(api, { ...common, ...moves, model: kv }));
  const copies = buildDecodeCopies();
  const [copyIn, copyOut] = [build(copies.in), build(copies.out)];
  const { session } = graphs.plain;
  const recorded = new RecordedDecode(api, { ...common, session, copyIn, copyOut, limits, records: records(options) });
  failing.use(recorded);
  return new CapiRuntime(api, options, { ...parts, slab, recorded }, failing.move());
}

/** Whether decode steps are recorded. */
function records({ provider, memory }: CapiOptions): boolean {
  return provider === "cuda" && memory === "device";
}

function loadGraph(
  api: OrtApi,
  env: Handle,
  weights: SharedWeights | undefined,
  file: string,
  options: CapiOptions,
): Handle {
  const path = join(options.folder, file);
  const captures = file === options.graphs.plain && records(options);
  return withSessionOptions(api, { ...options, captures }, (sessionOptions) => {
    if (weights === undefined) return api.make("createSession", env, path, sessionOptions);
    weights.addTo(sessionOptions, path);
    return api.make("createSessionWithPrepackedWeightsContainer", env, path, sessionOptions, weights.prepacked);
  });
}

function loadBuilt(api: OrtApi, env: Handle, model: Uint8Array, options: CapiOptions): Handle {
  return withSessionOptions(api, { ...options, captures: false }, (sessionOptions) =>
    api.make("createSessionFromArray", env, model, model.length, sessionOptions),
  );
}

function withSessionOptions(
  api: OrtApi,
  { threads, spinning = true, shared = false, provider, captures }: CapiOptions & { readonly captures: boolean },
  use: (sessionOptions: Handle) => Handle,
): Handle {
  const options = api.make("createSessionOptions");
  try {
    api.call("setSessionLogSeverityLevel", options, LOG_FATAL);
    api.call("setIntraOpNumThreads", options, threads);
    for (const [key, value] of sessionEntries({ spinning, shared }))
      api.call("addSessionConfigEntry", options, key, value);
    appendProvider(api, options, { provider, captures });
    return use(options);
  } finally {
    api.release("sessionOptions", options);
  }
}

type Graphs = Readonly<Partial<Record<RunPlan["graph"], BoundGraph>>> & { readonly plain: BoundGraph };

interface Parts {
  /** The host's memory. */
  readonly memoryInfo: Handle;
  readonly runner: Runner;
  readonly graphs: Graphs;
  readonly slab: KvMemory;
  /** Where keys and values are a device's. */
  readonly recorded?: RecordedDecode;
}

class CapiRuntime implements BlockingRuntime {
  readonly limits: RuntimeLimits;
  readonly #api: OrtApi;
  readonly #parts: Parts;
  readonly #resources: DisposableStack;
  readonly #scratch: Scratch;
  /** Of the most rows that were wanted so far. */
  #logits = new Float32Array(new ArrayBuffer(0));
  /**
   * The slab's tensors by the range they show, in the slab's order; of this shape of the slab only. At most `2 * slots`
   * ranges are ever asked for: the first 1 … slots rows, and each slot alone.
   */
  readonly #views = new Map<string, readonly Handle[]>();
  /** The range that each graph's attention is bound to, by graph and prefix. */
  readonly #bound = new Map<string, string>();
  /** Where the slab lies. */
  #place = "";

  constructor(api: OrtApi, { limits }: CapiOptions, parts: Parts, resources: DisposableStack) {
    this.limits = limits;
    this.#api = api;
    this.#parts = parts;
    this.#resources = resources;
    this.#resources.defer(() => this.#releaseViews());
    // Per token of the largest batch: itself and that it is sampled; per row: that it is sampled, and how long it is.
    this.#scratch = new Scratch((limits.capacity * 2 + limits.slots * 4) * INT32_BYTES);
  }

  get shape(): RuntimeShape {
    const { slots, capacity } = this.#parts.slab;
    return { vocabSize: this.limits.vocabSize, slots, capacity };
  }

  step(batch: StepBatch): Float32Array {
    this.#expectOpen("run a step");
    checkBatch(this.shape, this.limits, batch);
    const plan = planRun(batch);
    const { recorded } = this.#parts;
    if (recorded !== undefined && batch.prefill === undefined) return this.#stepRecorded(recorded, batch.decode, plan);
    const graph = this.#graph(plan.graph);
    this.#scratch.clear();
    for (const input of plan.inputs) this.#bindSmall(graph, input);
    for (const view of plan.views) this.#bindView(graph, plan.graph, view);
    const logits = this.#bindLogits(graph, plan.sampled);
    this.#parts.runner.run(graph);
    return logits;
  }

  #stepRecorded(recorded: RecordedDecode, decode: StepBatch["decode"], { views, sampled }: RunPlan): Float32Array {
    const logits = this.#logitsOf(sampled);
    const bindSlab = (graph: BoundGraph): void => {
      for (const view of views) this.#bindView(graph, "recorded", view);
    };
    const { capacity } = this.#parts.slab;
    recorded.step({ decode, slab: { place: this.#place, capacity }, bindSlab, logits });
    return logits;
  }

  #graph(name: RunPlan["graph"]): BoundGraph {
    const graph = this.#parts.graphs[name];
    if (graph === undefined) throw new RuntimeError(`the ${name} graph is not loaded`);
    return graph;
  }

  #bindSmall(graph: BoundGraph, { name, values, dimensions }: SmallInput): void {
    const type = values instanceof BigInt64Array ? "int64" : "int32";
    const memory = { address: this.#scratch.put(values), bytes: values.byteLength, type, dimensions } as const;
    withTensor(this.#api, this.#parts.memoryInfo, memory, (tensor) => graph.bindInput(name, tensor));
  }

  #bindLogits(graph: BoundGraph, rows: number): Float32Array {
    const logits = this.#logitsOf(rows);
    const dimensions = [1, rows, this.limits.vocabSize];
    const memory = { address: addressOf(logits), bytes: logits.byteLength, type: "float32", dimensions } as const;
    withTensor(this.#api, this.#parts.memoryInfo, memory, (tensor) => graph.bindOutput("logits", tensor));
    return logits;
  }

  /** Memory for the logits of so many rows. */
  #logitsOf(rows: number): Float32Array<ArrayBuffer> {
    const size = rows * this.limits.vocabSize;
    if (size > this.#logits.length) this.#logits = new Float32Array(new ArrayBuffer(size * FLOAT_BYTES));
    return this.#logits.subarray(0, size);
  }

  /** The same tensor goes in as past and out as present: that is what appends in place. */
  #bindView(graph: BoundGraph, name: RunPlan["graph"] | "recorded", { prefix, range, chained = false }: KvView): void {
    const [attention, rows] = [`${name} ${prefix}`, `${range.first}+${range.rows}`];
    if (this.#bound.get(attention) === rows) return;
    this.#bound.delete(attention);
    for (const [index, tensor] of this.#view(rows, range).entries()) {
      const value = `${index % 2 === 0 ? "key" : "value"}.${index >> 1}`;
      if (!chained) graph.bindInput(`${prefix}past_${value}`, tensor);
      graph.bindOutput(`${prefix}present_${value}`, tensor);
    }
    this.#bound.set(attention, rows);
  }

  #view(key: string, range: SlotRange): readonly Handle[] {
    const known = this.#views.get(key);
    if (known !== undefined) return known;
    const { model, stride, addresses, memoryInfo } = this.#parts.slab;
    const { kvHeads, headDim, type } = model;
    const slotBytes = kvHeads * stride * kvHeadBytes(model);
    const dimensions = [range.rows, kvHeads, stride, headDim];
    const view = addresses.map((slab) => {
      const address = slab + BigInt(range.first * slotBytes);
      return makeTensor(this.#api, memoryInfo, { address, bytes: range.rows * slotBytes, type, dimensions });
    });
    this.#views.set(key, view);
    return view;
  }

  #releaseViews(): void {
    for (const view of this.#views.values()) for (const tensor of view) this.#api.release("value", tensor);
    this.#views.clear();
    this.#bound.clear();
  }

  copySlot(copy: { readonly from: number; readonly to: number; readonly tokens: number }): void {
    this.#expectOpen("copy a slot");
    checkCopy(this.shape, copy);
    this.#parts.slab.copySlot(copy);
  }

  resize(resize: Resize): void {
    this.#expectOpen("be resized");
    checkResize(this.shape, this.limits, resize);
    this.#releaseViews();
    this.#parts.slab.resize(resize);
    this.#place = this.#parts.slab.addresses.join();
  }

  saveTokens(slot: number, from: number, to: number): KvBlock {
    this.#expectOpen("save tokens");
    checkSave(this.shape, slot, from, to);
    return this.#parts.slab.save({ slot, from, tokens: to - from });
  }

  loadTokens(slot: number, from: number, block: KvBlock): void {
    this.#expectOpen("load tokens");
    checkLoad(this.shape, this.limits, { slot, from, block });
    this.#parts.slab.load(slot, block);
  }

  #expectOpen(purpose: string): void {
    if (this.#resources.disposed) throw new RuntimeError(`a disposed runtime can't ${purpose}`);
  }

  [Symbol.dispose](): void {
    this.#resources.dispose();
  }
}
