/** Opens a checkpoint of any format. Tells them apart by name: what is inside is checked by the format's own reader. */
import { openGguf } from "./gguf.ts";
import { openSafetensors } from "./safetensors.ts";
import type { TensorFile } from "./tensor-file.ts";

/**
 * Opens a checkpoint and checks that all of its tensors are there.
 *
 * @param path - a .gguf file; or a folder with safetensors files, or one of these, or their index
 * @throws {ImportError} as `openGguf` and `openSafetensors` do
 */
export function openTensorFile(path: string): TensorFile {
  return path.toLowerCase().endsWith(".gguf") ? openGguf(path) : openSafetensors(path);
}
