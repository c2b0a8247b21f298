/** The settings of fetching and importing models. */
import { homedir } from "node:os";
import { join } from "node:path";
import {
  choiceKnob,
  integerKnob,
  type KnobValues,
  namesKnob,
  readKnobs,
  textKnob,
  urlKnob,
} from "../../shared/knobs.ts";
import { ORIGIN_KNOBS } from "../config.ts";

const IMPORT_KNOBS = {
  /** What is going to compute the model decides how its weights are best stored. */
  provider: ORIGIN_KNOBS.provider,
  models: namesKnob({
    env: "COLDPATH_MODEL",
    help: "The model to serve, or several by commas: a preset, imported model, the path of a .gguf file or of a safetensors checkpoint, or what to fetch: owner/name[:file-or-quantization][@revision], ms:owner/name, a URL, s3://bucket/key.",
    fallback: ["smollm2-135m-instruct"],
  }),
  modelsDir: textKnob({
    env: "COLDPATH_MODELS_DIR",
    help: "The folder of downloads (in .store) and imported models; default $XDG_CACHE_HOME/coldpath/models or ~/.cache/coldpath/models. Two stacks may share it.",
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
  hubToken: textKnob({
    env: "COLDPATH_HUB_TOKEN",
    help: "Hugging Face's access token, for private and gated models. A secret: it is sent to COLDPATH_HUB_ENDPOINT's host and to no other.",
    fallback: undefined,
  }),
  s3Endpoint: urlKnob({
    env: "COLDPATH_S3_ENDPOINT",
    help: "Where s3:// names are fetched from, any S3-compatible storage; default Amazon's of AWS_REGION. The keys are AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN; without them requests are not signed.",
    fallback: undefined,
  }),
  s3Addressing: choiceKnob({
    env: "COLDPATH_S3_ADDRESSING",
    help: "How a bucket is addressed: path (endpoint/bucket/key) or host (bucket.endpoint/key), which Alibaba's and Tencent's storage ask for.",
    fallback: "path",
    choices: ["path", "host"],
  }),
  s3AccessKeyId: textKnob({
    env: "AWS_ACCESS_KEY_ID",
    help: "Names the key that signs requests.",
    fallback: undefined,
  }),
  s3SecretAccessKey: textKnob({
    env: "AWS_SECRET_ACCESS_KEY",
    help: "The key that signs requests. A secret.",
    fallback: undefined,
  }),
  s3SessionToken: textKnob({
    env: "AWS_SESSION_TOKEN",
    help: "Goes with a temporary key. A secret.",
    fallback: undefined,
  }),
  s3Region: textKnob({ env: "AWS_REGION", help: "The region that signatures name.", fallback: "us-east-1" }),
  downloadConnections: integerKnob({
    env: "COLDPATH_DOWNLOAD_CONNECTIONS",
    help: "Segments of one file that are fetched at the same time. More helps where a single connection is slow; some hubs refuse many.",
    fallback: 4,
    min: 1,
    max: 32,
  }),
  segmentBytes: integerKnob({
    env: "COLDPATH_DOWNLOAD_SEGMENT_BYTES",
    help: "Bytes of one segment, a request each. Smaller ones share the work better and ask more often.",
    fallback: 16 * 1024 * 1024,
    min: 1024,
  }),
  retryWaitMs: integerKnob({
    env: "COLDPATH_DOWNLOAD_RETRY_MS",
    help: "Milliseconds to wait at most before asking a busy source again, whatever its Retry-After says.",
    fallback: 30_000,
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
    help: "Requests made for one segment, each resuming the last, before its source is given up.",
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
