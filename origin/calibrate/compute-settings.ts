/** How the origin computes its model: as the operator says, or as was measured for this machine and model. */
import { createRequire } from "node:module";
import { availableParallelism, cpus, loadavg } from "node:os";
import { dirname, join } from "node:path";
import type { OriginConfig } from "../config.ts";
import { type Manifest, modelDigest, WEIGHTS_FILE } from "../manifest/manifest.ts";
import { CALIBRATION_CAPACITY, CALIBRATION_SLOTS } from "./measure.ts";
import { calibrate, type Calibration, type ComputeSettings } from "./calibrate.ts";

/** Beside the models, hidden from their list. */
const CALIBRATION_FILE = ".calibration.json";

export interface ComputeSettingsOptions {
  readonly config: Pick<OriginConfig, "runtime" | "provider" | "threads">;
  readonly folder: string;
  readonly manifest: Manifest;
  /** The module of `createRuntime`, as a URL. */
  readonly runtimeModule: string;
  readonly onCalibrated?: (calibration: Calibration) => void;
}

/** Measures at most once for a machine, an ONNX Runtime and a model; later starts read a small file. */
export async function findComputeSettings(options: ComputeSettingsOptions): Promise<ComputeSettings> {
  const { config, folder, manifest, runtimeModule, onCalibrated } = options;
  const cores = availableParallelism();
  if (config.threads > 0) return { threads: config.threads, spinning: true };
  // A GPU's work does not wait for these threads.
  if (config.provider !== "cpu") return { threads: cores, spinning: true };
  const calibration = await calibrate({
    file: join(dirname(folder), CALIBRATION_FILE),
    key: {
      cpu: cpus()[0]?.model ?? "",
      cores,
      onnxRuntime: `${onnxRuntimeVersion()} ${config.runtime}`,
      model: modelDigest(manifest),
    },
    modelBytes: manifest.files[WEIGHTS_FILE]?.bytes ?? 0,
    memoryBytes: process.availableMemory(),
    load: loadavg()[0] ?? 0,
    runtime: {
      backend: config.runtime,
      folder,
      slots: CALIBRATION_SLOTS,
      capacity: Math.min(CALIBRATION_CAPACITY, manifest.architecture.contextLength),
    },
    runtimeModule,
  });
  onCalibrated?.(calibration);
  return calibration.settings;
}

function onnxRuntimeVersion(): string {
  const { version } = createRequire(import.meta.url)("onnxruntime-node/package.json") as { version: string };
  return version;
}
