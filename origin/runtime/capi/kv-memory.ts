/**
 * What the C API back end needs of the memory that keys and values live in, and that memory where it is this process's
 * own. `device-slab.ts` is the other kind.
 */
import type { KvModel, TokenRange } from "../port/kv-model.ts";
import { KvSlab } from "../port/kv-slab.ts";
import type { KvBlock, Resize, RuntimeLimits } from "../port/runtime.ts";
import type { Handle, OrtApi } from "./ort-api.ts";
import { ReservedSpace } from "./reserved-space.ts";
import { addressOf } from "./tensor.ts";

export interface KvMemory extends Disposable {
  readonly model: KvModel;
  readonly slots: number;
  readonly capacity: number;
  /** Tokens from one head of a slot to the next: the capacity or more. */
  readonly stride: number;
  /** Which memory the addresses are of; a handle of the kind `memoryInfo`. */
  readonly memoryInfo: Handle;
  /** Where each buffer begins, in the order of `KvSlab.buffers`. Others after a `resize`. */
  readonly addresses: readonly bigint[];
  /** No tensor may show the memory any more. @throws {RuntimeError} when the memory can't be had; all is then as it was */
  resize(resize: Resize): void;
  copySlot(copy: { readonly from: number; readonly to: number; readonly tokens: number }): void;
  save(range: TokenRange): KvBlock;
  load(slot: number, block: KvBlock): void;
}

export class HostSlab extends KvSlab implements KvMemory {
  readonly memoryInfo: Handle;
  readonly #api: OrtApi;
  readonly #reserved: ReservedSpace | undefined;

  /** @param largest - the shape it may grow to */
  constructor(api: OrtApi, model: KvModel, largest: Pick<RuntimeLimits, "slots" | "capacity">) {
    const reserved = ReservedSpace.reserve(model, largest);
    super(model, reserved);
    this.#reserved = reserved;
    this.#api = api;
    this.memoryInfo = api.make("createCpuMemoryInfo", 0, 0);
  }

  get addresses(): readonly bigint[] {
    return this.buffers.map((buffer) => addressOf(buffer));
  }

  [Symbol.dispose](): void {
    this.#api.release("memoryInfo", this.memoryInfo);
    this.#reserved?.[Symbol.dispose]();
  }
}
