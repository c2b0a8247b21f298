/// <reference lib="esnext.float16" />
/**
 * The weights of a model, loaded once for all of its graphs. ONNX Runtime re-packs a matrix for its kernels when a
 * session is made; sessions share the packed form only of weights that were handed to them as values, and only through
 * a container. Measured on the default model in int4: the second session costs 17 MiB this way and about 95 otherwise.
 *
 * Scales lie in the file as codes, and a graph says how they are computed. ONNX Runtime would do that for each session
 * and keep each result. A value that is handed over under the result's name takes its place, so it is done once here.
 */
import { closeSync, openSync, readFileSync, readSync } from "node:fs";
import { join } from "node:path";
import { blockScales, findScales, type StoredScales } from "../../onnx/scales.ts";
import { type ExternalTensor, readExternalTensors } from "../../onnx/onnx-graph.ts";
import { RuntimeError } from "../port/runtime.ts";
import { mapFile, type MappedFile } from "./map-file.ts";
import type { Handle, OrtApi } from "./ort-api.ts";
import { addressOf, makeTensor } from "./tensor.ts";

export interface SharedWeights extends Disposable {
  /** Hands a graph's weights to the options its session will be made with. @param model - the path of the graph */
  readonly addTo: (sessionOptions: Handle, model: string) => void;
  /** The container that the sessions are made with. */
  readonly prepacked: Handle;
}

/** The sessions must be gone before this is disposed. */
export function loadSharedWeights(api: OrtApi, memoryInfo: Handle, folder: string): SharedWeights {
  using failing = new DisposableStack();
  const files = new Map<string, MappedFile>();
  const values = new Map<string, Handle>();
  const prepacked = api.make("createPrepackedWeightsContainer");
  failing.defer(() => api.release("prepackedWeights", prepacked));

  const valueOf = (tensor: ExternalTensor): Handle => {
    const known = values.get(tensor.name);
    if (known !== undefined) return known;
    const { file, offset, length } = tensor.location;
    const mapped = files.get(file) ?? stack.use(mapFile(join(folder, file)));
    files.set(file, mapped);
    if (offset + length > mapped.bytes) throw cutShort(file);
    const memory = { address: mapped.address + BigInt(offset), bytes: length };
    const value = makeTensor(api, memoryInfo, { ...memory, type: tensor.type, dimensions: tensor.shape });
    stack.defer(() => api.release("value", value));
    values.set(tensor.name, value);
    return value;
  };
  const scalesOf = ({ name, codes, rows }: StoredScales): Handle => {
    const known = values.get(name);
    if (known !== undefined) return known;
    const scaleCodes = new Int8Array(readTensor(folder, codes));
    const rowScales = new Float16Array(readTensor(folder, rows));
    const scales = new Float32Array(new ArrayBuffer(scaleCodes.length * Float32Array.BYTES_PER_ELEMENT));
    scales.set(blockScales({ scaleCodes, rowScales }));
    const memory = { address: addressOf(scales), bytes: scales.byteLength };
    const value = makeTensor(api, memoryInfo, { ...memory, type: "float32", dimensions: codes.shape });
    // The array has to stay for as long as the value does.
    stack.defer(() => (api.release("value", value), scales));
    values.set(name, value);
    return value;
  };
  const stack = failing.move();
  return {
    addTo: (sessionOptions, model) => {
      const tensors = weightsOf(model);
      for (const tensor of tensors) api.call("addInitializer", sessionOptions, tensor.name, valueOf(tensor));
      for (const scales of findScales(tensors)) {
        api.call("addInitializer", sessionOptions, scales.name, scalesOf(scales));
      }
    },
    prepacked,
    [Symbol.dispose]: () => stack.dispose(),
  };
}

function weightsOf(model: string): readonly ExternalTensor[] {
  try {
    return readExternalTensors(readFileSync(model));
  } catch (cause) {
    throw new RuntimeError(`${model} is missing or damaged; import the model again`, { cause });
  }
}

function readTensor(folder: string, { location: { file, offset, length } }: ExternalTensor): ArrayBuffer {
  const bytes = new Uint8Array(length);
  const descriptor = openSync(join(folder, file), "r");
  try {
    if (readSync(descriptor, bytes, 0, length, offset) < length) throw cutShort(file);
  } finally {
    closeSync(descriptor);
  }
  return bytes.buffer;
}

function cutShort(file: string): RuntimeError {
  return new RuntimeError(`${file} is cut short; import the model again`);
}
