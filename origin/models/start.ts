/**
 * Starts one model of the list with everything that is its own: engine, queue, answers under way, figures, words in the
 * log. Knows no other model.
 */
import { Admission } from "../request/admit.ts";
import { Coalescer } from "../request/coalesce.ts";
import type { OriginConfig } from "../config.ts";
import type { SupervisorOptions } from "../engine/supervisor.ts";
import type { Log } from "../request/exchange.ts";
import type { DecoderPlan, ModelPlan } from "./memory/plan.ts";
import type { ModelMetrics } from "../operate/metrics.ts";
import { describeSelfTest } from "../runtime/self-test/report.ts";
import { serveEncoder, serveModel } from "./open.ts";
import type { DecoderService, EncoderService, ModelService } from "./registry.ts";

export interface StartModelOptions {
  readonly config: OriginConfig;
  readonly folder: string;
  readonly plan: ModelPlan;
  /** Whether others are served beside it. */
  readonly shared: boolean;
  readonly metrics: ModelMetrics;
  readonly log: Log;
  /** Its engine died too often, and is not started again. */
  readonly onGiveUp: (model: string) => void;
}

/** @throws an Error whose message is for the operator */
export function startModel(options: StartModelOptions): Promise<ModelService> {
  const { plan } = options;
  return plan.task === "embed" ? startEncoder(options) : startDecoder(options, plan);
}

async function startEncoder(options: StartModelOptions): Promise<EncoderService> {
  const { config, folder, plan, shared, metrics, log } = options;
  const { model, embedder } = await serveEncoder({ config, folder, shared, ...watch(options) });
  log({ level: "info", event: "ready", model: plan.name, contextTokens: model.contextLength });
  const admission = new Admission({ ...places(config), waitMs: () => undefined });
  return { task: "embed", model, engine: embedder, admission, metrics };
}

async function startDecoder(options: StartModelOptions, memory: DecoderPlan): Promise<DecoderService> {
  const { config, folder, shared, metrics, log } = options;
  const { name } = memory;
  const { model, engine, grammars, prompts } = await serveModel({
    config,
    folder,
    memory,
    shared,
    onStep: ({ stepMs, queuedMs }) => {
      if (stepMs !== undefined) metrics.stepTime.observe(stepMs / 1000);
      for (const waitedMs of queuedMs) metrics.queueTime.observe(waitedMs / 1000);
    },
    onTrouble: (message) => log({ level: "error", event: "run failed", model: name, message }),
    onCalibrated: (calibration) => log({ level: "info", event: "calibrated", model: name, ...calibration }),
    ...watch(options),
  });
  const selfTest = engine.selfTest && describeSelfTest(engine.selfTest);
  log({ level: "info", event: "ready", model: name, contextTokens: model.contextLength, selfTest });
  const admission = new Admission({ ...places(config), waitMs: () => engine.waitMs });
  const coalescer = new Coalescer({ onConflict: () => metrics.coalesceConflicts.inc() });
  return { task: "generate", model, engine, grammars, prompts, admission, coalescer, metrics };
}

function places({ slots, queueMax, followersMax }: OriginConfig) {
  return { openMax: slots + queueMax, followersMax };
}

function watch({
  plan: { name },
  metrics,
  log,
  onGiveUp,
}: StartModelOptions): Pick<SupervisorOptions, "onCrash" | "onRestart" | "onGiveUp"> {
  return {
    onCrash: (cause) => {
      metrics.engineCrashes.inc();
      log({ level: "error", event: "engine died", model: name, cause: cause.stack });
    },
    onRestart: () => log({ level: "info", event: "engine restarted", model: name }),
    onGiveUp: () => onGiveUp(name),
  };
}
