/**
 * How an encoder's checkpoint wants its tokens' states made one vector, as the files of sentence-transformers beside the
 * weights say it. Knows no weights.
 *
 * Source: sentence-transformers, models/Pooling.py, models/Normalize.py and SentenceTransformer.py (`modules.json`).
 */
import { z } from "zod";
import type { Manifest } from "../../manifest/manifest.ts";
import { ImportError } from "../../manifest/import-error.ts";
import { readBeside } from "../sources/read-beside.ts";
import type { TensorFile } from "../sources/tensor-file.ts";

const MODULES = "modules.json";
const POOLING = "1_Pooling/config.json";
const LENGTHS = "sentence_bert_config.json";

const modulesSchema = z.array(z.looseObject({ type: z.string() }));
const lengthsSchema = z.looseObject({ max_seq_length: z.int().min(1).nullish() });
const flag = z.boolean().default(false);
const poolingSchema = z.looseObject({
  pooling_mode_cls_token: flag,
  pooling_mode_mean_tokens: flag,
  pooling_mode_max_tokens: flag,
  pooling_mode_mean_sqrt_len_tokens: flag,
  pooling_mode_weightedmean_tokens: flag,
  pooling_mode_lasttoken: flag,
});
/** Of `config.json`, where its publisher has trained for shorter vectors. vLLM reads the same two. */
const shorteningSchema = z.looseObject({
  is_matryoshka: z.boolean().nullish(),
  matryoshka_dimensions: z.array(z.int().min(1)).nullish(),
});

type Embedding = NonNullable<Manifest["embedding"]>;

export interface PoolingSettings {
  readonly embedding: Embedding;
  /** Tokens that a text may have, as its publisher says; `undefined` where he does not. */
  readonly tokensMax: number | undefined;
}

/**
 * Without any of these files the mean is taken and normalised, which sentence-transformers does too, but for the norm.
 *
 * @throws {ImportError} `unsupported-model` for a pooling or a module that is not known, `invalid-file`
 */
export function readPooling(file: TensorFile): PoolingSettings {
  const types = (readBeside(file, MODULES, modulesSchema) ?? []).map(({ type }) =>
    type.slice(type.lastIndexOf(".") + 1),
  );
  const stranger = types.find((type) => !["Transformer", "Pooling", "Normalize"].includes(type));
  if (stranger !== undefined) {
    throw new ImportError("unsupported-model", `${file.path} has a module ${stranger}, which coldpath can't run`);
  }
  const shortening = shorteningSchema.safeParse(file.metadata).data;
  const anyLength = shortening?.is_matryoshka === true ? ("any" as const) : [];
  return {
    embedding: {
      pooling: readMode(file),
      normalized: types.length === 0 || types.includes("Normalize"),
      dimensions: shortening?.matryoshka_dimensions ?? anyLength,
    },
    tokensMax: readBeside(file, LENGTHS, lengthsSchema)?.max_seq_length ?? undefined,
  };
}

function readMode(file: TensorFile): Embedding["pooling"] {
  const modes = readBeside(file, POOLING, poolingSchema);
  if (modes === undefined) return "mean";
  const on = Object.entries(modes).filter(([name, value]) => name.startsWith("pooling_mode_") && value === true);
  const [[mode] = [""], ...others] = on;
  if (others.length === 0 && mode === "pooling_mode_mean_tokens") return "mean";
  if (others.length === 0 && mode === "pooling_mode_cls_token") return "cls";
  const said = on.length === 0 ? "none" : on.map(([name]) => name).join(", ");
  throw new ImportError("unsupported-model", `${file.path} pools its tokens by ${said}, which coldpath can't run`);
}
