/** Opens an imported model with the back end of choice. Knows the manifest, no graph. */
import { readManifest } from "../manifest.ts";
import { kvTokenBytes } from "./kv-slab.ts";
import { type Runtime, RuntimeError, type RuntimeLimits } from "./runtime.ts";

export interface RuntimeOptions {
  /** `capi` is the fast one; `binding` runs wherever onnxruntime-node does. */
  readonly backend: "capi" | "binding";
  /** A folder that the import wrote. */
  readonly folder: string;
  /** Most rows of the KV slab: the running rows and the prompt being prefilled. */
  readonly slots: number;
  /** Most tokens a row can hold, at most the model's context. */
  readonly capacity: number;
  /** Threads that compute a step, the caller's own among them. More than there are cores makes every step slower. */
  readonly threads: number;
}

/** @throws an Error when the folder is not a model, or a {@link RuntimeError} when it can't be loaded like this */
export async function createRuntime({ backend, folder, slots, capacity, threads }: RuntimeOptions): Promise<Runtime> {
  const { architecture } = readManifest(folder);
  const { layers, kvHeads, headDim, vocabSize, contextLength } = architecture;
  checkCount("slots", slots);
  checkCount("threads", threads);
  checkCount("capacity", capacity);
  if (capacity > contextLength) {
    throw new RuntimeError(`a capacity of ${capacity} is beyond the model's context of ${contextLength} tokens`);
  }
  const kv = { layers, kvHeads, headDim };
  const limits: RuntimeLimits = { vocabSize, slots, capacity, tokenBytes: kvTokenBytes(kv) };
  const options = { folder, limits, kv, threads };
  // Imported when chosen, so that a platform without the other's native code can still run this one.
  if (backend === "capi") return (await import("./capi.ts")).createCapiRuntime(options);
  return (await import("./binding.ts")).createBindingRuntime(options);
}

function checkCount(name: string, value: number): void {
  if (!Number.isInteger(value) || value < 1) throw new RuntimeError(`${name} must be a whole number of at least 1`);
}
