/**
 * Parses the header of a safetensors file: the place of each tensor. As strict as the reference implementation: the tensors
 * follow each other without gaps from the end of the header to the end of the file, so that every byte belongs to exactly one
 * tensor. Does not depend on models.
 *
 * No npm package reads local files: `@huggingface/hub` 2.17 parses the headers of a repository over HTTP and does not check
 * their offsets; `safetensors` 0.0.1 is a placeholder.
 *
 * Source: https://github.com/huggingface/safetensors#format, and `validate` in safetensors/src/tensor.rs
 */
import { z } from "zod";
import { ImportError } from "../../manifest/import-error.ts";
import { BF16, F16, F32 } from "./dequantize/plain.ts";
import type { WeightEncoding } from "./dequantize/weight-encoding.ts";
import type { ReadableFile } from "./readable-file.ts";
import { elementCount, type StoredTensor } from "./stored-tensor.ts";
import { parseStrictJson } from "./strict-json.ts";

/** The limit of the reference implementation. */
const HEADER_BYTES_MAX = 100_000_000;
const LENGTH_BYTES = 8;

const READABLE: ReadonlyMap<string, WeightEncoding> = new Map([
  ["F32", F32],
  ["F16", F16],
  ["BF16", BF16],
]);

/** Bits of an element, for all types of the format. */
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
    throw new ImportError("truncated-file", `${file.path} has only ${file.size} bytes, too few for a safetensors file`);
  }
  const length = new DataView(file.read(0, LENGTH_BYTES).buffer).getBigUint64(0, true);
  if (length > HEADER_BYTES_MAX) {
    throw invalid(file, `claims a header of ${length} bytes; the limit is ${HEADER_BYTES_MAX}`);
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
  throw invalid(file, "has a header that is not a JSON object");
}

function placeTensor(file: ReadableFile, name: string, entry: unknown, dataOffset: number): StoredTensor {
  const parsed = entrySchema.safeParse(entry);
  if (!parsed.success)
    throw invalid(file, `describes ${name} without dtype, shape and data_offsets, or with other fields`);
  const { dtype, shape, data_offsets: offsets } = parsed.data;
  const [begin, end] = offsets;
  const bits = ELEMENT_BITS.get(dtype);
  if (bits === undefined) throw invalid(file, `stores ${name} as ${dtype}, which is not a type of the format`);
  const elements = elementCount(shape);
  if (elements === undefined || end - begin !== (elements * bits) / 8) {
    throw invalid(file, `gives ${name} ${end - begin} bytes, which does not fit [${shape.join(", ")}] of ${dtype}`);
  }
  return { file, shape, type: READABLE.get(dtype) ?? dtype, offset: dataOffset + begin, bytes: end - begin };
}

/** Checks that every byte behind the header belongs to exactly one tensor. */
function checkCoverage(file: ReadableFile, tensors: ReadonlyMap<string, StoredTensor>, dataOffset: number): void {
  const inOrder = [...tensors].toSorted(([, a], [, b]) => a.offset - b.offset || a.bytes - b.bytes);
  let end = dataOffset;
  for (const [name, { offset, bytes }] of inOrder) {
    if (offset < end) throw invalid(file, `has the tensor ${name} inside another tensor`);
    if (offset > end) throw invalid(file, `has ${offset - end} unused bytes before ${name}`);
    end += bytes;
  }
  if (end > file.size) {
    throw new ImportError(
      "truncated-file",
      `${file.path} is truncated: its tensors end at byte ${end}, but the file at ${file.size}`,
    );
  }
  if (end < file.size) throw invalid(file, `has ${file.size - end} unused bytes behind its last tensor`);
}

function invalid({ path }: ReadableFile, reason: string, cause?: unknown): ImportError {
  return new ImportError("invalid-file", `${path} is not a valid safetensors file: it ${reason}`, { cause });
}
