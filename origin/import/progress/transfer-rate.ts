/** How fast bytes come, and how long the rest will take: from the last seconds only, so that a stall shows at once. */

/** The time that counts. */
const WINDOW_MS = 10_000;
/** Looked at this often; more samples say nothing more. */
const SAMPLE_MS = 250;

export class TransferRate {
  readonly #now: () => number;
  readonly #samples: { readonly atMs: number; readonly done: number }[] = [];

  constructor(now: () => number) {
    this.#now = now;
  }

  /** Notes how much there is. What is there at the first call came from elsewhere and counts for nothing. */
  note(done: number): void {
    const atMs = this.#now();
    const last = this.#samples.at(-1);
    if (last !== undefined && atMs - last.atMs < SAMPLE_MS) return;
    this.#samples.push({ atMs, done });
    while ((this.#samples[1]?.atMs ?? atMs) < atMs - WINDOW_MS) this.#samples.shift();
  }

  /** Bytes a second; `undefined` while nothing can be said. */
  get bytesPerSecond(): number | undefined {
    const [first] = this.#samples;
    const last = this.#samples.at(-1);
    if (first === undefined || last === undefined || last.atMs === first.atMs) return undefined;
    return (1000 * (last.done - first.done)) / (last.atMs - first.atMs);
  }

  /** "12.3 MB/s, 4 min left", as much of it as is known. */
  describe(total: number): string {
    const rate = this.bytesPerSecond;
    const done = this.#samples.at(-1)?.done ?? 0;
    if (rate === undefined) return "";
    if (rate <= 0) return "standing still";
    return `${formatBytes(rate)}/s, ${formatSeconds((total - done) / rate)} left`;
  }
}

/** Decimal units with one digit, as networks and disks are sold. */
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
