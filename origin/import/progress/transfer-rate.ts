/** The speed of a transfer and its remaining time, measured over the last seconds only, so that a stall shows soon. */

/** Milliseconds that the speed is measured over. */
const WINDOW_MS = 10_000;
/** Least milliseconds between two samples. */
const SAMPLE_MS = 250;

export class TransferRate {
  readonly #now: () => number;
  readonly #samples: { readonly atMs: number; readonly done: number }[] = [];

  constructor(now: () => number) {
    this.#now = now;
  }

  /** Records the bytes so far. Bytes of the first call were there before and do not count towards the speed. */
  note(done: number): void {
    const atMs = this.#now();
    const last = this.#samples.at(-1);
    if (last !== undefined && atMs - last.atMs < SAMPLE_MS) return;
    this.#samples.push({ atMs, done });
    while ((this.#samples[1]?.atMs ?? atMs) < atMs - WINDOW_MS) this.#samples.shift();
  }

  /** Bytes per second; undefined until there are two samples. */
  get bytesPerSecond(): number | undefined {
    const [first] = this.#samples;
    const last = this.#samples.at(-1);
    if (first === undefined || last === undefined || last.atMs === first.atMs) return undefined;
    return (1000 * (last.done - first.done)) / (last.atMs - first.atMs);
  }

  /** For example "12.3 MB/s, 4 min left"; empty until the speed is known. */
  describe(total: number): string {
    const rate = this.bytesPerSecond;
    const done = this.#samples.at(-1)?.done ?? 0;
    if (rate === undefined) return "";
    if (rate <= 0) return "stalled";
    return `${formatBytes(rate)}/s, ${formatSeconds((total - done) / rate)} left`;
  }
}

/** Formats bytes in decimal units with one digit, as networks and disks are sold. */
export function formatBytes(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = Math.min(Math.floor(Math.log10(Math.max(bytes, 1)) / 3), units.length - 1);
  return power === 0 ? `${Math.round(bytes)} B` : `${(bytes / 1000 ** power).toFixed(1)} ${units[power]}`;
}

function formatSeconds(seconds: number): string {
  if (seconds < 100) return `${Math.ceil(seconds)} s`;
  if (seconds < 100 * 60) return `${Math.ceil(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}
