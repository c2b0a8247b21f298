/**
 * Decoders of two tiny layers whose weights are made in code, one in the form of each kind of model: what its layers have
 * besides Llama's. The weights are whole numbers of -8 to 7 times a power of two or its negative, and every block of 32 has
 * both ends in it: 4-bit codes hold them exactly, 8-bit codes to half a percent, so that one list of logits
 * (`golden-logits.ts`) is right for every weight format. Knows no runtime.
 */
import {
  type Checkpoint,
  type DecoderConfig,
  memoryCheckpoint,
  type Rope,
} from "../../import/checkpoint/checkpoint.ts";

const LAYERS = 2;
const HEAD_DIM = 32;
const ROPE = rope(10_000);
/** Less than the prompt. */
const WINDOW = 4;

/** The sizes are those of every form. */
export const GOLDEN_CONFIG: DecoderConfig = {
  layers: LAYERS,
  hiddenSize: 64,
  queryHeads: 2,
  kvHeads: 1,
  headDim: HEAD_DIM,
  ffnSize: 128,
  vocabSize: 24,
  contextLength: 16,
  normEpsilon: 1e-5,
  tiedEmbeddings: true,
  embeddingScale: 1,
  attentionScale: HEAD_DIM ** -0.5,
  activation: "silu",
  qkvBias: false,
  qkNorm: false,
  postNorms: false,
  attention: Array.from({ length: LAYERS }, () => ({ window: undefined, rope: ROPE })),
};

export const GOLDEN_CONFIGS = {
  llama: GOLDEN_CONFIG,
  qwen2: { ...GOLDEN_CONFIG, qkvBias: true },
  qwen3: { ...GOLDEN_CONFIG, qkNorm: true },
  gemma3: {
    ...GOLDEN_CONFIG,
    embeddingScale: Math.sqrt(GOLDEN_CONFIG.hiddenSize),
    attentionScale: 24 ** -0.5,
    activation: "gelu_tanh",
    qkNorm: true,
    postNorms: true,
    attention: [
      { window: WINDOW, rope: ROPE },
      { window: undefined, rope: rope(1_000_000) },
    ],
  },
} as const satisfies Readonly<Record<string, DecoderConfig>>;

/** A kind of layers. */
export type GoldenForm = keyof typeof GOLDEN_CONFIGS;

/** The form of a model, by the names of its weights in its graph. */
export function goldenFormOf(weights: readonly { readonly name: string }[]): GoldenForm {
  const has = (part: string) => weights.some(({ name }) => name.includes(part));
  if (has("post_attention_norm")) return "gemma3";
  if (has("attn_q_norm")) return "qwen3";
  return has("attn_qkv.bias") ? "qwen2" : "llama";
}

export const GOLDEN_PROMPT: readonly number[] = [7, 19, 3, 3, 22, 0, 11, 16, 5];

/** The size of the steps between weights: what keeps values near 1 on their way through a matrix. */
const STEP = 1 / 32;
const BLOCK = 32;

export function goldenCheckpoint(form: GoldenForm): Checkpoint {
  const { hiddenSize, queryHeads, kvHeads, headDim, ffnSize, vocabSize } = GOLDEN_CONFIG;
  return memoryCheckpoint(GOLDEN_CONFIGS[form], (name) => {
    const [part = "", kind] = name.split(".").slice(-2);
    const rows: Readonly<Record<string, number>> = {
      attn_q: queryHeads * headDim,
      attn_k: kvHeads * headDim,
      attn_v: kvHeads * headDim,
      attn_output: hiddenSize,
      ffn_gate: ffnSize,
      ffn_up: ffnSize,
      ffn_down: hiddenSize,
      token_embd: vocabSize,
    };
    if (part.endsWith("norm")) return vector(name, isOfHeads(part) ? headDim : hiddenSize, (drawn) => 1 + drawn / 64);
    const outputs = rows[part];
    if (outputs === undefined) throw new RangeError(`the golden model has no ${name}`);
    if (kind === "bias") return vector(name, outputs, (drawn) => drawn / 16);
    const columns = { attn_output: queryHeads * headDim, ffn_down: ffnSize }[part] ?? hiddenSize;
    return matrix(name, outputs, columns);
  });
}

function isOfHeads(part: string): boolean {
  return part === "attn_q_norm" || part === "attn_k_norm";
}

function rope(base: number): Rope {
  return {
    frequencies: Array.from({ length: HEAD_DIM / 2 }, (_, pair) => base ** ((-2 * pair) / HEAD_DIM)),
    magnitude: 1,
  };
}

function vector(name: string, size: number, value: (drawn: number) => number): Float32Array {
  const next = wholeNumbers(name);
  return Float32Array.from({ length: size }, () => value(next()));
}

/** `[outputs, inputs]`. */
function matrix(name: string, outputs: number, inputs: number): Float32Array {
  const next = wholeNumbers(name);
  const values = new Float32Array(outputs * inputs);
  for (let start = 0; start < values.length; start += BLOCK) {
    // The sign is the row's own, or every matrix would lean to one side and all prompts come out alike.
    const step = Math.floor(start / inputs) % 3 === 0 ? -STEP : STEP;
    const [lowest, highest] = [next() + 8, next() + BLOCK - 8];
    for (let index = 0; index < BLOCK; index++) {
      const drawn = next();
      values[start + index] = step * (index === lowest ? -8 : index === highest ? 7 : drawn);
    }
  }
  return values;
}

/** Whole numbers of -8 to 7, the same for a name everywhere: a linear congruential generator's high bits. */
function wholeNumbers(name: string): () => number {
  let state = 0;
  for (const character of name) state = (Math.imul(state, 31) + character.charCodeAt(0)) >>> 0;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return (state >>> 28) - 8;
  };
}
