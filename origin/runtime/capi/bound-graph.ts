/**
 * A loaded graph with the values it is run on: inputs and outputs are bound by name and stay bound, so that a run names
 * only what has changed since the last. What is bound decides where a value lives, in host or device memory; ONNX Runtime
 * copies nothing that is where the graph wants it. Knows no model.
 */
import type { Handle, OrtApi } from "./ort-api.ts";

export class BoundGraph implements Disposable {
  readonly session: Handle;
  readonly #api: OrtApi;
  readonly #binding: Handle;

  /** @param session - belongs to the caller, and must outlive this */
  constructor(api: OrtApi, session: Handle) {
    this.session = session;
    this.#api = api;
    this.#binding = api.make("createIoBinding", session);
  }

  /** Binds a value, in place of what the name was bound to. The binding holds its memory's owner no longer than a run. */
  bindInput(name: string, value: Handle): void {
    this.#api.call("bindInput", this.#binding, name, value);
  }

  bindOutput(name: string, value: Handle): void {
    this.#api.call("bindOutput", this.#binding, name, value);
  }

  /** @throws {RuntimeError} with ONNX Runtime's message */
  run(runOptions: Handle): void {
    this.#api.call("runWithBinding", this.session, runOptions, this.#binding);
  }

  [Symbol.dispose](): void {
    this.#api.release("ioBinding", this.#binding);
  }
}
