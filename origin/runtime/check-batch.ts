/**
 * The port's contract on a batch, checked before anything runs. Both back ends rely on it: what it refuses would crash
 * the process (a run without rows divides by zero inside ONNX Runtime), write outside a row, or answer with nonsense.
 */
import { RuntimeError, type RuntimeShape, type StepBatch } from "./runtime.ts";

/** @throws {RuntimeError} that says which part of the batch breaks which limit */
export function checkBatch(shape: RuntimeShape, { decode, prefill }: StepBatch): void {
  const rows = decode.tokens.length;
  if (decode.pasts.length !== rows) {
    throw new RuntimeError(`${rows} running rows need as many pasts, not ${decode.pasts.length}`);
  }
  if (rows === 0 && prefill === undefined) throw new RuntimeError("an empty batch can't be run");
  if (rows > shape.slots) throw new RuntimeError(`${rows} running rows don't fit into ${shape.slots} slots`);
  checkTokens(shape, decode.tokens);
  for (const past of decode.pasts) checkRoom(shape, past, 1);
  if (prefill === undefined) return;

  checkSlot(shape, prefill.slot);
  if (prefill.slot < rows) throw new RuntimeError(`slot ${prefill.slot} can't be prefilled while it is a running row`);
  if (prefill.tokens.length === 0) throw new RuntimeError("a chunk without tokens can't be prefilled");
  checkTokens(shape, prefill.tokens);
  checkRoom(shape, prefill.past, prefill.tokens.length);
}

/** @throws {RuntimeError} when a copy between slots leaves the slab */
export function checkCopy(shape: RuntimeShape, copy: { from: number; to: number; tokens: number }): void {
  checkSlot(shape, copy.from);
  checkSlot(shape, copy.to);
  checkRoom(shape, 0, copy.tokens);
}

function checkSlot({ slots }: RuntimeShape, slot: number): void {
  if (!Number.isInteger(slot) || slot < 0 || slot >= slots) {
    throw new RuntimeError(`there is no slot ${slot}: they are 0 to ${slots - 1}`);
  }
}

function checkTokens({ vocabSize }: RuntimeShape, tokens: Int32Array): void {
  for (const token of tokens) {
    if (token < 0 || token >= vocabSize) throw new RuntimeError(`token ${token} is outside the vocabulary`);
  }
}

function checkRoom({ capacity }: RuntimeShape, past: number, tokens: number): void {
  const whole = Number.isInteger(past) && Number.isInteger(tokens);
  if (!whole || past < 0 || tokens < 0 || past + tokens > capacity) {
    throw new RuntimeError(`${tokens} tokens after ${past} don't fit into a row of ${capacity}`);
  }
}
