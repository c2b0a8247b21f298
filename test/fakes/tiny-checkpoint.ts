/**
 * Writes a small Llama-family GGUF: seeded random weights, a byte-level BPE vocabulary and a chat template. It is a
 * complete model in the real format, so everything behind the import runs as it does on real weights, only in
 * milliseconds. Written by hand after the format's specification, independent of the reader it is used to test.
 *
 * Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */
import { writeFileSync } from "node:fs";
import { mulberry32 } from "./mulberry32.ts";

export interface TinyCheckpointOptions {
  /** Default 1. */
  readonly seed?: number;
  readonly layers?: number;
  readonly hiddenSize?: number;
  readonly queryHeads?: number;
  readonly kvHeads?: number;
  readonly headDim?: number;
  readonly ffnSize?: number;
  readonly contextLength?: number;
  /** False: a separate `output.weight`. Default true. */
  readonly tied?: boolean;
  /** Llama 3's `rope_freqs.weight`, `[headDim / 2]`. */
  readonly ropeFactors?: readonly number[];
  /** Replaces or, with `undefined`, removes metadata. */
  readonly metadata?: Readonly<Record<string, TinyValue | undefined>>;
  /** Changes the tensors before they are laid out. */
  readonly editTensors?: (tensors: TinyTensor[]) => TinyTensor[];
}

/** A metadata value with its GGUF type. */
export type TinyValue =
  | { readonly type: "uint32" | "int32" | "float32"; readonly value: number }
  | { readonly type: "bool"; readonly value: boolean }
  | { readonly type: "string"; readonly value: string }
  | { readonly type: "strings"; readonly value: readonly string[] }
  | { readonly type: "int32s"; readonly value: readonly number[] };

export interface TinyTensor {
  readonly name: string;
  /** GGUF's order: the contiguous dimension first. */
  readonly shape: readonly number[];
  /** GGML's number of the element type; 0 is F32. */
  readonly dtype: number;
  readonly data: Uint8Array;
  /** Where the header says the data is, when that should be a lie. */
  readonly offset?: bigint;
}

/** A GGUF file in memory, and where its parts begin. */
export interface TinyFile {
  readonly bytes: Uint8Array;
  /** Where the tensors' data begins, bytes. */
  readonly dataOffset: number;
}

const ALIGNMENT = 32;
const F32 = 0;
const GGUF_TYPE = { uint32: 4, int32: 5, float32: 6, bool: 7, string: 8, array: 9 } as const;

/** ChatML, as SmolLM2 and Qwen use it. */
const CHAT_TEMPLATE =
  "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}" +
  "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

const MERGES = ["Ġ t", "h e", "i n", "Ġ a", "Ġt he", "e r", "o n", "l l", "o u", "a n", "in g", "Ġ w", "Ä ł"];

/** Writes a tiny checkpoint to `path`. Vocabulary: 3 control tokens, 256 bytes, the merges' results. */
export function writeTinyCheckpoint(path: string, options: TinyCheckpointOptions = {}): void {
  writeFileSync(path, tinyCheckpoint(options).bytes);
}

