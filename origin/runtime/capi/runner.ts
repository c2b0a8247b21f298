/**
 * Runs graphs: with the switch by which another thread can end them, and, on a session that records (`recorded-decode.ts`),
 * as the recording of a number or as none.
 *
 * Source: ONNX Runtime, onnxruntime_run_options_config_keys.h, `gpu_graph_id`.
 */
import type { BoundGraph } from "./bound-graph.ts";
import type { Handle, OrtApi } from "./ort-api.ts";

/** ONNX Runtime would record a run that names none as number 0. */
const NOT_RECORDED = "-1";

/** A shape of steps that came so often is recorded the next time: that takes as long as ten steps gain. */
export const RUNS_BEFORE = 8;

export class Runner {
  readonly #api: OrtApi;
  readonly #runOptions: Handle;
  #recording = NOT_RECORDED;

  /** @param runOptions - belongs to the caller */
  constructor(api: OrtApi, runOptions: Handle) {
    this.#api = api;
    this.#runOptions = runOptions;
    this.#name(NOT_RECORDED);
  }

  /** @throws {RuntimeError} with ONNX Runtime's message */
  run(graph: BoundGraph, recording?: number): void {
    const wanted = recording === undefined ? NOT_RECORDED : String(recording);
    if (wanted !== this.#recording) this.#name(wanted);
    graph.run(this.#runOptions);
  }

  #name(recording: string): void {
    this.#api.call("addRunConfigEntry", this.#runOptions, "gpu_graph_id", recording);
    this.#recording = recording;
  }
}
