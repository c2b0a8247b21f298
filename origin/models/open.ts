/**
 * Opens an imported model: reads its folder, loads its tokenizer and starts its engine. Imports nothing; a model that
 * is not there is somebody else's to fetch (`npm run model -- import`).
 */
import type { Calibration } from "../calibrate/calibrate.ts";
import { findComputeSettings } from "../calibrate/compute-settings.ts";
import type { OriginConfig } from "../config.ts";
import { type EngineClientOptions, startEngine } from "../engine/client.ts";
import type { ServedEncoder } from "../request/answer-embeddings.ts";
import { Embedder } from "../embed/embedder.ts";
import { type EngineSupervisor, type SupervisorOptions, superviseEngine } from "../engine/supervisor.ts";
import { GrammarService } from "../grammar/service.ts";
import { readGenerationDefaults } from "../manifest/generation-defaults.ts";
import { modelDigest, readManifest } from "../manifest/manifest.ts";
import type { DecoderPlan } from "./memory/plan.ts";
import type { ServedModel } from "../request/prepare.ts";
import { PromptEncoder } from "../prompts/encoder.ts";
import { createStopSwitch } from "../runtime/capi/stop-switch.ts";
import { loadTokenizer } from "../tokenize/tokenizer.ts";

export interface ServeModelOptions
  extends
    Pick<EngineClientOptions, "onTrouble" | "onStep">,
    Pick<SupervisorOptions, "onCrash" | "onRestart" | "onGiveUp"> {
  readonly config: OriginConfig;
  /** An imported model's folder. */
  readonly folder: string;
  /** How much of the machine's memory it may take. */
  readonly memory: Pick<DecoderPlan, "kvBytes" | "prefixCacheBytes">;
  /** Whether another model is served beside it, on the same cores; default false. */
  readonly shared?: boolean;
  /** Told how the model is going to be computed, and why, unless the operator said it. */
  readonly onCalibrated?: (calibration: Calibration) => void;
}

const RUNTIME_MODULE = new URL("../runtime/create-runtime.ts", import.meta.url).href;

/** A step in progress is waited for this long at the end; a chunk of a prompt takes well under a second. */
const STOP_MS = 5_000;

/** Crashes further apart than this have nothing to do with each other. */
const CRASH_WINDOW_MS = 600_000;

/** Long enough for whatever killed the thread to pass, short enough for a queue of clients to wait. */
const RESTART_PAUSE_MS = 500;

/** @throws an Error whose message is for the operator: a damaged folder, a context the model does not have */
export async function serveModel({
  config,
  folder,
  memory: { kvBytes, prefixCacheBytes },
  shared = false,
  onTrouble,
  onStep,
  onCalibrated,
  ...hooks
}: ServeModelOptions): Promise<{
  readonly model: ServedModel;
  readonly engine: EngineSupervisor;
  readonly grammars: GrammarService;
  readonly prompts: PromptEncoder;
}> {
  const manifest = readManifest(folder);
  const trained = manifest.architecture.contextLength;
  const capacity = config.context === 0 ? trained : Math.min(config.context, trained);
  const tokenizer = loadTokenizer(folder, manifest.tokens);
  if (manifest.chat && !tokenizer.canChat)
    throw new Error(`${folder} has lost its chat template; import the model again`);

  const generation = readGenerationDefaults(folder);
  const { runtime: backend, provider, slots } = config;
  const settings = await findComputeSettings({
    config,
    folder,
    manifest,
    runtimeModule: RUNTIME_MODULE,
    ...(onCalibrated && { onCalibrated }),
  });
  const start = (onCrash: (cause: Error) => void) => {
    const stopSwitch = backend === "capi" ? createStopSwitch() : undefined;
    return startEngine({
      runtimeModule: new URL("../runtime/self-test/checked-runtime.ts", import.meta.url).href,
      runtime: { backend, provider, folder, slots, capacity, shared, stopSwitch: stopSwitch?.handle, ...settings },
      stopSwitch,
      endTokens: manifest.tokens.ends,
      prefillChunkTokens: config.prefillChunkTokens,
      interTokenMs: config.interTokenMs,
      speculationTokens: config.speculationTokens,
      queueWaitMs: config.queueWaitMs,
      maskWaitMs: config.grammarWaitMs,
      ageingMs: config.ageingMs,
      kvBytes,
      prefixCacheBytes,
      restAfterMs: config.kvIdleMs,
      stopMs: STOP_MS,
      silenceMs: config.stepTimeoutMs,
      onTrouble,
      onCrash,
      ...(onStep && { onStep }),
    });
  };
  const engine = await superviseEngine({
    start,
    crashesMax: config.crashesMax,
    crashWindowMs: CRASH_WINDOW_MS,
    pauseMs: RESTART_PAUSE_MS,
    now: () => performance.now(),
    ...hooks,
  });
  const model: ServedModel = {
    id: manifest.name,
    digest: modelDigest(manifest),
    created: Math.floor(Date.parse(manifest.created) / 1000),
    contextLength: engine.limits.capacity,
    vocabSize: engine.limits.vocabSize,
    tokenizer,
    generation,
  };
  const grammars = new GrammarService({
    vocabulary: tokenizer.listVocabulary(),
    vocabSize: model.vocabSize,
    endTokens: manifest.tokens.ends,
    threadsMax: config.grammarThreads,
    compileMs: config.grammarCompileMs,
    bytesMax: config.grammarBytesMax,
  });
  const prompts = new PromptEncoder({
    tokenizer,
    files: { folder, tokens: manifest.tokens },
    queueMax: config.slots + config.queueMax,
    encodeMs: config.tokenizeMs,
  });
  // Not beside the engine's start, which measures the machine.
  prompts.start();
  return { model, engine, grammars, prompts };
}

/** Opens an imported encoder. It is computed on the CPU, whatever computes decoders. */
export async function serveEncoder({
  config,
  folder,
  shared = false,
  ...hooks
}: Pick<ServeModelOptions, "config" | "folder" | "shared" | "onCrash" | "onRestart" | "onGiveUp">): Promise<{
  readonly model: ServedEncoder;
  readonly embedder: Embedder;
}> {
  const manifest = readManifest(folder);
  const { embedding, architecture } = manifest;
  if (embedding === undefined) throw new Error(`${folder} is no encoder`);
  const { hiddenSize, contextLength, vocabSize } = architecture;
  const embedder = await Embedder.start({
    thread: {
      folder,
      pooling: embedding.pooling,
      hiddenSize,
      contextLength,
      vocabSize,
      threads: config.threads,
      shared,
      batchTokensMax: config.embedBatchTokens,
    },
    textsMax: config.embedTextsMax,
    crashesMax: config.crashesMax,
    crashWindowMs: CRASH_WINDOW_MS,
    pauseMs: RESTART_PAUSE_MS,
    now: () => performance.now(),
    ...hooks,
  });
  const created = Math.floor(Date.parse(manifest.created) / 1000);
  const digest = modelDigest(manifest);
  return { model: { id: manifest.name, digest, created, contextLength, hiddenSize, embedding }, embedder };
}
