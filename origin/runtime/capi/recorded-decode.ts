/**
 * Decode steps on a GPU, recorded and played back. A step of one token for each row is some four hundred kernels of a few
 * microseconds each, and telling the GPU of each takes longer than computing it. CUDA records what a run launches, and
 * launches all of it again as one, the same kernels on the same addresses: on an H200 in 0.6 of the time, with one row and
 * with 32. So what a run reads and writes has to lie where it lay: tokens and lengths are copied to fixed places on the
 * device before the run, and the logits from one to the host behind it.
 *
 * A recording is good for one number of rows, one place of the slab, and one bound of the rows' lengths, by which attention
 * divides its work; the lengths themselves it reads. ONNX Runtime knows recordings by a number that a run is given, and
 * drops none before the session ends, so there is a bound to how many are made; what is beyond it runs as it would without.
 * Where nothing records (the CPU, in the tests) the same copies surround the same run.
 *
 * Source: ONNX Runtime, "CUDA Execution Provider", Using CUDA Graphs; `gpu_graph_id` in
 * onnxruntime_run_options_config_keys.h.
 */
import type { RuntimeLimits, StepBatch } from "../port/runtime.ts";
import { BoundGraph } from "./bound-graph.ts";
import type { Handle, OrtApi } from "./ort-api.ts";
import { buildCopyGraph } from "./copy-graph.ts";
import { type Runner, RUNS_BEFORE } from "./runner.ts";
import { Scratch } from "./scratch.ts";
import { addressOf, allocateTensor, tensorAddress, withTensor } from "./tensor.ts";

/** Of 6 MiB each on the device, with thirty layers. */
const RECORDINGS_MAX = 128;
/** Shapes whose runs are counted: each time the slab moves all are others. */
const COUNTED_MAX = 1024;
/** The least bound of the rows' lengths; each other is twice the one before. */
const LENGTH_MIN = 256;
const NUMBER_BYTES = 4;

/** What is copied to the device before a run, a number for each row. */
const COPIED_IN = ["tokens", "sampled", "seqlens_k"] as const;
type CopiedIn = (typeof COPIED_IN)[number];

/** The graphs of the copies before a run and behind it. */
export function buildDecodeCopies(): { readonly in: Uint8Array; readonly out: Uint8Array } {
  return { in: buildCopyGraph("int32", COPIED_IN), out: buildCopyGraph("float32", ["logits"]) };
}

export interface RecordedDecodeOptions {
  /** Of the plain graph. Whoever made this and the other sessions disposes them, later than what is made here. */
  readonly session: Handle;
  /** Of `buildDecodeCopies`, on the same device. */
  readonly copyIn: Handle;
  readonly copyOut: Handle;
  /** The device's memory, and the host's; handles of the kind `memoryInfo`. */
  readonly memoryInfo: Handle;
  readonly hostMemoryInfo: Handle;
  readonly limits: RuntimeLimits;
  /** Whether the session records what it is told to. */
  readonly records: boolean;
  readonly runner: Runner;
}

/** One step. */
export interface DecodeRun {
  readonly decode: StepBatch["decode"];
  /** Where the slab lies, other words for another place, and the tokens that a slot of it holds. */
  readonly slab: { readonly place: string; readonly capacity: number };
  /** Binds the rows' keys and values. */
  readonly bindSlab: (graph: BoundGraph) => void;
  /** Where they go, `[rows, vocabSize]`. */
  readonly logits: Float32Array<ArrayBuffer>;
}

interface Recording {
  /** What ONNX Runtime knows it by. */
  readonly number: number;
  made: boolean;
}

export class RecordedDecode implements Disposable {
  readonly #api: OrtApi;
  readonly #options: RecordedDecodeOptions;
  readonly #resources: DisposableStack;
  readonly #graph: BoundGraph;
  readonly #copyIn: BoundGraph;
  readonly #copyOut: BoundGraph;
  /** Addresses on the device, of as many rows as there can be. */
  readonly #places: Readonly<Record<CopiedIn | "logits", bigint>>;
  readonly #scratch: Scratch;
  /** By shape of the step. */
  readonly #runs = new Map<string, number>();
  readonly #recordings = new Map<string, Recording>();
  #records: boolean;

