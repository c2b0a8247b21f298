/** Which weight format an import writes: the one that is asked for where the model can have it, else a default. */
import { DEFAULT_WEIGHT_FORMAT, WEIGHT_FORMATS, type WeightFormatName } from "../../onnx/weight-formats.ts";
import type { DecoderConfig } from "../checkpoint/checkpoint.ts";
import { ImportError } from "../../manifest/import-error.ts";
import type { ExecutionProvider } from "../../runtime/capi/provider.ts";
import { lacksVnni, type ProcessorFeatures } from "./processor.ts";
import { isRotatable } from "./rotate.ts";

/**
 * The default of this machine. Without VNNI a product with 8-bit blocks takes as long as several, and whole rows are 1.6
 * times as fast for sixteen streams, 1.8 times for prompts, one a twentieth to a tenth slower. With it one stream was a third
 * slower, and no GPU has their operator.
 *
 * @param machine - what computes, and on which processor
 */
export function usualFormat(machine: {
  readonly provider: ExecutionProvider;
  readonly processor: ProcessorFeatures;
}): WeightFormatName {
  return machine.provider === "cpu" && lacksVnni(machine.processor) ? "int8-rows" : DEFAULT_WEIGHT_FORMAT;
}

/** The default of a model that can't be rotated: the blocks are shorter instead, which costs a few percent of speed. */
const UNROTATED_DEFAULT: WeightFormatName = "int8";

export interface ChosenFormat {
  readonly format: WeightFormatName;
  /** Why it is not the usual default, for the operator. */
  readonly because?: string;
}

/**
 * @param asked - a format that the operator names; undefined: the best there is
 * @param usual - what `usualFormat` says
 * @throws {ImportError} `unsupported-model` for a format that such a model can't have
 */
export function chooseFormat(
  config: DecoderConfig,
  asked: WeightFormatName | undefined,
  usual: WeightFormatName,
): ChosenFormat {
  const format = asked ?? usual;
  if (!WEIGHT_FORMATS[format].rotated || isRotatable(config)) return { format };
  const because = "the norms behind its parts leave nowhere for a rotation to go";
  if (asked === undefined) return { format: UNROTATED_DEFAULT, because };
  throw new ImportError(
    "unsupported-model",
    `this model can't be imported as ${asked}, but as ${UNROTATED_DEFAULT}: ${because}`,
  );
}

/**
 * The format of an encoder, which is never rotated: its layer norms subtract a mean, which a rotation would not keep.
 *
 * @throws {ImportError} `unsupported-model` for a format that an encoder can't have
 */
export function chooseEncoderFormat(asked: WeightFormatName = UNROTATED_DEFAULT): WeightFormatName {
  if (!WEIGHT_FORMATS[asked].rotated) return asked;
  throw new ImportError("unsupported-model", `an encoder can't be imported as ${asked}, but as ${UNROTATED_DEFAULT}`);
}
