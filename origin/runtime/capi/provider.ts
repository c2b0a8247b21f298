/**
 * The execution providers of ONNX Runtime: how each is asked for, what it calls its memory, and what the origin says
 * where it can't be had. Knows no graph.
 */
import { RuntimeError } from "../port/runtime.ts";
import type { Handle, OrtApi } from "./ort-api.ts";

/** What computes: this machine's cores, an NVIDIA GPU, or whatever GPU the system shows through Vulkan or Metal. */
export const EXECUTION_PROVIDERS = ["cpu", "cuda", "webgpu"] as const;
export type ExecutionProvider = (typeof EXECUTION_PROVIDERS)[number];

/** The name that `CreateMemoryInfo` knows a provider's memory by. */
const MEMORY_NAMES: Readonly<Record<ExecutionProvider, string>> = {
  cpu: "Cpu",
  cuda: "Cuda",
  webgpu: "WebGPU_Buffer",
};

const NEEDS: Readonly<Record<Exclude<ExecutionProvider, "cpu">, string>> = {
  cuda: "it needs an NVIDIA GPU with its driver, CUDA's libraries and ONNX Runtime's CUDA provider; README.md, On a GPU, says where they come from",
  webgpu: "it needs a GPU that the system shows through Vulkan or Metal",
};

/**
 * Of CUDA. Attention by flash attention, the memory-efficient one or plain products (1 + 2 + 16 of ONNX Runtime's
 * `AttentionBackend`), and not by cuDNN, which it takes on Hopper otherwise: that one builds a plan of 50 ms for each
 * combination of rows, tokens and capacity, where a step takes 2; and it multiplies what lies behind a row's end by 0, which
 * makes no 0 of what is no number. Memory in the sizes that are asked for, not in powers of two.
 */
const CUDA_OPTIONS = { sdpa_kernel: "19", arena_extend_strategy: "kSameAsRequested" };

/** @returns a handle of the kind `memoryInfo`: the memory that the provider computes in */
export function makeDeviceMemoryInfo(api: OrtApi, provider: ExecutionProvider): Handle {
  return api.make("createMemoryInfo", MEMORY_NAMES[provider], 0, 0, 0);
}

/**
 * Asks for a provider in a session's options.
 *
 * @param captures - whether runs may be recorded as CUDA graphs (`recorded-decode.ts`); every run then says which it is
 * @throws {RuntimeError} in one sentence where this machine does not have it. The options must not be used then: ONNX
 * Runtime would make a session of them that silently computes on the CPU
 */
export function appendProvider(
  api: OrtApi,
  sessionOptions: Handle,
  { provider, captures }: { readonly provider: ExecutionProvider; readonly captures: boolean },
): void {
  if (provider === "cpu") return;
  try {
    if (provider === "webgpu") api.call("appendExecutionProvider", sessionOptions, "WebGPU", null, null, 0);
    else appendCuda(api, sessionOptions, captures);
  } catch (cause) {
    throw new RuntimeError(`COLDPATH_EXECUTION_PROVIDER=${provider} can't be used here: ${NEEDS[provider]}`, { cause });
  }
}

function appendCuda(api: OrtApi, sessionOptions: Handle, captures: boolean): void {
  const options = api.make("createCudaOptions");
  const wanted = { ...CUDA_OPTIONS, enable_cuda_graph: captures ? "1" : "0" };
  const [keys, values] = [Object.keys(wanted), Object.values(wanted)];
  try {
    api.call("updateCudaOptions", options, keys, values, keys.length);
    api.call("appendCuda", sessionOptions, options);
  } finally {
    api.release("cudaOptions", options);
  }
}
