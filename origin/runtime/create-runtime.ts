/** Opens an imported model with the back end of choice. Knows the manifest, no graph. */
import { DEFAULT_WEIGHT_FORMAT } from "../onnx/weight-formats.ts";
import {
  DECODER_FILE,
  DRAFT_DECODER_FILE,
  DRAFT_VIEWS,
  HALF_DECODER_FILE,
  HALF_MIXED_DECODER_FILE,
  MIXED_DECODER_FILE,
  type Manifest,
  readManifest,
} from "../manifest/manifest.ts";
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { ExecutionProvider } from "./capi/provider.ts";
import { type KvModel, kvTokenBytes, type KvType } from "./port/kv-model.ts";
import type { GraphFiles } from "./port/plan-run.ts";
import { type Runtime, RuntimeError, type RuntimeLimits } from "./port/runtime.ts";

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
  /** Whether these threads wait for work without sleeping while a step is computed; default true. */
  readonly spinning?: boolean;
  /** Whether another model's threads want the same cores; default false. */
  readonly shared?: boolean;
  /** The handle of a `StopSwitch`, by which another thread can end a run; `capi` only. It must outlive the runtime. */
  readonly stopSwitch?: bigint | undefined;
  /** What computes. Default `cpu`. */
  readonly provider?: ExecutionProvider;
  /** Where keys and values live; default: the host's memory on the CPU, the device's on a GPU. */
  readonly memory?: "host" | "device";
  /** What attention computes in, and keys and values are; default: `float16` on CUDA, which has no other, else `float32`. */
  readonly kvType?: KvType;
}

const GRAPHS: Readonly<Record<KvType, GraphFiles>> = {
  float32: { plain: DECODER_FILE, mixed: MIXED_DECODER_FILE, draft: DRAFT_DECODER_FILE },
  float16: { plain: HALF_DECODER_FILE, mixed: HALF_MIXED_DECODER_FILE },
};

/** @throws an Error when the folder is not a model, or a {@link RuntimeError} when it can't be loaded like this */
export async function createRuntime(options: RuntimeOptions): Promise<Runtime> {
  const { name, architecture, quantization } = readManifest(options.folder);
  return openRuntime(options, { ...architecture, stored: { name, quantization } });
}

/** The sizes of the model in a folder, and how it is stored where that decides what can compute it. */
export type RuntimeModel = Pick<
  Manifest["architecture"],
  "layers" | "kvHeads" | "headDim" | "vocabSize" | "contextLength"
> & { readonly stored?: Pick<Manifest, "name" | "quantization"> };

/** Opens a folder of graphs and weights that needs no manifest. @throws {RuntimeError} when it can't be loaded like this */
export async function openRuntime(options: RuntimeOptions, model: RuntimeModel): Promise<Runtime> {
  const { backend, folder, slots, capacity, threads, spinning = true, shared = false, provider = "cpu" } = options;
  const { layers, kvHeads, headDim, vocabSize, contextLength } = model;
  checkCount("slots", slots);
  checkCount("threads", threads);
  checkCount("capacity", capacity);
  if (capacity > contextLength) {
    throw new RuntimeError(`a capacity of ${capacity} is beyond the model's context of ${contextLength} tokens`);
  }
  const { kvType = provider === "cuda" ? "float16" : "float32" } = options;
  const kv: KvModel = { layers, kvHeads, headDim, type: kvType };
  // A GPU would load another copy of the weights for it.
  const { draft, ...others } = GRAPHS[kvType];
  const graphs: GraphFiles = provider === "cpu" && draft !== undefined ? { ...others, draft } : others;
  if (!Object.values(graphs).every((file) => existsSync(join(folder, file)))) {
    throw new RuntimeError(`${folder} lacks its graphs for attention in ${kvType}; import the model again`);
  }
  const draftTokens = graphs.draft === undefined ? 1 : DRAFT_VIEWS.length;
  const limits: RuntimeLimits = { vocabSize, slots, capacity, tokenBytes: kvTokenBytes(kv), draftTokens };
  const common = { folder, graphs, limits, kv, threads, spinning, shared };
  if (provider === "webgpu" && slots > 1) {
    // A buffer of WebGPU is a handle, not an address: a view can't begin in its middle, at another row than the first.
    throw new RuntimeError("COLDPATH_EXECUTION_PROVIDER=webgpu computes one row at a time; set COLDPATH_SLOTS=1");
  }
  if (provider !== "cpu" && model.stored !== undefined) checkFormat(provider, model.stored);
  // Imported when chosen, so that a platform without the other's native code can still run this one.
  if (backend === "capi") {
    const { memory = provider === "cpu" ? "host" : "device" } = options;
    return (await import("./capi/capi-runtime.ts")).createCapiRuntime({
      ...common,
      provider,
      memory,
      stopSwitch: options.stopSwitch,
    });
  }
  if (provider !== "cpu") {
    throw new RuntimeError(`COLDPATH_EXECUTION_PROVIDER=${provider} needs COLDPATH_RUNTIME=capi`);
  }
  if (kvType !== "float32") throw new RuntimeError("the stock binding has no float16: it takes float32 graphs only");
  return (await import("./binding.ts")).createBindingRuntime(common);
}

function checkCount(name: string, value: number): void {
  if (!Number.isInteger(value) || value < 1) throw new RuntimeError(`${name} must be a whole number of at least 1`);
}

/** Whole rows of codes are multiplied by an operator that no GPU has. */
function checkFormat(provider: ExecutionProvider, { name, quantization }: NonNullable<RuntimeModel["stored"]>): void {
  const { format, matrices } = quantization;
  if (!Object.values(matrices).some((matrix) => typeof matrix === "object" && "scale" in matrix)) return;
  throw new RuntimeError(
    `${name} is stored in ${format}, which ${provider} can't compute; run npm run model -- import ${name} --format ${DEFAULT_WEIGHT_FORMAT}`,
  );
}
