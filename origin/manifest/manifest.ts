/**
 * `coldpath.json`, the page an imported model's folder is described on: written last by the import, read first by the
 * origin. A folder without a valid one is not a model.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { ImportError } from "./import-error.ts";

export const MANIFEST_FILE = "coldpath.json";
/** The decoder graph of a plain step, the graph of a mixed step, and the weights that both refer to. */
export const DECODER_FILE = "model.onnx";
export const MIXED_DECODER_FILE = "model.mixed.onnx";
/** The graph of a step that checks several guessed tokens of one row. */
export const DRAFT_DECODER_FILE = "model.draft.onnx";
/** What that graph calls its views of the row, one for each guessed token: as many as it checks at once. */
export const DRAFT_VIEWS = ["draft1.", "draft2.", "draft3."] as const;
/** The same two, with attention and its keys and values in `float16`: what a GPU's attention is written for. */
export const HALF_DECODER_FILE = "model.half.onnx";
export const HALF_MIXED_DECODER_FILE = "model.mixed.half.onnx";
/** The graph of an encoder, which has no steps. */
export const ENCODER_FILE = "model.onnx";
export const WEIGHTS_FILE = "model.onnx.data";
export const TOKENIZER_FILE = "tokenizer.json";
export const CHAT_TEMPLATE_FILE = "chat_template.jinja";
/** How its answers are to be drawn where a request does not say; absent where its makers say nothing. */
export const GENERATION_FILE = "generation_config.json";

/** Raised with any change to what the import writes, so that an older folder is imported again. */
export const IMPORT_VERSION = 6;

const count = z.int().min(1);
const sha256 = z.string().regex(/^[0-9a-f]{64}$/);

const fileRecords = z.record(z.string(), z.object({ bytes: z.int().min(0), sha256 }));

const matrixSchema = z.union([
  z.enum(["fp32", "fp16"]),
  z.object({ bits: z.literal(8), scale: z.literal("row"), normedInputs: z.boolean().optional() }),
  z.object({
    bits: z.union([z.literal(4), z.literal(8)]),
    blockSize: count,
    symmetric: z.boolean(),
    fitted: z.boolean().optional(),
  }),
]);

const manifestSchema = z.object({
  importVersion: z.literal(IMPORT_VERSION),
  name: z.string().min(1),
  architecture: z.object({
    layers: count,
    hiddenSize: count,
    queryHeads: count,
    kvHeads: count,
    headDim: count,
    vocabSize: count,
    contextLength: count,
  }),
  /** The format's name, and how it stores each kind of matrix. */
  quantization: z.object({ format: z.string(), matrices: z.record(z.string(), matrixSchema) }),
  tokens: z.object({
    bos: z.int().nullable(),
    ends: z.array(z.int()).min(1),
    addBos: z.boolean(),
    /** What chat templates call control tokens: `bos_token`, `eos_token`, … */
    names: z.record(z.string(), z.string()).optional(),
  }),
  /** Whether there is a chat template; a base model has none and serves text completions only. */
  chat: z.boolean().default(true),
  /** An encoder's way from its tokens' states to one vector; a decoder has none. */
  embedding: z
    .object({
      /** The mean of all tokens, or the first one's. */
      pooling: z.enum(["mean", "cls"]),
      /** Whether the vector's length is made 1. */
      normalized: z.boolean(),
      /** The shorter vectors that it was trained for. */
      dimensions: z.union([z.literal("any"), z.array(count)]),
    })
    .optional(),
  /** What it was imported from; nothing in it says where that lay on the machine. */
  source: z.object({
    kind: z.enum(["file", "hugging-face", "modelscope", "url", "s3", "package-index"]),
    /** What the import was asked for: the file's name, a preset's, a repository's. */
    name: z.string(),
    /** The repository, the URL, the package it was found in. */
    location: z.string(),
    /** The commit, or what the source has instead. */
    revision: z.string().nullable(),
    bytes: count,
    /** The one file's, or the digest of all their digests. */
    sha256,
    files: fileRecords,
  }),
  /** What imports it again. */
  command: z.array(z.string()),
  tool: z.object({ name: z.string(), version: z.string() }),
  /** Every other file in the folder, by name. */
  files: fileRecords,
  /** ISO 8601: when the source was changed last, as it says itself, so that importing twice gives the same bytes. */
  created: z.string(),
});

/** What every version has written. */
const otherVersionSchema = z.object({ importVersion: z.int(), quantization: z.object({ format: z.string() }) });

export type Manifest = z.infer<typeof manifestSchema>;

/**
 * Reads a model folder's manifest.
 *
 * @throws {ImportError} `unreadable-file`; its message says which folder and what is wrong with it
 */
export function readManifest(folder: string): Manifest {
  const path = join(folder, MANIFEST_FILE);
  let body: unknown;
  try {
    body = JSON.parse(readFileSync(path, "utf8"));
  } catch (cause) {
    const what = `${folder} is not an imported model: ${MANIFEST_FILE} is missing or damaged`;
    throw new ImportError("unreadable-file", what, { cause });
  }
  const parsed = manifestSchema.safeParse(body);
  if (parsed.success) return parsed.data;
  const what = `${path} was written by another version of coldpath; import the model again`;
  throw new ImportError("unreadable-file", what, { cause: parsed.error });
}

/**
 * The weight format that another version of coldpath says a folder has: what an operator chose outlives an upgrade.
 *
 * @returns `undefined` for a folder of this version, and for anything that is no model's
 */
export function otherVersionFormat(folder: string): string | undefined {
  try {
    const parsed = otherVersionSchema.safeParse(JSON.parse(readFileSync(join(folder, MANIFEST_FILE), "utf8")));
    return parsed.success && parsed.data.importVersion !== IMPORT_VERSION ? parsed.data.quantization.format : undefined;
  } catch {
    return undefined;
  }
}

/** The model's digest: SHA-256 over its files' digests, hex. What the cache's identity and `/v1/models` carry. */
export function modelDigest({ files }: Pick<Manifest, "files">): string {
  return listDigest(files);
}

/** What tells files from any others: the one file's SHA-256, or that over the digests of several. */
export function filesDigest(files: Manifest["files"]): string {
  const [only, ...others] = Object.values(files);
  return only !== undefined && others.length === 0 ? only.sha256 : listDigest(files);
}

function listDigest(files: Manifest["files"]): string {
  const lines = Object.entries(files).map(([name, file]) => `${file.sha256}  ${name}\n`);
  return createHash("sha256").update(lines.toSorted().join("")).digest("hex");
}
