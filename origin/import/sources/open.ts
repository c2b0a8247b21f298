/** Opens a file of weights of any format. The name decides which format's reader checks and reads it. */
import { openGguf } from "./gguf.ts";
import { openSafetensors } from "./safetensors.ts";
import type { TensorFile } from "./tensor-file.ts";

/**
 * Opens weights and checks that all tensors are complete.
 *
 * @param path - a .gguf file; or a folder with safetensors files, one of these files, or their index
 * @throws {ImportError} errors of `openGguf` and `openSafetensors`
 */
export function openTensorFile(path: string): TensorFile {
  return path.toLowerCase().endsWith(".gguf") ? openGguf(path) : openSafetensors(path);
}
