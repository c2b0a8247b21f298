/**
 * The origin's settings. Where the model comes from is `import/config.ts`; here is how it is run and served.
 */
import { type KnobValues, choiceKnob, integerKnob, secretKnob, textKnob } from "../shared/knobs.ts";
import { EXECUTION_PROVIDERS } from "./runtime/capi/provider.ts";

export const ORIGIN_KNOBS = {
  host: textKnob({
    env: "COLDPATH_ORIGIN_HOST",
    help: "Address to listen on. Requests are signed but not encrypted: anything but loopback wants a private network.",
    fallback: "127.0.0.1",
  }),
  port: integerKnob({
    env: "COLDPATH_ORIGIN_PORT",
    help: "TCP port to listen on; 0 takes any free one, which the first log line names.",
    fallback: 8900,
    max: 65_535,
  }),
  secret: secretKnob({
    env: "COLDPATH_ORIGIN_SECRET",
    help: "The key that edges sign their requests with, 32 bytes or more. Required; the same on every edge and origin.",
  }),
  secretPrevious: secretKnob({
    env: "COLDPATH_ORIGIN_SECRET_PREVIOUS",
    help: "Also accepted. To change the key: origins first, with both; then the edges; then take this away.",
  }),
  runtime: choiceKnob({
    env: "COLDPATH_RUNTIME",
    help: "How ONNX Runtime is called: `capi` through its C interface, `binding` through the stock module, which is slower.",
    choices: ["capi", "binding"],
    fallback: "capi",
  }),
  provider: choiceKnob({
    env: "COLDPATH_EXECUTION_PROVIDER",
    help: "What computes: `cpu`, an NVIDIA GPU by `cuda`, or another GPU by `webgpu`, which takes COLDPATH_SLOTS=1.",
    choices: EXECUTION_PROVIDERS,
    fallback: "cpu",
  }),
  threads: integerKnob({
    env: "COLDPATH_THREADS",
    help: "Threads that compute a step; 0 measures at a model's first start, and remembers. More than cores is slower.",
    fallback: 0,
    max: 512,
  }),
  slots: integerKnob({
    env: "COLDPATH_SLOTS",
    help: "Rows of a model's KV cache at most, so streams generated at once. There are as many as are needed and fit COLDPATH_KV_BYTES.",
    fallback: 16,
    min: 1,
    max: 1024,
  }),
  context: integerKnob({
    env: "COLDPATH_CONTEXT",
    help: "Tokens of prompt and answer together; 0 takes all the model was trained for. KV memory grows with it.",
    fallback: 2048,
  }),
  kvBytes: integerKnob({
    env: "COLDPATH_KV_BYTES",
    help: "Bytes of all models' KV caches. A request waits while the rows it runs with need more. 0: all rows and a whole context each, half of memory at most.",
    fallback: 0,
  }),
  memoryBytes: integerKnob({
    env: "COLDPATH_MEMORY_BYTES",
    help: "Bytes of memory that the models may take; a start that needs more is refused. 0: what the machine, or the container's limit, has left.",
    fallback: 0,
  }),
  kvIdleMs: integerKnob({
    env: "COLDPATH_KV_IDLE_MS",
    help: "Milliseconds without a request after which the KV cache's memory is given back; the prefix cache stays.",
    fallback: 30_000,
    max: 2_147_483_647,
  }),
  prefixCacheBytes: integerKnob({
    env: "COLDPATH_PREFIX_CACHE_BYTES",
    help: "Bytes of prompts' keys and values that all models keep beside the KV caches, so as not to compute them again; 0 turns the prefix cache off.",
    fallback: 268_435_456,
  }),
  prefillChunkTokens: integerKnob({
    env: "COLDPATH_PREFILL_CHUNK_TOKENS",
    help: "Prompt tokens computed in one step, at most: what an idle engine takes. A cancelled prompt ends after the step.",
    fallback: 128,
    min: 2,
    max: 8192,
  }),
  interTokenMs: integerKnob({
    env: "COLDPATH_INTER_TOKEN_MS",
    help: "Milliseconds between two tokens of a stream that prompts beside it must keep, by being computed in smaller pieces.",
    fallback: 50,
    min: 1,
  }),
  speculationTokens: integerKnob({
    env: "COLDPATH_SPECULATION_TOKENS",
    help: "Tokens guessed from a row's prompt and answer and checked in the same step, where that pays; 0 guesses none.",
    fallback: 3,
    max: 3,
  }),
  queueMax: integerKnob({
    env: "COLDPATH_QUEUE_MAX",
    help: "Requests that may wait for a row; one more is refused with 429.",
    fallback: 64,
  }),
  queueWaitMs: integerKnob({
    env: "COLDPATH_QUEUE_WAIT_MS",
    help: "Milliseconds a request may wait for a row before it is refused with 429.",
    fallback: 30_000,
    min: 1,
  }),
  choicesMax: integerKnob({
    env: "COLDPATH_CHOICES_MAX",
    help: "Answers (`n`) that one request may ask for; each takes a row, and a place in the queue until it has one.",
    fallback: 8,
    min: 1,
    max: 128,
  }),
  followersMax: integerKnob({
    env: "COLDPATH_FOLLOWERS_MAX",
    help: "Requests that may share an answer under way for another; one more is refused with 429.",
    fallback: 1_000,
  }),
  stallMs: integerKnob({
    env: "COLDPATH_ORIGIN_STALL_MS",
    help: "An edge that takes nothing of its stream for this long, in milliseconds, counts as gone.",
    fallback: 30_000,
    min: 1,
  }),
  ageingMs: integerKnob({
    env: "COLDPATH_AGEING_MS",
    help: "Milliseconds a priority class is served as if it had come later than the class above it; so long later ones may overtake it.",
    fallback: 10_000,
  }),
  tokenizeMs: integerKnob({
    env: "COLDPATH_TOKENIZE_MS",
    help: "Milliseconds a long prompt may take to tokenize, and to wait for others before it; then it is refused with 400 or 429.",
    fallback: 15_000,
    min: 1,
    max: 2_147_483_647,
  }),
  schemaBytesMax: integerKnob({
    env: "COLDPATH_SCHEMA_BYTES_MAX",
    help: "Bytes of a JSON Schema in `response_format` or `tools`; a longer one is refused with 400.",
    fallback: 65_536,
    min: 1,
  }),
  grammarThreads: integerKnob({
    env: "COLDPATH_GRAMMAR_THREADS",
    help: "Threads that keep answers to a schema, started when first needed; a new schema compiles on one without running rows.",
    fallback: 4,
    min: 1,
    max: 64,
  }),
  grammarCompileMs: integerKnob({
    env: "COLDPATH_GRAMMAR_COMPILE_MS",
    help: "Milliseconds a schema may take to compile, and to wait for a thread to do so; then it is refused with 400 or 429.",
    fallback: 5000,
    min: 1,
  }),
  grammarBytesMax: integerKnob({
    env: "COLDPATH_GRAMMAR_BYTES_MAX",
    help: "Bytes of memory of one grammar thread; a schema that needs more is refused with 400.",
    fallback: 268_435_456,
    min: 33_554_432,
  }),
  grammarWaitMs: integerKnob({
    env: "COLDPATH_GRAMMAR_WAIT_MS",
    help: "Milliseconds a step waits for one row's grammar, with every other row; then that row's answer ends with an error.",
    fallback: 500,
    min: 1,
  }),
  embedTextsMax: integerKnob({
    env: "COLDPATH_EMBED_TEXTS_MAX",
    help: "Texts that an encoder may have before it at once, of all requests together; more are refused with 429.",
    fallback: 4096,
    min: 1,
  }),
  embedBatchTokens: integerKnob({
    env: "COLDPATH_EMBED_BATCH_TOKENS",
    help: "Tokens that an encoder computes in one run, at most: more make a text wait longer for a run under way.",
    fallback: 1024,
    min: 1,
    max: 1_048_576,
  }),
  bodyBytesMax: integerKnob({
    env: "COLDPATH_ORIGIN_BODY_BYTES_MAX",
    help: "Bytes of a request's body; a longer one is refused with 413 before it is read to its end.",
    fallback: 1_048_576,
    min: 1,
  }),
  replayIdsMax: integerKnob({
    env: "COLDPATH_ORIGIN_REPLAY_IDS_MAX",
    help: "Signatures remembered for two minutes against replay; when they are used up, requests are refused with 429.",
    fallback: 200_000,
    min: 1,
  }),
  stepTimeoutMs: integerKnob({
    env: "COLDPATH_STEP_TIMEOUT_MS",
    help: "Milliseconds without any step of the engine ending, with requests open, after which its thread counts as dead.",
    fallback: 60_000,
    min: 1,
  }),
  crashesMax: integerKnob({
    env: "COLDPATH_ENGINE_CRASHES_MAX",
    help: "Crashes of the engine's thread within ten minutes that are borne by starting it anew; one more ends the process.",
    fallback: 5,
  }),
  drainMs: integerKnob({
    env: "COLDPATH_ORIGIN_DRAIN_MS",
    help: "Milliseconds that running answers get to finish after SIGTERM; then they are cut with an error event.",
    fallback: 30_000,
  }),
} as const;

export type OriginConfig = KnobValues<typeof ORIGIN_KNOBS>;
