/**
 * Decode and prefill of coldpath's engine beside its peers, in rounds: in each round every contender does the same work
 * in turn, and only figures of one round are compared. Round 0 warms up and is dropped.
 *
 * Decoding one stream reads every weight and the stream's keys and values once per token, so it is bound by memory.
 * Sixteen streams share the read of the weights, so they are bound by arithmetic, which is what batching is for; prefill
 * is that too. A library that copies its key-value cache at each step pays for the context a second and third time.
 */
import { streamFigures } from "../streams.ts";
import type { Contender, Job } from "./contender.ts";
import type { Prompts } from "./prompts.ts";

export type Name = "coldpath" | "node-llama-cpp" | "transformers.js q8" | "transformers.js q4";

/** One stream's decode rate at two contexts, sixteen streams' together, and the time to the first token of two prompts. */
export const MEASURES = ["decode 64", "decode 512", "decode 16 × 64", "prefill 128", "prefill 512"] as const;
export type Measure = (typeof MEASURES)[number];

interface Scenario {
  readonly streams: number;
  readonly context: number;
  readonly tokens: number;
  /** Which measures come out of it. */
  readonly rate?: Measure;
  readonly prefill?: Measure;
}

const SCENARIOS: readonly Scenario[] = [
  { streams: 1, context: 64, tokens: 64, rate: "decode 64" },
  { streams: 1, context: 128, tokens: 2, prefill: "prefill 128" },
  { streams: 1, context: 512, tokens: 48, rate: "decode 512", prefill: "prefill 512" },
  { streams: 16, context: 64, tokens: 256, rate: "decode 16 × 64" },
];

/** Tokens a second, round by round. */
export type Rates = Record<Measure, number[]>;

export interface SideBySideOptions {
  readonly contenders: ReadonlyMap<Name, Contender>;
  readonly prompts: Prompts;
  readonly rounds: number;
  readonly say: (line: string) => void;
}

/** A contender that fails is dropped with a line; the others go on. */
export async function measureSideBySide(options: SideBySideOptions): Promise<ReadonlyMap<Name, Rates>> {
  const { contenders, prompts, rounds, say } = options;
  const results = new Map([...contenders.keys()].map((name) => [name, emptyRates()]));
  for (let round = 0; round <= rounds; round++) {
    say(`decode and prefill, round ${round} of ${rounds}`);
    for (const scenario of SCENARIOS) {
      const job: Job = {
        prompts: Array.from({ length: scenario.streams }, () => prompts.ids(scenario.context)),
        tokens: scenario.tokens,
      };
      for (const [name, rates] of results) {
        const contender = contenders.get(name);
        if (contender === undefined || (scenario.streams > 1 && name.startsWith("transformers.js"))) continue;
        try {
          const measured = await measure(contender, scenario, job);
          if (round > 0) for (const [what, rate] of measured) rates[what].push(rate);
        } catch (cause) {
          say(`${name} is left out: ${String(cause)}`);
          results.delete(name);
        }
      }
    }
  }
  return results;
}

async function measure(contender: Contender, scenario: Scenario, job: Job): Promise<(readonly [Measure, number])[]> {
  const { "tokens/s": rate, "TTFT ms": firstMs } = streamFigures(await contender.run(job));
  const measured: (readonly [Measure, number])[] = [];
  if (scenario.rate !== undefined) measured.push([scenario.rate, rate]);
  if (scenario.prefill !== undefined) measured.push([scenario.prefill, (scenario.context / firstMs) * 1000]);
  return measured;
}

function emptyRates(): Rates {
  return { "decode 64": [], "decode 512": [], "decode 16 × 64": [], "prefill 128": [], "prefill 512": [] };
}
