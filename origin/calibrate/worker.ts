/** The calibration's thread: loads the default and one challenger after the other, and times them in turns. */
import { parentPort, workerData } from "node:worker_threads";
import type { Runtime } from "../runtime/port/runtime.ts";
import type { CalibrationJob, ComputeSettings, Trial } from "./calibrate.ts";
import { compareSteps } from "./measure.ts";

if (parentPort === null) throw new Error("calibrate/worker.ts runs as a worker thread only");
const port = parentPort;
const { runtimeModule, runtime, incumbent, challengers } = workerData as CalibrationJob;
const { createRuntime } = (await import(runtimeModule)) as {
  createRuntime: (options: object) => Promise<Runtime>;
};
const load = (settings: ComputeSettings) => createRuntime({ ...runtime, ...settings });

using reference = await load(incumbent);
const trials: Trial[] = [];
for (const settings of challengers) {
  using challenger = await load(settings);
  trials.push({ ...settings, ratio: await compareSteps(reference, challenger, () => performance.now()) });
}
port.postMessage(trials);