  constructor(api: OrtApi, options: RecordedDecodeOptions) {
    using failing = new DisposableStack();
    const { session, copyIn, copyOut, memoryInfo, limits } = options;
    const { slots, vocabSize } = limits;
    this.#api = api;
    this.#options = options;
    this.#records = options.records;
    this.#graph = failing.use(new BoundGraph(api, session));
    this.#copyIn = failing.use(new BoundGraph(api, copyIn));
    this.#copyOut = failing.use(new BoundGraph(api, copyOut));
    this.#scratch = new Scratch((COPIED_IN.length * slots + 1) * NUMBER_BYTES);
    const allocator = api.make("createAllocator", copyIn, memoryInfo);
    failing.defer(() => api.release("allocator", allocator));
    const allocate = (type: "int32" | "float32", count: number): bigint => {
      const tensor = allocateTensor(api, allocator, { type, dimensions: [count] });
      failing.defer(() => api.release("value", tensor));
      return tensorAddress(api, tensor);
    };
    this.#places = {
      tokens: allocate("int32", slots),
      sampled: allocate("int32", slots),
      seqlens_k: allocate("int32", slots),
      logits: allocate("float32", slots * vocabSize),
    };
    this.#resources = failing.move();
  }

  /** @throws {RuntimeError} with ONNX Runtime's message */
  step({ decode, slab, bindSlab, logits }: DecodeRun): void {
    const { tokens, pasts } = decode;
    const rows = tokens.length;
    this.#scratch.clear();
    this.#copyNumbers({ tokens, sampled: Int32Array.from(tokens.keys()), seqlens_k: pasts });

    const length = pasts.reduce((most, past) => Math.max(most, past), 0) + 1;
    const bound = Math.min(slab.capacity, 2 ** Math.ceil(Math.log2(Math.max(length, LENGTH_MIN))));
    const recording = this.#recordingOf(`${slab.place} ${rows} ${bound}`);
    // Played back, a run reads no bindings.
    if (recording?.made !== true) {
      this.#bindNumbers(rows);
      this.#bindTotal(recording === undefined ? length : bound);
      bindSlab(this.#graph);
    }
    this.#run(recording);
    this.#copyLogits(rows, logits);
  }

  #run(recording: Recording | undefined): void {
    try {
      this.#options.runner.run(this.#graph, recording?.number);
      if (recording !== undefined) recording.made = true;
    } catch (cause) {
      // A step that fails is computed again, and must not fail again because it is to be recorded or played back.
      if (recording !== undefined) this.#records = false;
      throw cause;
    }
  }

  /** What a step of this shape is, or becomes, a recording of. */
  #recordingOf(shape: string): Recording | undefined {
    if (!this.#records) return undefined;
    const known = this.#recordings.get(shape);
    if (known !== undefined || this.#recordings.size >= RECORDINGS_MAX) return known;
    const runs = this.#runs.get(shape) ?? 0;
    if (runs < RUNS_BEFORE) {
      if (this.#runs.size >= COUNTED_MAX) this.#runs.clear();
      this.#runs.set(shape, runs + 1);
      return undefined;
    }
    this.#runs.delete(shape);
    const recording = { number: this.#recordings.size, made: false };
    this.#recordings.set(shape, recording);
    return recording;
  }

  #copyNumbers(numbers: Readonly<Record<CopiedIn, Int32Array>>): void {
    const { hostMemoryInfo, memoryInfo, runner } = this.#options;
    for (const name of COPIED_IN) {
      const values = numbers[name];
      const memory = { bytes: values.byteLength, type: "int32", dimensions: [values.length] } as const;
      const from = { ...memory, address: this.#scratch.put(values) };
      withTensor(this.#api, hostMemoryInfo, from, (tensor) => this.#copyIn.bindInput(`from.${name}`, tensor));
      const to = { ...memory, address: this.#places[name] };
      withTensor(this.#api, memoryInfo, to, (tensor) => this.#copyIn.bindOutput(`to.${name}`, tensor));
    }
    runner.run(this.#copyIn);
  }

  #bindNumbers(rows: number): void {
    const { memoryInfo, limits } = this.#options;
    for (const name of COPIED_IN) {
      const dimensions = name === "tokens" ? [rows, 1] : [rows];
      const memory = { address: this.#places[name], bytes: rows * NUMBER_BYTES, type: "int32", dimensions } as const;
      withTensor(this.#api, memoryInfo, memory, (tensor) => this.#graph.bindInput(name, tensor));
    }
    const bytes = rows * limits.vocabSize * NUMBER_BYTES;
    const dimensions = [1, rows, limits.vocabSize];
    const memory = { address: this.#places.logits, bytes, type: "float32", dimensions } as const;
    withTensor(this.#api, memoryInfo, memory, (tensor) => this.#graph.bindOutput("logits", tensor));
  }

  #bindTotal(length: number): void {
    const address = this.#scratch.put(Int32Array.of(length));
    const memory = { address, bytes: NUMBER_BYTES, type: "int32", dimensions: [] } as const;
    withTensor(this.#api, this.#options.hostMemoryInfo, memory, (tensor) =>
      this.#graph.bindInput("total_length", tensor),
    );
  }

  #copyLogits(rows: number, logits: Float32Array<ArrayBuffer>): void {
    const { hostMemoryInfo, memoryInfo, limits, runner } = this.#options;
    const dimensions = [rows * limits.vocabSize];
    const memory = { bytes: logits.byteLength, type: "float32", dimensions } as const;
    const from = { ...memory, address: this.#places.logits };
    withTensor(this.#api, memoryInfo, from, (tensor) => this.#copyOut.bindInput("from.logits", tensor));
    const to = { ...memory, address: addressOf(logits) };
    withTensor(this.#api, hostMemoryInfo, to, (tensor) => this.#copyOut.bindOutput("to.logits", tensor));
    runner.run(this.#copyOut);
  }

  [Symbol.dispose](): void {
    this.#resources.dispose();
  }
}