/** Builds a tiny checkpoint. */
export function tinyCheckpoint(options: TinyCheckpointOptions = {}): TinyFile {
  const { layers = 2, hiddenSize = 128, queryHeads = 4, kvHeads = 2, headDim = 32, ffnSize = 192 } = options;
  const sizes = { layers, hiddenSize, queryHeads, kvHeads, headDim, ffnSize };
  const tokens = tinyVocabulary();
  const metadata: Record<string, TinyValue | undefined> = {
    "general.architecture": { type: "string", value: "llama" },
    "general.name": { type: "string", value: "Tiny" },
    "llama.block_count": { type: "uint32", value: layers },
    "llama.context_length": { type: "uint32", value: options.contextLength ?? 256 },
    "llama.embedding_length": { type: "uint32", value: hiddenSize },
    "llama.feed_forward_length": { type: "uint32", value: ffnSize },
    "llama.attention.head_count": { type: "uint32", value: queryHeads },
    "llama.attention.head_count_kv": { type: "uint32", value: kvHeads },
    "llama.attention.key_length": { type: "uint32", value: headDim },
    "llama.attention.value_length": { type: "uint32", value: headDim },
    "llama.attention.layer_norm_rms_epsilon": { type: "float32", value: 1e-5 },
    "llama.rope.dimension_count": { type: "uint32", value: headDim },
    "llama.rope.freq_base": { type: "float32", value: 10_000 },
    "tokenizer.ggml.model": { type: "string", value: "gpt2" },
    "tokenizer.ggml.pre": { type: "string", value: "smollm" },
    "tokenizer.ggml.tokens": { type: "strings", value: tokens },
    "tokenizer.ggml.token_type": { type: "int32s", value: tinyTokenTypes(tokens) },
    "tokenizer.ggml.merges": { type: "strings", value: MERGES },
    "tokenizer.ggml.bos_token_id": { type: "uint32", value: 1 },
    "tokenizer.ggml.eos_token_id": { type: "uint32", value: 2 },
    "tokenizer.ggml.add_bos_token": { type: "bool", value: false },
    "tokenizer.chat_template": { type: "string", value: CHAT_TEMPLATE },
    ...options.metadata,
  };
  const tensors = tinyTensors({ ...sizes, vocabSize: tokens.length }, options);
  return layOut(metadata, options.editTensors?.(tensors) ?? tensors);
}

/** A tensor of the given values. */
export function tinyTensor(name: string, shape: readonly number[], values: Float32Array): TinyTensor {
  return { name, shape, dtype: F32, data: new Uint8Array(values.buffer, values.byteOffset, values.byteLength) };
}

interface LayerSizes {
  readonly hiddenSize: number;
  readonly queryHeads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly ffnSize: number;
}

interface TinySizes extends LayerSizes {
  readonly layers: number;
  readonly vocabSize: number;
}

interface TensorMaker {
  readonly norm: (name: string) => TinyTensor;
  readonly matrix: (name: string, inputs: number, outputs: number) => TinyTensor;
}

function tinyTensors(sizes: TinySizes, options: TinyCheckpointOptions): TinyTensor[] {
  const { layers, hiddenSize, vocabSize } = sizes;
  const normal = seededNormal(options.seed ?? 1);
  const values = (count: number, mean: number, deviation: number) =>
    Float32Array.from({ length: count }, () => mean + deviation * normal());
  const norm = (name: string) => tinyTensor(`${name}.weight`, [hiddenSize], values(hiddenSize, 1, 0.1));
  const matrix = (name: string, inputs: number, outputs: number) =>
    tinyTensor(`${name}.weight`, [inputs, outputs], values(inputs * outputs, 0, 1 / Math.sqrt(inputs)));
  const table = (name: string) =>
    tinyTensor(`${name}.weight`, [hiddenSize, vocabSize], values(hiddenSize * vocabSize, 0, 0.3));

  const tensors = [table("token_embd"), norm("output_norm")];
  if (options.tied === false) tensors.push(table("output"));
  if (options.ropeFactors !== undefined) {
    const factors = Float32Array.from(options.ropeFactors);
    tensors.push(tinyTensor("rope_freqs.weight", [factors.length], factors));
  }
  for (let layer = 0; layer < layers; layer++) tensors.push(...layerTensors(layer, sizes, { norm, matrix }));
  return tensors;
}

