/**
 * The engine's thread: loads the runtime, then steps for as long as there is work and sleeps when there is none. While
 * it is busy it takes its messages between steps with `receiveMessageOnPort`, so that no step waits for a turn of the
 * event loop. Knows nothing of HTTP or text.
 */
import { parentPort, receiveMessageOnPort, workerData } from "node:worker_threads";
import type { Runtime } from "../runtime/port/runtime.ts";
import { Engine, type SequenceUpdate } from "./engine.ts";
import {
  type FromWorker,
  NO_STEP,
  type StepTimes,
  type ToWorker,
  type WorkerOptions,
  packLogprobs,
  packReport,
} from "./messages.ts";
import type { SequenceRequest } from "./sequence.ts";

if (parentPort === null) throw new Error("engine/worker.ts runs as a worker thread only");
const port = parentPort;
const options = workerData as WorkerOptions;

const { createRuntime } = (await import(options.runtimeModule)) as {
  createRuntime: (options: unknown) => Promise<Runtime>;
};
const runtime = await createRuntime(options.runtime);
// However the thread ends, by order or by an error that nobody caught: native memory outlives it.
process.once("exit", () => runtime[Symbol.dispose]());
const engine = new Engine({ ...options, runtime, now: () => performance.now() });

// A back end that computes asynchronously lets messages in during a step: they wait here until it is over.
const inbox: ToWorker[] = [];
let awake = false;
/** Fires when nothing has been open for a while. */
let resting: NodeJS.Timeout | undefined;

port.on("message", (message: ToWorker) => {
  inbox.push(message);
  if (!awake) void work();
});
await engine.warmUp();
tell({
  type: "ready",
  limits: { ...runtime.limits, capacity: engine.longestRow },
  selfTest: runtime.selfTest,
});

/** Runs until nothing is open. A throw in here is a bug: the thread dies and the main thread hears of it. */
async function work(): Promise<void> {
  awake = true;
  clearTimeout(resting);
  for (takeMessages(); engine.busy; takeMessages()) {
    const { updates, failure, ...times } = await engine.step();
    if (failure !== undefined) tell({ type: "trouble", message: describe(failure) });
    publish(updates, times);
  }
  awake = false;
  resting = setTimeout(() => {
    engine.rest();
    publish([]);
  }, options.restAfterMs).unref();
}

function takeMessages(): void {
  for (const message of inbox.splice(0)) obey(message);
  for (;;) {
    const received = receiveMessageOnPort(port);
    if (received === undefined) return;
    obey(received.message as ToWorker);
  }
}

function obey(message: ToWorker): void {
  switch (message.type) {
    case "submit":
      return submit(message.request);
    case "cancel":
      engine.cancel(message.id);
      // A cancel may leave nothing to step, and the counts must still go down.
      return publish([]);
    case "stop":
      process.exit(0);
  }
}

/** A request that the engine refuses fails alone; the server should have refused it with better words. */
function submit(request: SequenceRequest): void {
  try {
    engine.submit(request);
  } catch (cause) {
    tell({ type: "trouble", message: describe(cause) });
    publish([{ id: request.id, token: -1, status: "failed", cachedTokens: 0 }]);
  }
}

function publish(updates: readonly SequenceUpdate[], times: StepTimes = NO_STEP): void {
  const waiting = engine.waiting.map(({ id }) => id);
  const running = engine.running.length + (engine.prefilling === undefined ? 0 : 1);
  const { serviceMs, counters } = engine;
  const state = { occupancy: { running, waiting: waiting.length }, serviceMs, counters, waiting };
  tell({ type: "step", report: packReport(state, updates, times), logprobs: packLogprobs(updates) });
}

function describe(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : "something that is no Error was thrown";
}

function tell(message: FromWorker): void {
  port.postMessage(message);
}
