/** The numbers that issue 3 asks for, from what was measured. Measures nothing. */
import { type Goal, judge, type Verdict } from "../goals.ts";
import { median, medianRatio, medianRow, type Row } from "../report.ts";
import type { FirstTokenRound } from "./first-token.ts";
import type { GapRound } from "./gap.ts";
import type { OverHttpRound } from "./over-http.ts";
import { MEASURES, type Measure, type Name, type Rates } from "./side-by-side.ts";

/** Of one origin, round by round. */
export interface ServiceRounds {
  readonly firstToken: readonly FirstTokenRound[];
  readonly gap: readonly GapRound[];
}

type PeerRates = ReadonlyMap<Name, Rates>;

/** The rates of two contenders: against whom, at what, how many times. */
const AGAINST_PEERS: readonly (readonly [Measure, Name, number])[] = [
  ["decode 64", "node-llama-cpp", 1],
  ["decode 512", "node-llama-cpp", 1],
  ["decode 64", "transformers.js q8", 2],
  ["decode 512", "transformers.js q8", 2],
  ["decode 64", "transformers.js q4", 2],
  ["decode 512", "transformers.js q4", 2],
  ["decode 16 × 64", "node-llama-cpp", 3],
  ["prefill 128", "node-llama-cpp", 1],
  ["prefill 512", "node-llama-cpp", 1],
];

const WORDS: Readonly<Record<Measure, string>> = {
  "decode 64": "decode, 1 stream, context 64",
  "decode 512": "decode, 1 stream, context 512",
  "decode 16 × 64": "decode, 16 streams together",
  "prefill 128": "prefill, 128 tokens",
  "prefill 512": "prefill, 512 tokens",
};

export function judgePeers(rates: PeerRates): Verdict[] {
  const peers = AGAINST_PEERS.map(([measure, name, atLeast]) => judgeAgainst(rates, measure, name, atLeast));
  return [...peers, judgeScaling(rates)];
}

function judgeAgainst(rates: PeerRates, measure: Measure, name: Name, atLeast: number): Verdict {
  const goal: Goal = { what: WORDS[measure], unit: `× ${name}`, atLeast };
  const ours = rates.get("coldpath")?.[measure] ?? [];
  const theirs = rates.get(name)?.[measure];
  if (theirs === undefined) return judge(goal, Number.NaN, `${name} could not be run here`);
  return judge(goal, medianRatio(ours, theirs), `${round(ours)} : ${round(theirs)} tokens/s`);
}

function judgeScaling(rates: PeerRates): Verdict {
  const ours = rates.get("coldpath");
  const [sixteen, one] = [ours?.["decode 16 × 64"] ?? [], ours?.["decode 64"] ?? []];
  const goal: Goal = { what: WORDS["decode 16 × 64"], unit: "× own single stream", atLeast: 4 };
  return judge(goal, medianRatio(sixteen, one), `${round(sixteen)} : ${round(one)} tokens/s`);
}

export function judgeService({ firstToken, gap }: ServiceRounds): Verdict[] {
  const seen = firstToken.map(({ seenMs }) => seenMs);
  const cold = firstToken.map(({ coldMs }) => coldMs);
  const cached = firstToken.map(({ cachedTokens }) => cachedTokens);
  const prompt = firstToken.map(({ promptTokens }) => promptTokens);
  const worst = gap.map(({ worstMs }) => worstMs);
  const undisturbed = gap.map(({ undisturbedMs }) => undisturbedMs);
  const promptMs = gap.map(({ firstTokenMs }) => firstTokenMs);
  return [
    judge(
      { what: "first token, 1,000-token system prompt seen before", unit: "× cold", atMost: 0.15 },
      medianRatio(seen, cold),
      `${round(seen)} : ${round(cold)} ms, ${round(cached)} of ${round(prompt)} tokens cached`,
    ),
    judge(
      { what: "worst gap while a 1,000-token prompt arrives", unit: "× undisturbed p99", atMost: 2 },
      medianRatio(worst, undisturbed),
      `${round(worst)} : ${round(undisturbed)} ms, its first token after ${round(promptMs)} ms`,
    ),
  ];
}

export function judgeOverHttp(rounds: readonly OverHttpRound[]): Verdict {
  const http = rounds.map(({ overHttp }) => overHttp);
  const alone = rounds.map((figures) => figures.alone);
  return judge(
    { what: "tokens/s over HTTP, 16 clients", unit: "× engine alone", atLeast: 0.95 },
    medianRatio(http, alone),
    `${round(http)} : ${round(alone)} tokens/s`,
  );
}

/** @param steps - until a closed connection's row was free, time by time */
export function judgeClosed(steps: readonly number[]): Verdict {
  const goal: Goal = { what: "a closed connection → its row free", unit: "step", atMost: 1 };
  return judge(goal, median(steps), `${steps.length} times: ${steps.join(", ")}`);
}

/** What every contender reached. */
export function sideBySideRows(rates: PeerRates): readonly Row[] {
  return [...rates].map(([name, of]) => {
    const count = of["decode 64"].length;
    const rounds = Array.from({ length: count }, (_, index) =>
      Object.fromEntries(MEASURES.map((measure) => [measure, of[measure][index] ?? Number.NaN])),
    );
    return medianRow(name, rounds);
  });
}

function round(values: readonly number[]): string {
  const middle = median(values);
  return middle >= 100 ? middle.toFixed(0) : middle.toFixed(1);
}
