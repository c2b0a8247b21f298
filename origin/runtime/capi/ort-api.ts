/**
 * ONNX Runtime's C API, of the very library that `onnxruntime-node` ships, as typed functions. Handles are addresses
 * (`bigint`); whoever makes one releases it. Knows no model.
 *
 * The positions are those of `struct OrtApi` in onnxruntime_c_api.h; their order is stable by ABI promise.
 */
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import koffi, { type LibraryHandle } from "koffi";
import { RuntimeError } from "../port/runtime.ts";

/** An address that ONNX Runtime handed out. */
export type Handle = bigint;

const API_VERSION = 30;
const POINTER_BYTES = 8;

/** Name → position in the table and C signature. `void*` as result is an OrtStatus: null is success. */
const FUNCTIONS = {
  createEnv: [3, "void* (int level, const char* id, void* out)"],
  createSession: [7, "void* (uintptr_t env, const char* path, uintptr_t options, void* out)"],
  createSessionFromArray: [8, "void* (uintptr_t env, void* model, size_t bytes, uintptr_t options, void* out)"],
  createSessionOptions: [10, "void* (void* out)"],
  setSessionLogSeverityLevel: [22, "void* (uintptr_t options, int level)"],
  setIntraOpNumThreads: [24, "void* (uintptr_t options, int threads)"],
  createRunOptions: [39, "void* (void* out)"],
  runOptionsSetRunLogSeverityLevel: [41, "void* (uintptr_t options, int level)"],
  runOptionsSetTerminate: [46, "void* (uintptr_t options)"],
  createTensorAsOrtValue: [48, "void* (uintptr_t allocator, void* shape, size_t rank, int type, void* out)"],
  createTensorWithDataAsOrtValue: [
    49,
    "void* (uintptr_t memoryInfo, uintptr_t data, size_t bytes, void* shape, size_t rank, int type, void* out)",
  ],
  getTensorMutableData: [51, "void* (uintptr_t value, void* out)"],
  createMemoryInfo: [68, "void* (const char* name, int allocator, int device, int memory, void* out)"],
  createCpuMemoryInfo: [69, "void* (int allocator, int memory, void* out)"],
  addSessionConfigEntry: [130, "void* (uintptr_t options, const char* key, const char* value)"],
  createAllocator: [131, "void* (uintptr_t session, uintptr_t memoryInfo, void* out)"],
  runWithBinding: [133, "void* (uintptr_t session, uintptr_t options, uintptr_t binding)"],
  createIoBinding: [134, "void* (uintptr_t session, void* out)"],
  bindInput: [136, "void* (uintptr_t binding, const char* name, uintptr_t value)"],
  bindOutput: [137, "void* (uintptr_t binding, const char* name, uintptr_t value)"],
  addInitializer: [150, "void* (uintptr_t options, const char* name, uintptr_t value)"],
  addRunConfigEntry: [165, "void* (uintptr_t options, const char* key, const char* value)"],
  createPrepackedWeightsContainer: [166, "void* (void* out)"],
  createSessionWithPrepackedWeightsContainer: [
    168,
    "void* (uintptr_t env, const char* path, uintptr_t options, uintptr_t weights, void* out)",
  ],
  appendCuda: [204, "void* (uintptr_t options, uintptr_t cudaOptions)"],
  createCudaOptions: [205, "void* (void* out)"],
  updateCudaOptions: [206, "void* (uintptr_t cudaOptions, const char** keys, const char** values, size_t count)"],
  appendExecutionProvider: [216, "void* (uintptr_t options, const char* name, void* keys, void* values, size_t count)"],
} as const satisfies Record<string, readonly [position: number, signature: string]>;

const RELEASES = {
  env: 92,
  memoryInfo: 94,
  session: 95,
  value: 96,
  runOptions: 97,
  sessionOptions: 100,
  allocator: 132,
  ioBinding: 135,
  prepackedWeights: 167,
  cudaOptions: 208,
} as const;

/** A kind of handle that has a release function of its own. */
export type Releasable = keyof typeof RELEASES;
type Argument = number | bigint | string | ArrayBufferView | readonly string[] | null;

export interface OrtApi {
  /** Held here because koffi unloads a library whose handle is collected, whatever still calls into it. */
  readonly library: LibraryHandle;
  /** Calls a function that only succeeds or fails. @throws {RuntimeError} with ONNX Runtime's message */
  readonly call: (name: keyof typeof FUNCTIONS, ...args: readonly Argument[]) => void;
  /** Calls a function whose last parameter takes a handle, and returns it. @throws {RuntimeError} likewise */
  readonly make: (name: keyof typeof FUNCTIONS, ...args: readonly Argument[]) => Handle;
  readonly release: (kind: Releasable, handle: Handle) => void;
}

/**
 * Opens the library and binds the functions.
 *
 * @throws {RuntimeError} where the package has no library for this platform, or one without this API version
 */
export function openOrtApi(): OrtApi {
  const library = openLibrary();
  const base: unknown = library.func("const void* OrtGetApiBase()")();
  const getApi = bind(base, 0, "const void* (uint32_t version)");
  const table = getApi(API_VERSION);
  if (table === null) throw new RuntimeError(`onnxruntime-node's library does not have API version ${API_VERSION}`);

  const bound = Object.fromEntries(
    Object.entries(FUNCTIONS).map(([name, [position, signature]]) => [name, bind(table, position, signature)]),
  ) as Record<keyof typeof FUNCTIONS, NativeFunction>;
  const releases = Object.fromEntries(
    Object.entries(RELEASES).map(([kind, position]) => [kind, bind(table, position, "void (uintptr_t handle)")]),
  ) as Record<Releasable, NativeFunction>;
  const getErrorMessage = bind(table, 2, "const char* (void* status)");
  const releaseStatus = bind(table, 93, "void (void* status)");
  const out = new BigUint64Array(1);

  const call: OrtApi["call"] = (name, ...args) => {
    const status = bound[name](...args);
    if (status === null) return;
    const message = String(getErrorMessage(status));
    releaseStatus(status);
    throw new RuntimeError(message);
  };
  return {
    library,
    call,
    make: (name, ...args) => {
      call(name, ...args, out);
      return out[0]!;
    },
    release: (kind, handle) => void releases[kind](handle),
  };
}

type NativeFunction = (...args: readonly unknown[]) => unknown;

/** The function that a table of function pointers has at a position. */
function bind(table: unknown, position: number, signature: string): NativeFunction {
  const pointer: unknown = koffi.decode(table, position * POINTER_BYTES, "void*");
  return koffi.decode(pointer, koffi.proto(signature)) as NativeFunction;
}

function openLibrary(): LibraryHandle {
  const file = LIBRARY_FILES[`${process.platform} ${process.arch}`];
  if (file === undefined) {
    throw new RuntimeError(
      `the C API of ONNX Runtime is not used on ${process.platform} ${process.arch}; set COLDPATH_RUNTIME=binding`,
    );
  }
  const root = dirname(createRequire(import.meta.url).resolve("onnxruntime-node/package.json"));
  try {
    return koffi.load(join(root, "bin", "napi-v6", file));
  } catch (cause) {
    throw new RuntimeError("the library of onnxruntime-node can't be loaded; run npm ci again", { cause });
  }
}

/** Where the package keeps its library. Windows is left out: its paths are wide characters in this API. */
const LIBRARY_FILES: Readonly<Record<string, string>> = {
  "linux x64": "linux/x64/libonnxruntime.so.1",
  "linux arm64": "linux/arm64/libonnxruntime.so.1",
  "darwin arm64": "darwin/arm64/libonnxruntime.1.dylib",
};
