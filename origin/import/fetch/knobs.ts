/** The settings of fetching models. */
import { choiceKnob, integerKnob, type KnobValues, textKnob, urlKnob } from "../../../shared/knobs.ts";

export const FETCH_KNOBS = {
  modelsDir: textKnob({
    env: "COLDPATH_MODELS_DIR",
    help: "Folder of imported models and, in .store, of downloads; default $XDG_CACHE_HOME/coldpath/models or ~/.cache/coldpath/models. Several stacks may share it.",
    fallback: undefined,
  }),
  hubEndpoint: urlKnob({
    env: "COLDPATH_HUB_ENDPOINT",
    help: "Base URL of Hugging Face; set it to a mirror where huggingface.co is slow or blocked.",
    fallback: "https://huggingface.co",
  }),
  modelScopeEndpoint: urlKnob({
    env: "COLDPATH_MODELSCOPE_ENDPOINT",
    help: "Base URL of ModelScope, the second source of the presets.",
    fallback: "https://modelscope.cn",
  }),
  hubToken: textKnob({
    env: "COLDPATH_HUB_TOKEN",
    help: "Access token of Hugging Face, for private and gated models. A secret; sent only to the host of COLDPATH_HUB_ENDPOINT.",
    fallback: undefined,
  }),
  s3Endpoint: urlKnob({
    env: "COLDPATH_S3_ENDPOINT",
    help: "Base URL of the S3-compatible storage that s3:// names are read from; default Amazon's in AWS_REGION. Requests are signed with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN; without keys they are not signed.",
    fallback: undefined,
  }),
  s3Addressing: choiceKnob({
    env: "COLDPATH_S3_ADDRESSING",
    help: "Form of object URLs: path (endpoint/bucket/key) or host (bucket.endpoint/key), which Alibaba's and Tencent's storage require.",
    fallback: "path",
    choices: ["path", "host"],
  }),
  s3AccessKeyId: textKnob({
    env: "AWS_ACCESS_KEY_ID",
    help: "Id of the key that signs S3 requests.",
    fallback: undefined,
  }),
  s3SecretAccessKey: textKnob({
    env: "AWS_SECRET_ACCESS_KEY",
    help: "Key that signs S3 requests. A secret.",
    fallback: undefined,
  }),
  s3SessionToken: textKnob({
    env: "AWS_SESSION_TOKEN",
    help: "Session token of a temporary S3 key. A secret.",
    fallback: undefined,
  }),
  s3Region: textKnob({
    env: "AWS_REGION",
    help: "Region of the S3 storage, part of every signature.",
    fallback: "us-east-1",
  }),
  downloadConnections: integerKnob({
    env: "COLDPATH_DOWNLOAD_CONNECTIONS",
    help: "Segments of one file that are fetched in parallel. More help where a single connection is slow; some hubs refuse many.",
    fallback: 4,
    min: 1,
    max: 32,
  }),
  segmentBytes: integerKnob({
    env: "COLDPATH_DOWNLOAD_SEGMENT_BYTES",
    help: "Bytes of one segment, which is one request. Smaller segments balance the connections better but need more requests.",
    fallback: 16 * 1024 * 1024,
    min: 1024,
  }),
  retryWaitMs: integerKnob({
    env: "COLDPATH_DOWNLOAD_RETRY_MS",
    help: "Longest wait in milliseconds before a request to a busy source is repeated; a longer Retry-After is cut to it.",
    fallback: 30_000,
  }),
  connectTimeoutMs: integerKnob({
    env: "COLDPATH_DOWNLOAD_CONNECT_MS",
    help: "Milliseconds until a source must begin its response; then the next source is tried.",
    fallback: 10_000,
    min: 1,
  }),
  stallTimeoutMs: integerKnob({
    env: "COLDPATH_DOWNLOAD_STALL_MS",
    help: "Milliseconds without any data after which a download is resumed by a new request.",
    fallback: 20_000,
    min: 1,
  }),
  downloadAttempts: integerKnob({
    env: "COLDPATH_DOWNLOAD_ATTEMPTS",
    help: "Requests for one segment, each of which resumes the one before, until the source counts as failed.",
    fallback: 5,
    min: 1,
    max: 100,
  }),
  packageTimeoutMs: integerKnob({
    env: "COLDPATH_DOWNLOAD_PACKAGE_MS",
    help: "Milliseconds that one `pip download` may take; pip has its own timeouts for connections.",
    fallback: 900_000,
    min: 1,
  }),
  lockWaitMs: integerKnob({
    env: "COLDPATH_IMPORT_WAIT_MS",
    help: "Milliseconds to wait for another process that is downloading or importing the same model.",
    fallback: 900_000,
  }),
} as const;

/** The settings, with the folder filled in. */
export type FetchConfig = Omit<KnobValues<typeof FETCH_KNOBS>, "modelsDir"> & { readonly modelsDir: string };