/** One layer of the Llama family, each tensor made by its name and, for a matrix, its inputs and outputs. */
export function layerTensors(
  layer: number,
  { hiddenSize, queryHeads, kvHeads, headDim, ffnSize }: LayerSizes,
  { norm, matrix }: TensorMaker,
): TinyTensor[] {
  const of = (name: string) => `blk.${layer}.${name}`;
  return [
    norm(of("attn_norm")),
    matrix(of("attn_q"), hiddenSize, queryHeads * headDim),
    matrix(of("attn_k"), hiddenSize, kvHeads * headDim),
    matrix(of("attn_v"), hiddenSize, kvHeads * headDim),
    matrix(of("attn_output"), queryHeads * headDim, hiddenSize),
    norm(of("ffn_norm")),
    matrix(of("ffn_gate"), hiddenSize, ffnSize),
    matrix(of("ffn_up"), hiddenSize, ffnSize),
    matrix(of("ffn_down"), ffnSize, hiddenSize),
  ];
}

/** GPT-2's 256 byte characters behind three control tokens, then one token per merge. */
export function tinyVocabulary(): string[] {
  let spare = 256;
  const bytes = Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(isPrintable(byte) ? byte : spare++));
  return ["<|endoftext|>", "<|im_start|>", "<|im_end|>", ...bytes, ...MERGES.map((merge) => merge.replace(" ", ""))];
}

/** GGUF's types of those tokens, and of any behind them: 3 is a control token, 1 an ordinary one. */
export function tinyTokenTypes(tokens: readonly string[]): number[] {
  return tokens.map((_, id) => (id < 3 ? 3 : 1));
}

function isPrintable(byte: number): boolean {
  return (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
}

function layOut(metadata: Readonly<Record<string, TinyValue | undefined>>, tensors: readonly TinyTensor[]): TinyFile {
  const entries = Object.entries(metadata).filter((entry): entry is [string, TinyValue] => entry[1] !== undefined);
  const header = [
    Buffer.from("GGUF"),
    number("uint32", 3),
    uint64(tensors.length),
    uint64(entries.length),
    ...entries.flatMap(([key, value]) => [text(key), typed(value)]),
  ];
  let offset = 0;
  for (const { name, shape, dtype, data, offset: claimed } of tensors) {
    header.push(text(name), number("uint32", shape.length), ...shape.map(uint64), number("uint32", dtype));
    header.push(uint64(claimed ?? BigInt(offset)));
    offset += data.length + padding(data.length);
  }
  const head = Buffer.concat(header);
  const body = tensors.flatMap(({ data }) => [data, Buffer.alloc(padding(data.length))]);
  return {
    bytes: Buffer.concat([head, Buffer.alloc(padding(head.length)), ...body]),
    dataOffset: head.length + padding(head.length),
  };
}

function typed(value: TinyValue): Buffer {
  switch (value.type) {
    case "uint32":
    case "int32":
    case "float32":
      return Buffer.concat([number("uint32", GGUF_TYPE[value.type]), number(value.type, value.value)]);
    case "bool":
      return Buffer.concat([number("uint32", GGUF_TYPE.bool), Buffer.from([value.value ? 1 : 0])]);
    case "string":
      return Buffer.concat([number("uint32", GGUF_TYPE.string), text(value.value)]);
    case "strings":
      return array(GGUF_TYPE.string, value.value.map(text));
    case "int32s":
      return array(
        GGUF_TYPE.int32,
        value.value.map((element) => number("int32", element)),
      );
    default:
      return value satisfies never;
  }
}

function array(elementType: number, elements: readonly Buffer[]): Buffer {
  return Buffer.concat([
    number("uint32", GGUF_TYPE.array),
    number("uint32", elementType),
    uint64(elements.length),
    ...elements,
  ]);
}

function number(type: "uint32" | "int32" | "float32", value: number): Buffer {
  const bytes = Buffer.alloc(4);
  if (type === "uint32") bytes.writeUInt32LE(value);
  else if (type === "int32") bytes.writeInt32LE(value);
  else bytes.writeFloatLE(value);
  return bytes;
}

function uint64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([uint64(bytes.length), bytes]);
}

function padding(length: number): number {
  return (ALIGNMENT - (length % ALIGNMENT)) % ALIGNMENT;
}

/** Standard normal numbers by Box and Muller. */
function seededNormal(seed: number): () => number {
  const uniform = mulberry32(seed);
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}
