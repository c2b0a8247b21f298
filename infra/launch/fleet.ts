/**
 * Several processes of one program on one port: each is started again when it ends, after a pause that grows while it
 * keeps ending soon, and all are stopped together. Knows nothing of what they do, nor how they share the port.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { describeExit, type Part, type PartExit } from "./part.ts";

/** Before the first restart, and doubled for each life that was short. */
const PAUSE_MIN_MS = 100;
const PAUSE_MAX_MS = 10_000;
/** A life longer than this was no failed start. */
const LONG_LIFE_MS = 30_000;

export interface FleetOptions {
  readonly size: number;
  /** Starts the process of one place, also a second time. */
  readonly start: (place: number) => Promise<Part>;
  /** Told of every end and restart in one line. */
  readonly say: (line: string) => void;
  /** How long each may take to stop. */
  readonly graceMs: number;
  /** Milliseconds from any fixed point. Default: `performance.now`. */
  readonly now?: () => number;
}

export interface Fleet {
  /** Those that run now. */
  readonly parts: readonly Part[];
  stop(): Promise<void>;
}

/**
 * Starts all, one after the other: the first that can't be started, or has ended by the time the last one runs, is the
 * caller's to report.
 *
 * @throws {LaunchFailure} when a process can't be started; those before it are stopped
 */
export async function startFleet(options: FleetOptions): Promise<Fleet> {
  const { size, start, say, graceMs, now = () => performance.now() } = options;
  const parts: (Part | undefined)[] = [];
  const stopping = new AbortController();
  const running = (): readonly Part[] => parts.filter((part) => part !== undefined);
  const stopAll = async (): Promise<void> => {
    stopping.abort();
    await Promise.all(running().map((part) => part.stop(graceMs)));
  };

  async function keep(place: number, first: Part): Promise<void> {
    let part = first;
    let shortLives = 0;
    for (;;) {
      const bornMs = now();
      const exit = await part.exited;
      parts[place] = undefined;
      if (stopping.signal.aborted) return;
      shortLives = now() - bornMs < LONG_LIFE_MS ? shortLives + 1 : 1;
      const pauseMs = Math.min(PAUSE_MIN_MS * 2 ** (shortLives - 1), PAUSE_MAX_MS);
      say(`${describe(exit)}; it is started again in ${pauseMs} ms`);
      const next = await restart(place, pauseMs);
      if (next === undefined) return;
      part = next;
    }
  }

  /** `undefined` once everything is being stopped. */
  async function restart(place: number, pauseMs: number): Promise<Part | undefined> {
    for (;;) {
      await sleep(pauseMs, undefined, { signal: stopping.signal }).catch(() => {});
      if (stopping.signal.aborted) return undefined;
      try {
        const part = await start(place);
        parts[place] = part;
        // Stopped while it started: it was in no list then.
        if (stopping.signal.aborted) await part.stop(graceMs);
        return part;
      } catch (error) {
        say(`process ${place} could not be started: ${error instanceof Error ? error.message : String(error)}`);
      }
    }
  }

  const started: Part[] = [];
  try {
    for (let place = 0; place < size; place++) started[place] = parts[place] = await start(place);
  } catch (error) {
    await stopAll();
    throw error;
  }
  const kept = started.map((part, place) => keep(place, part));
  return {
    get parts() {
      return running();
    },
    stop: async () => {
      await stopAll();
      await Promise.all(kept);
      // One that was being started meanwhile.
      await Promise.all(running().map((part) => part.stop(graceMs)));
    },
  };
}

function describe(exit: PartExit): string {
  return `${exit.name} ${describeExit(exit)}`;
}
