/** A runtime that is the slower the more threads it has: what a calibration has to find out. */
import { FakeRuntime } from "../../fakes/fake-runtime.ts";
import type { Runtime, StepBatch } from "../../../origin/runtime/port/runtime.ts";

const MILLISECONDS_PER_THREAD = 1;

interface Options {
  readonly slots: number;
  readonly capacity: number;
  readonly threads: number;
  readonly spinning: boolean;
}

export async function createRuntime({ slots, capacity, threads, spinning }: Options): Promise<Runtime> {
  const runtime = new FakeRuntime({ slots, capacity, vocabSize: 32 });
  const step = runtime.step.bind(runtime);
  const stepMs = (threads + (spinning ? 0 : 1)) * MILLISECONDS_PER_THREAD;
  runtime.step = (batch: StepBatch) => {
    const end = performance.now() + stepMs;
    while (performance.now() < end);
    return step(batch);
  };
  return runtime;
}
