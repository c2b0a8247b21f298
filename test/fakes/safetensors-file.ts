/// <reference lib="esnext.float16" />
/**
 * Writes safetensors files by hand after the format's description, sound ones and others, independent of the reader they
 * test.
 *
 * Source: https://github.com/huggingface/safetensors#format
 */

export interface FakeTensor {
  readonly name: string;
  readonly dtype: string;
  /** The contiguous dimension last. */
  readonly shape: readonly number[];
  readonly data: Uint8Array;
  /** Where the header says the data is, when that should be a lie. */
  readonly offsets?: readonly [begin: number, end: number];
}

export interface FakeFileOptions {
  /** Changes the header's text before its length is taken. */
  readonly editHeader?: (json: string) => string;
  /** The header's length, when that should be a lie. */
  readonly headerLength?: bigint;
}

/** A file in memory. */
export function safetensorsFile(
  tensors: readonly FakeTensor[],
  options: FakeFileOptions = {},
): Uint8Array<ArrayBuffer> {
  const entries: [string, unknown][] = [["__metadata__", { format: "pt" }]];
  let end = 0;
  for (const { name, dtype, shape, data, offsets } of tensors) {
    entries.push([name, { dtype, shape, data_offsets: offsets ?? [end, end + data.length] }]);
    end += data.length;
  }
  const json = JSON.stringify(Object.fromEntries(entries));
  const header = Buffer.from(options.editHeader?.(json) ?? json.padEnd(Math.ceil(json.length / 8) * 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(options.headerLength ?? BigInt(header.length));
  return Uint8Array.from(Buffer.concat([length, header, ...tensors.map(({ data }) => data)]));
}

/** A tensor of floats, stored as `dtype`; to BF16 it is cut. */
export function fakeTensor(
  name: string,
  shape: readonly number[],
  values: Float32Array,
  dtype: "F32" | "F16" | "BF16" = "F32",
): FakeTensor {
  return { name, dtype, shape, data: encode(values, dtype) };
}

function encode(values: Float32Array, dtype: "F32" | "F16" | "BF16"): Uint8Array {
  const data = new Uint8Array(values.length * (dtype === "F32" ? 4 : 2));
  const view = new DataView(data.buffer);
  const float = new DataView(new ArrayBuffer(4));
  for (const [i, value] of values.entries()) {
    if (dtype === "F32") view.setFloat32(i * 4, value, true);
    else if (dtype === "F16") view.setFloat16(i * 2, value, true);
    else {
      float.setFloat32(0, value);
      view.setUint16(i * 2, float.getUint16(0), true);
    }
  }
  return data;
}
