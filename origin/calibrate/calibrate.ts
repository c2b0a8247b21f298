/**
 * How a model is best computed on this machine: measured once, at the model's first start, and remembered beside the
 * models. Cores that share their units, cores of two sizes and a hypervisor's all count as cores, and which number of
 * threads is best then is not to be read from anywhere. Knows what is tried; `measure.ts` knows how.
 */
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import { recall, remember } from "./remember.ts";

/** How a step is computed. */
export interface ComputeSettings {
  readonly threads: number;
  /** Whether threads wait for their next piece of a step without sleeping. */
  readonly spinning: boolean;
}

/** What was tried against the default. */
export interface Trial extends ComputeSettings {
  /** Time of its steps over that of the default's. */
  readonly ratio: number;
}

export interface Calibration {
  readonly settings: ComputeSettings;
  /**
   * `measured` just now, `remembered` from earlier starts, `unconfirmed` where something else than the default was
   * fastest for the first time, or why the default was taken unmeasured.
   */
  readonly because:
    | "measured"
    | "remembered"
    | "unconfirmed"
    | "model-too-large"
    | "machine-busy"
    | "nothing-to-try"
    | "measuring-failed";
  readonly trials: readonly Trial[];
}

export interface CalibrateOptions {
  /** Where answers are remembered: one small JSON file. */
  readonly file: string;
  /** Everything that an answer depends on. */
  readonly key: { readonly cpu: string; readonly cores: number; readonly onnxRuntime: string; readonly model: string };
  /** Bytes of the model's weights. */
  readonly modelBytes: number;
  /** Bytes of memory that can be had. */
  readonly memoryBytes: number;
  /** How many threads wanted a core lately: the load average of the last minute. */
  readonly load: number;
  readonly runtime: CalibrationJob["runtime"];
  /** The module of `createRuntime`, as a URL. */
  readonly runtimeModule: string;
}

/** What the measuring thread is given. */
export interface CalibrationJob {
  readonly runtimeModule: string;
  /** Options of the runtime besides its settings. */
  readonly runtime: object;
  readonly incumbent: ComputeSettings;
  readonly challengers: readonly ComputeSettings[];
}

/** Two copies of a larger model take too long to load and measure while somebody waits for the first start. */
const MODEL_BYTES_MAX = 2 ** 29;
/**
 * On a busy machine threads that spin lose to threads that sleep, and few to fewer: true at that moment, and wrong to
 * remember. Measured with ten processes for two cores: sleeping threads took 0.34 to 0.48 of the time; alone 1.5.
 */
const LOAD_PER_CORE_MAX = 0.5;
/** An idle machine needs half of it for the largest model; a busy one must not keep its clients waiting. */
const MEASURE_MS_MAX = 6_000;
/** Two loaded copies, each the file and its packed form. */
const COPIES = 4;
/** The default is left only for something clearly better: repeated measurements differ by some percent. */
const CLEARLY_FASTER = 0.92;

/**
 * Finds the settings. The default is left only for what was clearly faster at two starts: a burst of other work during
 * one measurement made one thread on two cores look twice as fast. Never throws for a machine's sake: what can't be
 * measured or remembered is the default.
 */
export async function calibrate(options: CalibrateOptions): Promise<Calibration> {
  const { file, key, modelBytes, memoryBytes, load, runtime, runtimeModule } = options;
  const incumbent: ComputeSettings = { threads: key.cores, spinning: true };
  const challengers = challengersOf(key.cores);
  if (challengers.length === 0) return { settings: incumbent, because: "nothing-to-try", trials: [] };
  const name = [key.cpu, key.cores, key.onnxRuntime, key.model].join(" | ");
  const known = recall(file)[name];
  if (known?.confirmed === true) {
    const { threads, spinning } = known;
    return { settings: { threads, spinning }, because: "remembered", trials: [] };
  }
  if (modelBytes > MODEL_BYTES_MAX || modelBytes * COPIES > memoryBytes) {
    return { settings: incumbent, because: "model-too-large", trials: [] };
  }
  if (load > key.cores * LOAD_PER_CORE_MAX) return { settings: incumbent, because: "machine-busy", trials: [] };
  let trials: readonly Trial[] | undefined;
  try {
    trials = await measure({ runtimeModule, runtime, incumbent, challengers });
  } catch {
    // The engine will say what is wrong with the model, and in better words.
    return { settings: incumbent, because: "measuring-failed", trials: [] };
  }
  if (trials === undefined) return { settings: incumbent, because: "machine-busy", trials: [] };
  const settings = chooseSettings(incumbent, trials);
  const confirmed = isSame(settings, incumbent) || (known !== undefined && isSame(settings, known));
  remember(file, name, { ...settings, confirmed });
  if (!confirmed) return { settings: incumbent, because: "unconfirmed", trials };
  return { settings, because: "measured", trials };
}

function isSame(a: ComputeSettings, b: ComputeSettings): boolean {
  return a.threads === b.threads && a.spinning === b.spinning;
}

/** Half of the cores, where two share one's units; one less, where JavaScript wants its own; sleeping threads. */
export function challengersOf(cores: number): readonly ComputeSettings[] {
  const fewer = [...new Set([Math.ceil(cores / 2), cores - 1])].filter((threads) => threads >= 1 && threads < cores);
  const challengers = fewer.map((threads) => ({ threads, spinning: true }));
  return cores === 1 ? [] : [...challengers, { threads: cores, spinning: false }];
}

/** The fastest, if it is clearly faster than the default. A ratio that is no number is not. */
export function chooseSettings(incumbent: ComputeSettings, trials: readonly Trial[]): ComputeSettings {
  const [best] = trials.filter(({ ratio }) => ratio < CLEARLY_FASTER).toSorted((a, b) => a.ratio - b.ratio);
  return best === undefined ? incumbent : { threads: best.threads, spinning: best.spinning };
}

/**
 * Loading and stepping block their thread, and the server answers already.
 *
 * @returns `undefined` when it took too long
 */
async function measure(job: CalibrationJob): Promise<readonly Trial[] | undefined> {
  const worker = new Worker(new URL("./worker.ts", import.meta.url), { workerData: job });
  const signal = AbortSignal.timeout(MEASURE_MS_MAX);
  try {
    const [trials] = (await once(worker, "message", { signal })) as [readonly Trial[]];
    return trials;
  } catch (cause) {
    if (signal.aborted) return undefined;
    throw cause;
  } finally {
    await worker.terminate();
  }
}
