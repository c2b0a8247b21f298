/** Starts a real engine thread on the fake runtime. */
import { type EngineClient, type EngineClientOptions, startEngine } from "../../origin/engine/client.ts";
import { BYTE_VOCAB_SIZE, IM_END, IM_START } from "./byte-tokenizer.ts";
import { ENGINE_OPTIONS } from "./engine-options.ts";
import type { FakeRuntimeOptions } from "./fake-runtime.ts";

export interface FakeEngineOptions extends Partial<Omit<EngineClientOptions, "runtime">> {
  readonly runtime?: Partial<FakeRuntimeOptions>;
}

/** Four rows of 512 tokens; answers end by length only, because control tokens are never sampled. */
export function startFakeEngine({ runtime = {}, ...options }: FakeEngineOptions = {}): Promise<EngineClient> {
  // A thread has a clock of its own, and a function can't be sent to it.
  const { now: _now, ...threadOptions } = ENGINE_OPTIONS;
  const shape = { slots: 4, capacity: 512, vocabSize: BYTE_VOCAB_SIZE };
  return startEngine({
    runtimeModule: new URL("fake-runtime.ts", import.meta.url).href,
    runtime: { ...shape, shunned: [IM_START, IM_END], ...runtime },
    ...threadOptions,
    endTokens: [IM_END],
    queueWaitMs: 60_000,
    kvBytes: Infinity,
    prefixCacheBytes: 1_000_000,
    restAfterMs: 60_000,
    stopMs: 5_000,
    silenceMs: 60_000,
    onCrash: (cause) => {
      throw new Error("the fake engine crashed in a test that does not expect it", { cause });
    },
    onTrouble: () => {},
    ...options,
  });
}
