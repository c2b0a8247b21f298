/**
 * `npm run bench -- traffic`: what was promised of a chatbot that many use (an answer in less than 300 ms on average and
 * 500 ms at P99, errors under 0.1 %), against all that `npm start` starts, with the default model and OpenAI's own client.
 *
 * What decides it is how many ask what nobody asked before, and that is another figure for every chatbot; so it is what
 * varies here. Requests come as from people who know nothing of each other, by a Poisson process, whether or not the last
 * ones were answered: an open loop, and a request's time counts from when it was due. An answer's time is that of its last
 * byte; who reads along waits for its first text.
 */
import OpenAI from "openai";
import { createRandom, type Random } from "../../origin/engine/random.ts";
import type { Stack } from "../../infra/launch/stack.ts";
import { type Goal, judge, type Verdict } from "./goals.ts";
import { quantile, type Row } from "./report.ts";

const SEED = 20;
/** Shares of the questions that nobody asked before. */
const COLD_SHARES = [0.005, 0.02, 0.05] as const;
const PER_SECOND = 20;
const SECONDS = 50;
/** What everybody asks. */
const KNOWN_QUESTIONS = 40;
const ANSWER_TOKENS_MAX = 64;
/** At a time, while the known questions are asked for the first time. */
const WARMING_CLIENTS = 8;

const PROMISES = [
  { key: "mean ms", goal: { what: "an answer, mean", unit: "ms", atMost: 300 } },
  { key: "p99 ms", goal: { what: "an answer, P99", unit: "ms", atMost: 500 } },
  { key: "errors %", goal: { what: "requests that fail", unit: "%", atMost: 0.1 } },
] as const satisfies readonly { readonly key: keyof TrafficFigures; readonly goal: Goal }[];

export interface TrafficOptions {
  /** 0 to 1. */
  readonly coldShare: number;
  readonly perSecond: number;
  readonly seconds: number;
}

/** One request of the plan. */
export interface Arrival {
  /** Since the first could have come. */
  readonly dueMs: number;
  readonly question: string;
}

type TrafficFigures = {
  readonly requests: number;
  readonly "of the model %": number;
  readonly "mean ms": number;
  readonly "p50 ms": number;
  readonly "p99 ms": number;
  readonly "first text, mean ms": number;
  readonly "first text, p99 ms": number;
  readonly "cold, first text p50 ms": number;
  readonly "cold, p50 ms": number;
  readonly "errors %": number;
};

/** What became of a request, times in milliseconds since it was due. */
interface Outcome {
  readonly cache: string | null;
  readonly firstMs: number;
  readonly totalMs: number;
}

/** @param stack - as `npm start` has it, knowing no answer yet */
export async function benchTraffic(stack: Stack): Promise<{ readonly verdicts: Verdict[]; readonly rows: Row[] }> {
  const apiKey = await stack.token({ sub: "traffic", plan: "bench", expiresInSeconds: 3_600 });
  // What fails is to be seen.
  const client = new OpenAI({ baseURL: `${stack.edgeUrl}/v1`, apiKey, maxRetries: 0 });
  const model = (await client.models.list()).data[0]?.id ?? "";
  const ask = (question: string, dueMs: number) => askOnce(client, { model, question, dueMs });
  await askAll(
    Array.from({ length: KNOWN_QUESTIONS }, (_, number) => knownQuestion(number)),
    ask,
  );

  const random = createRandom(SEED);
  const verdicts: Verdict[] = [];
  const rows: Row[] = [];
  for (const coldShare of COLD_SHARES) {
    const arrivals = planTraffic(random, { coldShare, perSecond: PER_SECOND, seconds: SECONDS });
    const figures = trafficFigures(await run(arrivals, ask));
    const label = `${coldShare * 100} % never asked before`;
    rows.push({ label, figures });
    const note = `${label}, ${PER_SECOND} requests/s`;
    for (const { key, goal } of PROMISES) verdicts.push(judge(goal, figures[key], note));
  }
  return { verdicts, rows };
}

