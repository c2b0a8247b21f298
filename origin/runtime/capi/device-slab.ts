/**
 * The keys and values of every slot in the memory of a session's device, from that session's own allocator: a step reads
 * and appends them there, and they cross the bus only as a saved or loaded block. Laid out like `KvSlab`.
 */
import { kvHeadBytes, type KvModel, kvTokenBytes, type TokenRange } from "../port/kv-model.ts";
import { type KvBlock, type Resize, RuntimeError } from "../port/runtime.ts";
import { BoundGraph } from "./bound-graph.ts";
import type { KvMemory } from "./kv-memory.ts";
import type { Handle, OrtApi } from "./ort-api.ts";
import type { Runner } from "./runner.ts";
import { SPLICE_POSITIONS } from "./splice-graph.ts";
import { addressOf, allocateTensor, makeTensor, tensorAddress, withTensor } from "./tensor.ts";

export interface DeviceSlabOptions {
  /** A session of `buildSpliceGraph` on the device. It belongs to the caller, and must outlive the slab. */
  readonly splice: Handle;
  /** One of `buildSaveGraph`, likewise. */
  readonly save: Handle;
  /** One of `buildZerosGraph`, likewise. */
  readonly zeros: Handle;
  readonly model: KvModel;
  /** The device's memory, and the host's; handles of the kind `memoryInfo`. */
  readonly memoryInfo: Handle;
  readonly hostMemoryInfo: Handle;
  readonly runner: Runner;
}

/** One end of a splice: every buffer's tokens of one slot, or of a block on the host. */
interface Place {
  readonly memoryInfo: Handle;
  readonly addresses: readonly bigint[];
  readonly tokens: number;
}

interface Splice {
  readonly into: Place;
  readonly from: Place;
  readonly out: Place;
  /** How many of `into`'s tokens come before. */
  readonly head: number;
  /** Which of `from`'s tokens are taken. */
  readonly start: number;
  readonly end: number;
  /** From which of `into`'s tokens on it goes on. */
  readonly tail: number;
}

export class DeviceSlab implements KvMemory {
  readonly model: KvModel;
  readonly memoryInfo: Handle;
  readonly #api: OrtApi;
  readonly #options: DeviceSlabOptions;
  readonly #resources: DisposableStack;
  readonly #allocator: Handle;
  readonly #graph: BoundGraph;
  readonly #save: BoundGraph;
  readonly #zeros: BoundGraph;
  /** What the splice graph is told of positions, `[1]` each, in the order of `SPLICE_POSITIONS`. */
  readonly #positions = new BigInt64Array(new ArrayBuffer(SPLICE_POSITIONS.length * 8));
  /** What the zeros' graph is told: the dimensions of a buffer. */
  readonly #shape = new BigInt64Array(new ArrayBuffer(4 * 8));
  #buffers: DeviceBuffers = { tensors: [], addresses: [], slots: 0, capacity: 0 };

