/**
 * The header of a safetensors file: where each tensor lies. As strict as the reference: the tensors follow each other
 * without a gap from the header's end to the file's, so that no byte has two meanings or none. Knows no model.
 *
 * Ours, because no package on npm reads local files: `@huggingface/hub` 2.17 parses the headers of a repository over HTTP
 * and believes their offsets; `safetensors` 0.0.1 is a placeholder.
 *
 * Source: https://github.com/huggingface/safetensors#format, and `validate` in safetensors/src/tensor.rs
 */
import { z } from "zod";
import { ImportError } from "../../manifest/import-error.ts";
import type { ElementType } from "./dequantize/element-types.ts";
import { BF16, F16, F32 } from "./dequantize/plain.ts";
import type { ReadableFile } from "./readable-file.ts";
import { elementCount, type StoredTensor } from "./stored-tensor.ts";
import { parseStrictJson } from "./strict-json.ts";

/** The reference's own limit. */
const HEADER_BYTES_MAX = 100_000_000;
const LENGTH_BYTES = 8;

const READABLE: ReadonlyMap<string, ElementType> = new Map([
  ["F32", F32],
  ["F16", F16],
  ["BF16", BF16],
]);

/** The bits of an element, of every type of the format. */
const ELEMENT_BITS: ReadonlyMap<string, number> = new Map([
  ...["C64", "F64", "I64", "U64"].map((name) => [name, 64] as const),
  ...["F32", "I32", "U32"].map((name) => [name, 32] as const),
  ...["F16", "BF16", "I16", "U16"].map((name) => [name, 16] as const),
  ...["BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"].map(
    (name) => [name, 8] as const,
  ),
  ...["F6_E2M3", "F6_E3M2"].map((name) => [name, 6] as const),
  ["F4", 4] as const,
]);

const entrySchema = z.strictObject({
  dtype: z.string(),
  shape: z.array(z.int().min(0)),
  data_offsets: z.tuple([z.int().min(0), z.int().min(0)]),
});

/**
 * Reads a header.
 *
 * @returns the tensors by name
 * @throws {ImportError} `invalid-file`, `truncated-file`
 */
export function readSafetensorsHeader(file: ReadableFile): Map<string, StoredTensor> {
  const { entries, dataOffset } = readEntries(file);
  const tensors = new Map<string, StoredTensor>();
  for (const [name, entry] of Object.entries(entries)) {
    if (name === "__metadata__") continue;
    tensors.set(name, placeTensor(file, name, entry, dataOffset));
  }
  checkCoverage(file, tensors, dataOffset);
  return tensors;
}

function readEntries(file: ReadableFile): { readonly entries: object; readonly dataOffset: number } {
  if (file.size < LENGTH_BYTES) {
    throw new ImportError("truncated-file", `${file.path} has only ${file.size} bytes, which is no safetensors file`);
  }
  const length = new DataView(file.read(0, LENGTH_BYTES).buffer).getBigUint64(0, true);
  if (length > HEADER_BYTES_MAX) {
    throw invalid(file, `claims a header of ${length} bytes; ${HEADER_BYTES_MAX} are the limit`);
  }
  const dataOffset = LENGTH_BYTES + Number(length);
  const header = file.read(LENGTH_BYTES, Number(length));
  let entries: unknown;
  try {
    entries = parseStrictJson(new TextDecoder("utf-8", { fatal: true }).decode(header));
  } catch (cause) {
    const [reason = ""] = (cause instanceof Error ? cause.message : String(cause)).split("\n");
    throw invalid(file, `has a header that is not JSON: ${reason}`, cause);
  }
  if (typeof entries === "object" && entries !== null && !Array.isArray(entries)) return { entries, dataOffset };
  throw invalid(file, "has a header that is no JSON object");
}

function placeTensor(file: ReadableFile, name: string, entry: unknown, dataOffset: number): StoredTensor {
  const parsed = entrySchema.safeParse(entry);
  if (!parsed.success) throw invalid(file, `describes ${name} by something other than dtype, shape and data_offsets`);
  const { dtype, shape, data_offsets: offsets } = parsed.data;
  const [begin, end] = offsets;
  const bits = ELEMENT_BITS.get(dtype);
  if (bits === undefined) throw invalid(file, `stores ${name} as ${dtype}, which the format does not have`);
  const elements = elementCount(shape);
  if (elements === undefined || end - begin !== (elements * bits) / 8) {
    throw invalid(file, `gives ${name} the shape [${shape.join(", ")}] of ${dtype} and ${end - begin} bytes`);
  }
  return { file, shape, type: READABLE.get(dtype) ?? dtype, offset: dataOffset + begin, bytes: end - begin };
}

/** Every byte behind the header belongs to exactly one tensor. */
function checkCoverage(file: ReadableFile, tensors: ReadonlyMap<string, StoredTensor>, dataOffset: number): void {
  const inOrder = [...tensors].toSorted(([, a], [, b]) => a.offset - b.offset || a.bytes - b.bytes);
  let end = dataOffset;
  for (const [name, { offset, bytes }] of inOrder) {
    if (offset < end) throw invalid(file, `has ${name} begin inside another tensor`);
    if (offset > end) throw invalid(file, `leaves ${offset - end} bytes before ${name} to nobody`);
    end += bytes;
  }
  if (end > file.size) {
    throw new ImportError(
      "truncated-file",
      `${file.path} is truncated: its tensors end at byte ${end}, the file at ${file.size}`,
    );
  }
  if (end < file.size) throw invalid(file, `has ${file.size - end} bytes behind its last tensor`);
}

function invalid({ path }: ReadableFile, reason: string, cause?: unknown): ImportError {
  return new ImportError("invalid-file", `${path} is not a sound safetensors file: it ${reason}`, { cause });
}
