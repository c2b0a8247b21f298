/** The settings of fetching and importing models. */
import { homedir } from "node:os";
import { join } from "node:path";
import { integerKnob, type KnobValues, readKnobs, textKnob, urlKnob } from "../../shared/knobs.ts";

const IMPORT_KNOBS = {
  model: textKnob({
    env: "COLDPATH_MODEL",
    help: "The model to serve: a preset's name, the name of an imported model, or the path of a .gguf file.",
    fallback: "smollm2-135m-instruct",
  }),
  modelsDir: textKnob({
    env: "COLDPATH_MODELS_DIR",
    help: "The folder of downloads and imported models; default $XDG_CACHE_HOME/coldpath/models or ~/.cache/coldpath/models. Two stacks may share it.",
    fallback: undefined,
  }),
  hubEndpoint: urlKnob({
    env: "COLDPATH_HUB_ENDPOINT",
    help: "Where Hugging Face's files are fetched from: set it to a mirror where the original is slow or not allowed.",
    fallback: "https://huggingface.co",
  }),
  modelScopeEndpoint: urlKnob({
    env: "COLDPATH_MODELSCOPE_ENDPOINT",
    help: "Where ModelScope's files are fetched from, the second source.",
    fallback: "https://modelscope.cn",
  }),
  connectTimeoutMs: integerKnob({
    env: "COLDPATH_DOWNLOAD_CONNECT_MS",
    help: "Milliseconds a source has to begin its answer before the next one is tried.",
    fallback: 10_000,
    min: 1,
  }),
  stallTimeoutMs: integerKnob({
    env: "COLDPATH_DOWNLOAD_STALL_MS",
    help: "Milliseconds a download may stand still before it is resumed by a new request.",
    fallback: 20_000,
    min: 1,
  }),
  downloadAttempts: integerKnob({
    env: "COLDPATH_DOWNLOAD_ATTEMPTS",
    help: "Requests made to one source, each resuming the last, before the next source is tried.",
    fallback: 5,
    min: 1,
    max: 100,
  }),
  packageTimeoutMs: integerKnob({
    env: "COLDPATH_DOWNLOAD_PACKAGE_MS",
    help: "Milliseconds `pip download` may take in all; it has its own timeouts for connections.",
    fallback: 900_000,
    min: 1,
  }),
  lockWaitMs: integerKnob({
    env: "COLDPATH_IMPORT_WAIT_MS",
    help: "Milliseconds to wait for another process that downloads or imports the same model.",
    fallback: 900_000,
  }),
} as const;

/** `modelsDir` is filled in. */
export type ImportConfig = Omit<KnobValues<typeof IMPORT_KNOBS>, "modelsDir"> & { readonly modelsDir: string };

/**
 * Reads the settings.
 *
 * @param env - `process.env`
 * @throws {KnobError} at a value that can't be used
 */
export function readImportConfig(env: Readonly<Record<string, string | undefined>>): ImportConfig {
  const knobs = readKnobs(IMPORT_KNOBS, env);
  const cache = env["XDG_CACHE_HOME"] || join(homedir(), ".cache");
  return Object.freeze({ ...knobs, modelsDir: knobs.modelsDir ?? join(cache, "coldpath", "models") });
}
