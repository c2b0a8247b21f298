/**
 * The port's contract on what a runtime is told, checked before anything is done. Both back ends rely on it: what it
 * refuses would crash the process (a run without rows divides by zero inside ONNX Runtime), write outside a row, or
 * answer with nonsense.
 */
import { isDraft } from "./plan-run.ts";
import {
  type KvBlock,
  type Resize,
  RuntimeError,
  type RuntimeLimits,
  type RuntimeShape,
  type StepBatch,
} from "./runtime.ts";

/** @throws {RuntimeError} that says which part of the batch breaks which limit */
export function checkBatch(
  shape: RuntimeShape,
  { draftTokens }: Pick<RuntimeLimits, "draftTokens">,
  batch: StepBatch,
): void {
  const { decode, prefill } = batch;
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
  const rowPast = decode.pasts[prefill.slot];
  // A running row's own slot takes a few tokens more, right behind the row's: the guess of what comes next.
  const isGuess = rowPast !== undefined && prefill.tokens.length <= draftTokens && prefill.past === rowPast + 1;
  if (rowPast !== undefined && !isGuess) {
    throw new RuntimeError(`slot ${prefill.slot} can't be prefilled while it is a running row`);
  }
  if (prefill.tokens.length === 0) throw new RuntimeError("a chunk without tokens can't be prefilled");
  checkTokens(shape, prefill.tokens);
  checkRoom(shape, prefill.past, isDraft(batch) ? draftTokens : prefill.tokens.length);
  if (!isCount(prefill.sampled, prefill.tokens.length)) {
    throw new RuntimeError(`${prefill.sampled} of a chunk's ${prefill.tokens.length} tokens can't be sampled`);
  }
}

/** @throws {RuntimeError} when a copy between slots leaves the slab */
export function checkCopy(shape: RuntimeShape, copy: { from: number; to: number; tokens: number }): void {
  checkSlot(shape, copy.from);
  checkSlot(shape, copy.to);
  checkRoom(shape, 0, copy.tokens);
}

/** @throws {RuntimeError} when a new shape is over the limits or can't hold what is kept */
export function checkResize(shape: RuntimeShape, limits: RuntimeLimits, { slots, capacity, kept }: Resize): void {
  if (!isCount(slots, limits.slots) || !isCount(capacity, limits.capacity)) {
    const most = `${limits.slots} × ${limits.capacity}`;
    throw new RuntimeError(`a slab of ${slots} × ${capacity} tokens is over the limit of ${most}`);
  }
  const rows = Math.min(slots, shape.slots);
  const room = { ...shape, capacity: Math.min(capacity, shape.capacity) };
  for (const [slot, tokens] of kept.entries()) {
    if (tokens !== 0 && slot >= rows) throw new RuntimeError(`slot ${slot} can't be kept: there are ${rows} to keep`);
    checkRoom(room, 0, tokens);
  }
}

/** @throws {RuntimeError} when a range of tokens leaves its slot */
export function checkSave(shape: RuntimeShape, slot: number, from: number, to: number): void {
  checkSlot(shape, slot);
  checkRoom(shape, from, to - from);
}

/** @throws {RuntimeError} when a block is not what it says it is, or does not fit its slot */
export function checkLoad(
  shape: RuntimeShape,
  { tokenBytes }: RuntimeLimits,
  { slot, from, block }: { readonly slot: number; readonly from: number; readonly block: KvBlock },
): void {
  checkSlot(shape, slot);
  checkRoom(shape, from, block.tokens);
  if (block.from !== from) throw new RuntimeError(`a block taken from token ${block.from} can't be loaded at ${from}`);
  const bytes = block.tokens * tokenBytes;
  if (block.bytes.byteLength !== bytes) {
    throw new RuntimeError(`a block of ${block.tokens} tokens has ${bytes} bytes, not ${block.bytes.byteLength}`);
  }
}

function isCount(value: number, max: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= max;
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
