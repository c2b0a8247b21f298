/**
 * Rotary position embeddings: a checkpoint's settings to the rotation of each pair. Scaled ones turn more slowly, so that
 * more positions fit into what the model was trained on.
 *
 *   linear   every pair by the same factor                    Chen et al. 2023, "Extending Context Window of LLMs"
 *   llama3   slow pairs by the factor, fast ones not at all   transformers, modeling_rope_utils.py; GGUF has the result,
 *                                                             a divisor for each pair, as the tensor `rope_freqs.weight`
 *   yarn     the same by another ramp, and all vectors longer Peng et al. 2023, "YaRN", section 3; with the rounding of
 *                                                             transformers and llama.cpp
 */
import type { Rope } from "../checkpoint/checkpoint.ts";
import { shown } from "../../manifest/import-error.ts";
import type { Settings } from "./settings.ts";

/** RoPE's own base, where neither a file nor its architecture says another. */
const DEFAULT_BASE = 10_000;

/**
 * The rotation of a checkpoint's layers.
 *
 * @param divisors - the tensor `rope_freqs.weight`, `[headDim / 2]`
 * @throws {ImportError} `unsupported-model` for a scaling that is none of the above, `invalid-file` for nonsense
 */
export function readRope(settings: Settings, headDim: number, divisors: Float32Array | undefined): Rope {
  const base = settings.number("ropeBase", DEFAULT_BASE);
  const pairs = unscaledRope(base, headDim).frequencies;
  if (divisors !== undefined && divisors.length !== pairs.length) {
    settings.fail("invalid-file", `has ${divisors.length} RoPE factors for ${pairs.length} pairs`);
  }
  const scaled = scale(settings, base, pairs);
  const frequencies = scaled.frequencies.map((frequency, pair) => frequency / (divisors?.[pair] ?? 1));
  const rope = { ...scaled, frequencies };
  if ([...frequencies, rope.magnitude].every((value) => Number.isFinite(value) && value > 0)) return rope;
  return settings.fail("invalid-file", "describes a RoPE that is not made of positive numbers");
}

/** `base^(-2i / headDim)` for each pair. */
export function unscaledRope(base: number, headDim: number): Rope {
  const frequencies = Array.from({ length: headDim / 2 }, (_, pair) => base ** ((-2 * pair) / headDim));
  return { frequencies, magnitude: 1 };
}

/** How many tokens a model can tell apart: what it says, or more where YaRN stretches what it was trained on. */
export function readContextLength(settings: Settings): number {
  const stated = settings.count("contextLength");
  const trained = settings.optionalNumber("ropeContext");
  if (settings.word("ropeType") !== "yarn" || trained === undefined) return stated;
  return Math.max(stated, Math.floor(trained * settings.number("ropeFactor")));
}

function scale(settings: Settings, base: number, frequencies: readonly number[]): Rope {
  const type = settings.word("ropeType") ?? unnamedScaling(settings);
  switch (type) {
    case "none":
    case "default":
      return { frequencies, magnitude: 1 };
    case "linear": {
      const factor = settings.number("ropeFactor");
      return { frequencies: frequencies.map((frequency) => frequency / factor), magnitude: 1 };
    }
    case "llama3":
      return { frequencies: llama3(settings, frequencies), magnitude: 1 };
    case "yarn":
      return { frequencies: yarn(settings, base, frequencies), magnitude: yarnMagnitude(settings) };
    default:
      return settings.fail("unsupported-model", `scales RoPE by ${shown(type)}, which coldpath can't run`);
  }
}

/** As in llama.cpp, a GGUF file that says how much but not how means linearly. */
function unnamedScaling(settings: Settings): "linear" | "none" {
  return settings.format === "gguf" && settings.optionalNumber("ropeFactor") !== undefined ? "linear" : "none";
}

/** By how often a pair turns within the trained context: under `low` times by the factor, from `high` times on not. */
function llama3(settings: Settings, frequencies: readonly number[]): readonly number[] {
  const factor = settings.number("ropeFactor");
  const [low, high] = [settings.number("llama3LowFactor"), settings.number("llama3HighFactor")];
  const trained = settings.count("ropeContext");
  return frequencies.map((frequency) => {
    const turns = (trained * frequency) / (2 * Math.PI);
    const kept = clamp((turns - low) / (high - low));
    return frequency * (kept + (1 - kept) / factor);
  });
}

/** A straight ramp over the pairs, from the one that turns `fast` times within the trained context to `slow` times. */
function yarn(settings: Settings, base: number, frequencies: readonly number[]): readonly number[] {
  const factor = settings.number("ropeFactor");
  const trained = settings.count("ropeContext", settings.count("contextLength"));
  const headDim = frequencies.length * 2;
  const pairTurning = (turns: number): number =>
    (headDim * Math.log(trained / (turns * 2 * Math.PI))) / (2 * Math.log(base));
  const truncates = settings.flag("yarnTruncates") ?? true;
  const [fast, slow] = [pairTurning(settings.number("yarnFast", 32)), pairTurning(settings.number("yarnSlow", 1))];
  const from = Math.max(truncates ? Math.floor(fast) : fast, 0);
  const to = Math.min(truncates ? Math.ceil(slow) : slow, headDim - 1);
  return frequencies.map((frequency, pair) => {
    const scaled = clamp((pair - from) / Math.max(to - from, 0.001));
    return frequency * (1 - scaled + scaled / factor);
  });
}

/** The attention factor: what YaRN multiplies queries and keys by, as their product grows flatter over more tokens. */
function yarnMagnitude(settings: Settings): number {
  if (settings.number("yarnLogMultiplier", 0) !== 0 || settings.number("yarnExtrapolation", 1) !== 1) {
    settings.fail("unsupported-model", "has a YaRN of its own kind, which coldpath can't run");
  }
  const stated = settings.optionalNumber("yarnMagnitude");
  if (stated !== undefined) return stated;
  const factor = settings.number("ropeFactor");
  const grown = (mscale: number): number => (factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1);
  const [own, all] = [settings.optionalNumber("yarnMscale"), settings.optionalNumber("yarnMscaleAll")];
  if (own && all) return grown(own) / grown(all);
  return grown(1) * settings.number("yarnMagnitudeScale", 1);
}

function clamp(share: number): number {
  return Math.min(Math.max(share, 0), 1);
}
