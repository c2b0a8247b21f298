/** What the self-test found, for the log and for `/metrics`. Tests nothing. */
import { Gauge, type Registry } from "prom-client";
import type { SelfTest } from "../port/runtime.ts";

/**
 * How near a step of one row comes to what the machine's memory allows: the time that the cores need to read the step's
 * bytes, as a part of the step's time. Undefined where the limit was not measured.
 */
export function shareOfLimit({ stepMs, stepBytes, readBandwidth }: SelfTest): number | undefined {
  return readBandwidth && (stepBytes * 1000) / readBandwidth.bytesPerSecond / stepMs;
}

/** One sentence for the log. */
export function describeSelfTest(selfTest: SelfTest): string {
  const { stepMs, stepBytes, readBandwidth } = selfTest;
  const step = `a step of one row reads ${mebibytes(stepBytes)} in ${stepMs.toFixed(1)} ms`;
  const share = shareOfLimit(selfTest);
  if (readBandwidth === undefined || share === undefined) return step;
  const speed = (readBandwidth.bytesPerSecond / 1e9).toFixed(1);
  return `${Math.round(share * 100)} % of this machine's limit: ${step}, the cores read ${mebibytes(readBandwidth.bytes)} over and over at ${speed} GB/s`;
}

/**
 * @param selfTests - each model's by its id, asked at every scrape; what was not tested is not shown, and what could not be
 * measured is NaN
 */
export function registerSelfTest(
  registry: Registry,
  selfTests: () => readonly (readonly [model: string, selfTest: SelfTest | undefined])[],
): void {
  const gauge = (name: string, help: string, read: (of: SelfTest) => number | undefined) =>
    new Gauge({
      name: `coldpath_origin_self_test_${name}`,
      help,
      labelNames: ["model_name"],
      registers: [registry],
      collect() {
        for (const [model, found] of selfTests()) {
          if (found !== undefined) this.set({ model_name: model }, read(found) ?? Number.NaN);
        }
      },
    });
  gauge(
    "golden_distance_ratio",
    "How far a known model's logits were from computed ones at the start.",
    (of) => of.goldenDistance,
  );
  gauge("step_seconds", "A step of one row as measured at the start.", (of) => of.stepMs / 1000);
  gauge("step_bytes", "Weights, keys and values that such a step reads.", (of) => of.stepBytes);
  gauge(
    "read_bytes_per_second",
    "How fast the cores read as many bytes over and over.",
    (of) => of.readBandwidth?.bytesPerSecond,
  );
  gauge(
    "limit_ratio",
    "The time to read a step's bytes, as a part of the step's time; 1 is the machine's limit.",
    (of) => shareOfLimit(of),
  );
}

function mebibytes(bytes: number): string {
  return `${Math.round(bytes / 2 ** 20)} MiB`;
}
