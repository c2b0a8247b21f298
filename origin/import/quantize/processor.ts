/** What of the processor decides how a model's weights are best stored. Knows no model. */
import { readFileSync } from "node:fs";

export interface ProcessorFeatures {
  /** As Node names it: `x64`, `arm64`. */
  readonly arch: string;
  /** The text of Linux' `/proc/cpuinfo`; empty elsewhere. */
  readonly cpuinfo: string;
}

/** This machine's. */
export function readProcessor(): ProcessorFeatures {
  try {
    return { arch: process.arch, cpuinfo: readFileSync("/proc/cpuinfo", "utf8") };
  } catch {
    return { arch: process.arch, cpuinfo: "" };
  }
}

/**
 * Whether it is an x64 processor that has no instruction for sums of products of bytes (VNNI): Zen 3 and before, Intel's
 * before Ice Lake on servers and Alder Lake elsewhere. Where nothing is known, it is said to have one.
 */
export function lacksVnni({ arch, cpuinfo }: ProcessorFeatures): boolean {
  const flags = /^flags\s*:(.*)$/m.exec(cpuinfo)?.[1]?.trim().split(/\s+/) ?? [];
  return arch === "x64" && flags.includes("avx2") && !flags.includes("avx512_vnni") && !flags.includes("avx_vnni");
}
