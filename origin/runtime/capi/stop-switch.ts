/**
 * Ends a run of the C API back end from another thread: the one that computes can't be asked anything before its run is
 * over. The thread that owns the switch makes it, hands its number over with the runtime's options, and gives it up when
 * the other thread is gone. ONNX Runtime looks at it between two nodes of a graph, so a run ends within milliseconds, with
 * an error; one that hangs inside a kernel does not.
 */
import { type Handle, openOrtApi } from "./ort-api.ts";

export interface StopSwitch extends Disposable {
  /** For `RuntimeOptions.stopSwitch`. Both threads are in one process, so an address is the same in both. */
  readonly handle: Handle;
  /** Ends the run in progress, and every later one at its beginning. */
  stop(): void;
}

/** @throws {RuntimeError} where the library can't be had */
export function createStopSwitch(): StopSwitch {
  const api = openOrtApi();
  const handle = api.make("createRunOptions");
  let disposed = false;
  return {
    handle,
    stop: () => {
      if (!disposed) api.call("runOptionsSetTerminate", handle);
    },
    [Symbol.dispose]: () => {
      if (!disposed) api.release("runOptions", handle);
      disposed = true;
    },
  };
}
