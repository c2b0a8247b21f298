/** Starts a real engine thread on the fake runtime. */
import { type EngineClient, type EngineClientOptions, startEngine } from "../../origin/engine/client.ts";
import { BYTE_VOCAB_SIZE, IM_END, IM_START } from "./byte-tokenizer.ts";
import type { FakeRuntimeOptions } from "./fake-runtime.ts";

export interface FakeEngineOptions extends Partial<Omit<EngineClientOptions, "runtime">> {
  readonly runtime?: Partial<FakeRuntimeOptions>;
}

/** Four rows of 512 tokens; answers end by length only, because control tokens are never sampled. */
export function startFakeEngine({ runtime = {}, ...options }: FakeEngineOptions = {}): Promise<EngineClient> {
  const shape = { slots: 4, capacity: 512, vocabSize: BYTE_VOCAB_SIZE };
  return startEngine({
    runtimeModule: new URL("fake-runtime.ts", import.meta.url).href,
    runtime: { ...shape, shunned: [IM_START, IM_END], ...runtime },
    endTokens: [IM_END],
    prefillChunkTokens: 64,
    queueWaitMs: 60_000,
    stopMs: 5_000,
    onCrash: (cause) => {
      throw new Error("the fake engine crashed in a test that does not expect it", { cause });
    },
    onTrouble: () => {},
    ...options,
  });
}
