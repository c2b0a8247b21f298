/**
 * A decoder of two tiny layers whose weights are made in code, and the logits it must give. The weights are whole numbers
 * of -8 to 7 times a power of two or its negative, and every block of 32 has both ends in it: 4-bit codes hold them exactly, 8-bit codes to
 * half a percent, so that one list of logits is right for every weight format. Knows no runtime.
 */
import {
  type Checkpoint,
  type DecoderConfig,
  memoryCheckpoint,
  type Rope,
  type TensorName,
} from "../../import/checkpoint.ts";

const LAYERS = 2;
const HEAD_DIM = 32;
const ROPE: Rope = {
  frequencies: Array.from({ length: HEAD_DIM / 2 }, (_, pair) => 10_000 ** ((-2 * pair) / HEAD_DIM)),
  magnitude: 1,
};

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

/** A prompt, and the logits after some of its tokens. */
export const GOLDEN_PROMPT: readonly number[] = [7, 19, 3, 3, 22, 0, 11, 16, 5];

/**
 * By the number of tokens fed. Computed in double precision by a plain forward pass without ONNX, from the architecture's
 * definition (`test/origin/import/reference-decoder.ts`); the test beside it computes them again.
 */
export const GOLDEN_LOGITS: ReadonlyMap<number, readonly number[]> = new Map([
  [
    4,
    [
      -0.2179, 0.4558, -0.6327, -1.5878, -2.2034, 1.7167, -1.7205, 0.2661, 0.3853, -0.7807, 0.7197, 0.3168, -2.1645,
      -2.1465, -2.6011, -0.528, 1.0981, 1.2288, -1.7536, -0.2892, 0.4494, 2.5714, 0.8513, -0.2292,
    ],
  ],
  [
    6,
    [
      0.32, -0.5731, 1.077, -2.1248, 1.8983, -0.275, 1.3606, 0.38, 0.9257, 0.2537, -1.2067, 0.4517, -1.8192, -0.5244,
      0.7241, -0.1476, 0.5705, -1.3157, 0.1671, -0.7627, 1.747, -1.0469, 2.3286, 0.5256,
    ],
  ],
  [
    7,
    [
      1.0596, 0.3074, -1.086, 1.5854, 0.7799, 0.4178, 0.4139, -0.4447, 0.0281, 0.2105, 0.7391, 0.0549, -1.7471, -1.0616,
      -1.2774, -0.3581, 1.4807, 1.8744, 0.1619, -0.6386, 0.6446, 1.8312, 2.7189, -1.4089,
    ],
  ],
  [
    8,
    [
      -0.4886, 0.1321, -0.9403, -1.0894, 0.3923, 3.4506, -0.1104, -0.7026, 0.2506, 0.9927, -0.9846, -1.7357, 1.1336,
      -1.6269, 0.0831, 1.7937, 1.984, 2.5629, -0.5103, -2.4432, 0.2369, 1.225, 2.9538, 0.5968,
    ],
  ],
  [
    9,
    [
      -0.1244, 1.4582, -2.0916, 2.5815, 1.4375, 0.9411, 1.007, 0.9824, -0.1841, 0.5787, 0.9463, 0.4154, -1.3975,
      -1.1241, 0.4194, -0.422, 1.4463, 0.9783, 0.7888, -2.0239, -0.8919, 0.6798, 3.3938, -1.526,
    ],
  ],
]);

/** The size of the steps between weights: what keeps values near 1 on their way through a matrix. */
const STEP = 1 / 32;
const BLOCK = 32;

export function goldenCheckpoint(): Checkpoint {
  const { hiddenSize, queryHeads, kvHeads, headDim, ffnSize, vocabSize } = GOLDEN_CONFIG;
  return memoryCheckpoint(GOLDEN_CONFIG, (name) => {
    const part = name.split(".").at(-2) ?? "";
    switch (part) {
      case "attn_norm":
      case "ffn_norm":
      case "output_norm":
        return gains(name, hiddenSize);
      case "attn_q":
        return matrix(name, queryHeads * headDim, hiddenSize);
      case "attn_k":
      case "attn_v":
        return matrix(name, kvHeads * headDim, hiddenSize);
      case "attn_output":
        return matrix(name, hiddenSize, queryHeads * headDim);
      case "ffn_gate":
      case "ffn_up":
        return matrix(name, ffnSize, hiddenSize);
      case "ffn_down":
        return matrix(name, hiddenSize, ffnSize);
      default:
        return matrix(name, vocabSize, hiddenSize);
    }
  });
}

function gains(name: TensorName, size: number): Float32Array {
  const next = wholeNumbers(name);
  return Float32Array.from({ length: size }, () => 1 + next() / 64);
}

/** `[outputs, inputs]`. */
function matrix(name: TensorName, outputs: number, inputs: number): Float32Array {
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