/** A Poisson process: the times between two arrivals are independent and exponentially distributed. */
export function planTraffic(random: Random, { coldShare, perSecond, seconds }: TrafficOptions): Arrival[] {
  const arrivals: Arrival[] = [];
  let dueMs = 0;
  for (;;) {
    // 1 − random() is never 0.
    dueMs += (-Math.log(1 - random()) * 1_000) / perSecond;
    if (dueMs >= seconds * 1_000) return arrivals;
    const isCold = random() < coldShare;
    const number = Math.floor(random() * (isCold ? Number.MAX_SAFE_INTEGER : KNOWN_QUESTIONS));
    arrivals.push({ dueMs, question: isCold ? coldQuestion(number) : knownQuestion(number) });
  }
}

function knownQuestion(number: number): string {
  return `What should a traveller know about place number ${number} on the list?`;
}

function coldQuestion(number: number): string {
  return `My order is number ${number}. What can I do when it does not arrive?`;
}

type Ask = (question: string, dueMs: number) => Promise<Outcome | undefined>;

/** Some at a time; one that fails fails the benchmark. */
async function askAll(questions: string[], ask: Ask): Promise<void> {
  const client = async (): Promise<void> => {
    for (let question = questions.pop(); question !== undefined; question = questions.pop()) {
      if ((await ask(question, performance.now())) === undefined) throw new Error("a first answer failed");
    }
  };
  await Promise.all(Array.from({ length: WARMING_CLIENTS }, client));
}

/** Each when it is due, however many are on their way. */
async function run(arrivals: readonly Arrival[], ask: Ask): Promise<(Outcome | undefined)[]> {
  const startMs = performance.now();
  return Promise.all(
    arrivals.map(async ({ dueMs, question }) => {
      await new Promise((resolve) => setTimeout(resolve, dueMs));
      return ask(question, startMs + dueMs);
    }),
  );
}

interface Asked {
  readonly model: string;
  readonly question: string;
  readonly dueMs: number;
}

/** @returns `undefined` where there is no whole answer */
async function askOnce(client: OpenAI, { model, question, dueMs }: Asked): Promise<Outcome | undefined> {
  try {
    const { data, response } = await client.chat.completions
      .create({
        model,
        messages: [{ role: "user", content: question }],
        max_tokens: ANSWER_TOKENS_MAX,
        stream: true,
      })
      .withResponse();
    let firstMs: number | undefined;
    for await (const { choices } of data) {
      if (choices[0]?.delta.content) firstMs ??= performance.now() - dueMs;
    }
    const totalMs = performance.now() - dueMs;
    return { cache: response.headers.get("x-cache"), firstMs: firstMs ?? totalMs, totalMs };
  } catch (error) {
    console.error(String(error));
    return undefined;
  }
}

/** @param outcomes - `undefined` is one that failed */
export function trafficFigures(outcomes: readonly (Outcome | undefined)[]): TrafficFigures {
  const answered = outcomes.filter((outcome) => outcome !== undefined);
  const cold = answered.filter(({ cache }) => cache !== "HIT");
  const firsts = answered.map(({ firstMs }) => firstMs);
  const totals = answered.map(({ totalMs }) => totalMs);
  return {
    requests: outcomes.length,
    "of the model %": percent(cold.length, answered.length),
    "mean ms": mean(totals),
    "p50 ms": quantile(totals, 0.5),
    "p99 ms": quantile(totals, 0.99),
    "first text, mean ms": mean(firsts),
    "first text, p99 ms": quantile(firsts, 0.99),
    "cold, first text p50 ms": quantile(
      cold.map(({ firstMs }) => firstMs),
      0.5,
    ),
    "cold, p50 ms": quantile(
      cold.map(({ totalMs }) => totalMs),
      0.5,
    ),
    "errors %": percent(outcomes.length - answered.length, outcomes.length),
  };
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function percent(part: number, whole: number): number {
  return (100 * part) / whole;
}