  constructor(api: OrtApi, options: DeviceSlabOptions) {
    using failing = new DisposableStack();
    this.model = options.model;
    this.memoryInfo = options.memoryInfo;
    this.#api = api;
    this.#options = options;
    this.#allocator = api.make("createAllocator", options.splice, options.memoryInfo);
    failing.defer(() => api.release("allocator", this.#allocator));
    this.#graph = failing.use(new BoundGraph(api, options.splice));
    this.#save = failing.use(new BoundGraph(api, options.save));
    this.#zeros = failing.use(new BoundGraph(api, options.zeros));
    for (const [index, name] of SPLICE_POSITIONS.entries()) {
      const address = addressOf(this.#positions) + BigInt(index * 8);
      const memory = { address, bytes: 8, type: "int64", dimensions: [1] } as const;
      withTensor(api, options.hostMemoryInfo, memory, (tensor) => {
        this.#graph.bindInput(name, tensor);
        if (name === "start" || name === "end") this.#save.bindInput(name, tensor);
      });
    }
    this.#resources = failing.move();
  }

  get slots(): number {
    return this.#buffers.slots;
  }

  get capacity(): number {
    return this.#buffers.capacity;
  }

  get stride(): number {
    return this.#buffers.capacity;
  }

  get addresses(): readonly bigint[] {
    return this.#buffers.addresses;
  }

  /**
   * Both slabs are there at once until the old one's rows have moved. The new one begins with zeros: an allocator's memory
   * holds anything, and some kernels of attention multiply what lies behind a row's end by 0, which makes no 0 of what is no
   * number.
   */
  resize({ slots, capacity, kept }: Resize): void {
    const old = this.#buffers;
    const buffers = this.#allocate(slots, capacity);
    try {
      this.#clear(buffers);
      for (const [slot, tokens] of kept.entries()) {
        if (tokens === 0) continue;
        const into = this.#slot(slot, buffers);
        this.#splice({ into, from: this.#slot(slot, old), out: into, head: 0, start: 0, end: tokens, tail: tokens });
      }
    } catch (cause) {
      this.#free(buffers);
      throw cause;
    }
    this.#buffers = buffers;
    this.#free(old);
  }

  copySlot({ from, to, tokens }: { readonly from: number; readonly to: number; readonly tokens: number }): void {
    if (from === to || tokens === 0) return;
    const into = this.#slot(to);
    this.#splice({ into, from: this.#slot(from), out: into, head: 0, start: 0, end: tokens, tail: tokens });
  }

  save({ slot, from, tokens }: TokenRange): KvBlock {
    const bytes = new Uint8Array(new ArrayBuffer(tokens * kvTokenBytes(this.model)));
    const block = { from, tokens, bytes };
    if (tokens === 0) return block;
    this.#positions.set([0, from, from + tokens, 0].map(BigInt));
    const { layers, kvHeads, headDim, type } = this.model;
    const dimensions = [layers * 2, kvHeads, tokens, headDim];
    const memory = { address: addressOf(bytes), bytes: bytes.byteLength, type, dimensions };
    using own = new DisposableStack();
    const source = this.#slot(slot);
    for (let buffer = 0; buffer < layers * 2; buffer++) {
      this.#save.bindInput(`from.${buffer}`, this.#tensor(source, buffer, own));
    }
    withTensor(this.#api, this.#options.hostMemoryInfo, memory, (out) => this.#save.bindOutput("block", out));
    this.#options.runner.run(this.#save);
    return block;
  }

  load(slot: number, block: KvBlock): void {
    const { from, tokens } = block;
    if (tokens === 0) return;
    const into = this.#slot(slot);
    this.#splice({ into, from: this.#host(block), out: into, head: from, start: 0, end: tokens, tail: from + tokens });
  }

  #splice({ into, from, out, head, start, end, tail }: Splice): void {
    this.#positions.set([head, start, end, tail].map(BigInt));
    using own = new DisposableStack();
    for (let buffer = 0; buffer < this.model.layers * 2; buffer++) {
      const spliced = this.#tensor(out, buffer, own);
      const same = into === out;
      this.#graph.bindInput(`into.${buffer}`, same ? spliced : this.#tensor(into, buffer, own));
      this.#graph.bindInput(`from.${buffer}`, this.#tensor(from, buffer, own));
      this.#graph.bindOutput(`out.${buffer}`, spliced);
    }
    this.#options.runner.run(this.#graph);
  }

  #tensor({ memoryInfo, addresses, tokens }: Place, buffer: number, own: DisposableStack): Handle {
    const { type, kvHeads, headDim } = this.model;
    const address = addresses[buffer];
    if (address === undefined) throw new RuntimeError("a slab has lost a buffer");
    const bytes = kvHeads * tokens * kvHeadBytes(this.model);
    const memory = { address, bytes, type, dimensions: [1, kvHeads, tokens, headDim] };
    const tensor = makeTensor(this.#api, memoryInfo, memory);
    own.defer(() => this.#api.release("value", tensor));
    return tensor;
  }

  #slot(slot: number, { addresses, capacity }: DeviceBuffers = this.#buffers): Place {
    const offset = BigInt(slot * this.model.kvHeads * capacity * kvHeadBytes(this.model));
    return {
      memoryInfo: this.memoryInfo,
      addresses: addresses.map((address) => address + offset),
      tokens: capacity,
    };
  }

  #host({ tokens, bytes }: KvBlock): Place {
    const start = addressOf(bytes);
    const step = tokens * this.model.kvHeads * kvHeadBytes(this.model);
    const addresses = Array.from({ length: this.model.layers * 2 }, (_, buffer) => start + BigInt(buffer * step));
    return { memoryInfo: this.#options.hostMemoryInfo, addresses, tokens };
  }

  #allocate(slots: number, capacity: number): DeviceBuffers {
    if (slots * capacity === 0) return { tensors: [], addresses: [], slots, capacity };
    using failing = new DisposableStack();
    const { type, kvHeads, headDim, layers } = this.model;
    const tensors = Array.from({ length: layers * 2 }, () => {
      const tensor = allocateTensor(this.#api, this.#allocator, {
        type,
        dimensions: [slots, kvHeads, capacity, headDim],
      });
      failing.defer(() => this.#api.release("value", tensor));
      return tensor;
    });
    const addresses = tensors.map((tensor) => tensorAddress(this.#api, tensor));
    // All are there: they are the slab's now.
    failing.move();
    return { tensors, addresses, slots, capacity };
  }

  #clear({ tensors, slots, capacity }: DeviceBuffers): void {
    const { kvHeads, headDim } = this.model;
    this.#shape.set([slots, kvHeads, capacity, headDim].map(BigInt));
    const memory = {
      address: addressOf(this.#shape),
      bytes: this.#shape.byteLength,
      type: "int64",
      dimensions: [4],
    } as const;
    withTensor(this.#api, this.#options.hostMemoryInfo, memory, (tensor) => this.#zeros.bindInput("shape", tensor));
    for (const buffer of tensors) {
      this.#zeros.bindOutput("zeros", buffer);
      this.#options.runner.run(this.#zeros);
    }
  }

  #free({ tensors }: DeviceBuffers): void {
    for (const tensor of tensors) this.#api.release("value", tensor);
  }

  [Symbol.dispose](): void {
    this.#free(this.#buffers);
    this.#resources.dispose();
  }
}

interface DeviceBuffers {
  readonly tensors: readonly Handle[];
  readonly addresses: readonly bigint[];
  readonly slots: number;
  readonly capacity: number;
}
