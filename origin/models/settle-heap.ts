/**
 * Keeps this process's own collections out of the steps of running streams. V8 marks a heap with four threads, and beside
 * an engine that has every core the step that it falls into takes three times as long, for all rows (66 ms instead of 20,
 * the default model on two cores).
 *
 * - What loading has left is collected before the first request; else V8 does so after some hundred tokens.
 * - Afterwards V8 would collect again and again to give memory back, because a thread that waits for tokens allocates next
 *   to nothing and so passes for an idle one. It collects when its heap has grown, and no more.
 *
 * Source: `v8/src/heap/memory-reducer.h`; the flags of `node --v8-options`.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

/** For once a model is loaded: it takes some 50 ms, for which nothing else runs in this thread. */
export function settleHeap(): void {
  setFlagsFromString("--memory-reducer-gc-count=0");
  // Node has no other way to the collector but an option of its command line. Only contexts made meanwhile have it.
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  setFlagsFromString("--no-expose-gc");
  collect();
}
