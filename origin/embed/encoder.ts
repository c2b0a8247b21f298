/**
 * An imported encoder on ONNX Runtime: token ids of several texts to a vector each. Its run holds up the thread it is
 * called on, so it has one of its own (`thread.ts`). Knows neither texts nor who asks.
 *
 * The stock binding is enough here, where a decoder's is not: nothing is kept from run to run, and what comes back is a
 * vector for each text.
 */
import { join } from "node:path";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { ENCODER_FILE, type Manifest } from "../manifest/manifest.ts";
import { sessionEntries } from "../runtime/port/session-entries.ts";

export interface EncoderOptions {
  /** An imported encoder's. */
  readonly folder: string;
  readonly pooling: NonNullable<Manifest["embedding"]>["pooling"];
  readonly hiddenSize: number;
  /** 0: as ONNX Runtime likes. */
  readonly threads: number;
  /** Whether another model's threads want the same cores; default false. */
  readonly shared?: boolean;
}

export class Encoder {
  readonly #session: InferenceSession;
  readonly #options: EncoderOptions;

  private constructor(session: InferenceSession, options: EncoderOptions) {
    this.#session = session;
    this.#options = options;
  }

  /** @throws an Error with ONNX Runtime's message */
  static async open(options: EncoderOptions): Promise<Encoder> {
    const session = await InferenceSession.create(join(options.folder, ENCODER_FILE), {
      intraOpNumThreads: options.threads,
      logSeverityLevel: 4,
      extra: Object.fromEntries(sessionEntries({ spinning: true, shared: options.shared ?? false })),
    });
    return new Encoder(session, options);
  }

  /**
   * Runs several texts side by side, the shorter ones filled up to the longest.
   *
   * @param texts - their ids, none of them empty or longer than the model's context
   * @returns a vector for each, not normalised
   */
  async run(texts: readonly (readonly number[])[]): Promise<readonly Float32Array[]> {
    const rows = texts.length;
    const length = Math.max(...texts.map((ids) => ids.length));
    const [tokens, mask] = [new Int32Array(rows * length), new Int32Array(rows * length)];
    const weights = new Float32Array(rows * length);
    for (const [row, ids] of texts.entries()) {
      const at = row * length;
      tokens.set(ids, at);
      mask.fill(1, at, at + ids.length);
      if (this.#options.pooling === "cls") weights[at] = 1;
      else weights.fill(1 / ids.length, at, at + ids.length);
    }
    const { vectors } = await this.#session.run({
      tokens: new Tensor("int32", tokens, [rows, length]),
      mask: new Tensor("int32", mask, [rows, length]),
      positions: new Tensor(
        "int32",
        Int32Array.from({ length }, (_, position) => position),
        [length],
      ),
      weights: new Tensor("float32", weights, [rows, 1, length]),
    });
    const values = vectors?.data;
    const { hiddenSize } = this.#options;
    if (!(values instanceof Float32Array)) throw new Error("the encoder gave no vectors");
    return texts.map((_, row) => values.slice(row * hiddenSize, (row + 1) * hiddenSize));
  }
}
