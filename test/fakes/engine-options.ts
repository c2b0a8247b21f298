/** An engine's options for tests that are about something else: all that is measured or bounded is out of the way. */
import type { EngineOptions } from "../../origin/engine/engine.ts";

export const ENGINE_OPTIONS: Omit<EngineOptions, "runtime"> = {
  endTokens: [],
  prefillChunkTokens: 64,
  // A fake runtime's steps take next to no time, so a chunk is as large as it may be.
  interTokenMs: Infinity,
  speculationTokens: 0,
  queueWaitMs: Infinity,
  ageingMs: 10_000,
  kvBytes: Infinity,
  maskWaitMs: 5_000,
  prefixCacheBytes: 0,
  now: () => 0,
};
