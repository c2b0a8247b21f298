/** The settings of fetching and importing models. */
import { homedir } from "node:os";
import { join } from "node:path";
import { type KnobValues, namesKnob, readKnobs } from "../../shared/knobs.ts";
import { ORIGIN_KNOBS } from "../config.ts";
import { FETCH_KNOBS } from "./fetch/knobs.ts";

const IMPORT_KNOBS = {
  models: namesKnob({
    env: "COLDPATH_MODEL",
    help: "Model to serve, or several separated by commas: a preset, an imported model, the path of a .gguf file or of a safetensors checkpoint, or a name to fetch: owner/name[:file-or-quantization][@revision], ms:owner/name, a URL, s3://bucket/key.",
    fallback: ["smollm2-135m-instruct"],
  }),
  ...FETCH_KNOBS,
  /** The execution provider decides which weight format is the default. */
  provider: ORIGIN_KNOBS.provider,
} as const;

/** The settings, with the folder filled in. */
export type ImportConfig = Omit<KnobValues<typeof IMPORT_KNOBS>, "modelsDir"> & { readonly modelsDir: string };

/**
 * Reads the settings.
 *
 * @param env - `process.env`
 * @throws {KnobError} for an invalid value
 */
export function readImportConfig(env: Readonly<Record<string, string | undefined>>): ImportConfig {
  const knobs = readKnobs(IMPORT_KNOBS, env);
  const cache = env["XDG_CACHE_HOME"] || join(homedir(), ".cache");
  return Object.freeze({ ...knobs, modelsDir: knobs.modelsDir ?? join(cache, "coldpath", "models") });
}
