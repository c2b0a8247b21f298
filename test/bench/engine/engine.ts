/**
 * `npm run bench -- engine`: every number that was asked of the engine, measured and judged. Decode and prefill stand
 * beside node-llama-cpp and transformers.js on weights of the same GGUF, each library in a process of its own and driven
 * by token ids; the rest is asked of a real origin over HTTP. Each part's own file explains the physics it measures.
 *
 * Rounds are interleaved and the first is dropped; a figure is the median over rounds, a ratio the median of the rounds'
 * ratios. Seeds are fixed. All processes share one machine, so ratios hold elsewhere and absolute figures do not.
 */
import { join } from "node:path";
import { loadTokenizer } from "../../../origin/tokenize/tokenizer.ts";
import { DEFAULT_MODEL, type DefaultModel, ensureDefaultModel } from "../../setup/default-model.ts";
import { goalTable, type Verdict } from "../goals.ts";
import { benchFolder, installPeer } from "../peers.ts";
import { machineLine, markdownTable, type Row } from "../report.ts";
import { agreementRows, measureAgreement } from "./agreement.ts";
import { countStepsToFree, TWO_ROWS } from "./closed-connection.ts";
import { type Contender, startContender } from "./contender.ts";
import { type FirstTokenRound, measureFirstToken } from "./first-token.ts";
import { type GapRound, measureGap } from "./gap.ts";
import { drawGrowth, growthTables, measureGrowth } from "./growth-report.ts";
import { type OriginUnderTest, startOrigin } from "./origin-under-test.ts";
import { measureOverHttp, type OverHttpRound } from "./over-http.ts";
import { Prompts } from "./prompts.ts";
import { measureSideBySide, type Name } from "./side-by-side.ts";
import { exportForTransformers, PEER_FORMATS, type PeerFormat } from "./transformers-export.ts";
import { judgeSpeculation, measureSpeculation, speculationRows } from "./speculation.ts";
import {
  judgeClosed,
  judgeOverHttp,
  judgePeers,
  judgeService,
  type ServiceRounds,
  sideBySideRows,
} from "./verdicts.ts";

const SEED = 20_260;
const ROUNDS = 5;
const QUICK_ROUNDS = 1;
/** Of what is judged by a few percent, quick or not: guesses, and what HTTP costs. */
const SMALL_ROUNDS = 5;
const CLOSED_CONNECTIONS = 9;
/** None, one, and the default. */
const GUESSED = [0, 1, 3];

/** What can be measured alone; `service` is what one origin with its default settings is asked for. */
export const ENGINE_PARTS = ["peers", "growth", "speculation", "service", "http", "closed"] as const;
export type EnginePart = (typeof ENGINE_PARTS)[number];

interface Findings {
  readonly verdicts?: readonly Verdict[];
  readonly tables?: Readonly<Record<string, readonly Row[]>>;
}

export interface EngineBenchOptions {
  readonly quick: boolean;
  /** Where the plot of growth goes. */
  readonly plotPath: string;
  readonly parts: readonly EnginePart[];
}

export async function benchEngine({ quick, plotPath, parts }: EngineBenchOptions): Promise<void> {
  const started = performance.now();
  const say = (line: string) => console.error(`[${((performance.now() - started) / 1000).toFixed(0)} s] ${line}`);
  const model = await ensureDefaultModel();
  const prompts = new Prompts({ seed: SEED, vocabSize: model.manifest.architecture.vocabSize });
  const run: Run = { model, prompts, rounds: quick ? QUICK_ROUNDS : ROUNDS, quick, plotPath, say };
  const findings: Findings[] = [];
  for (const part of ENGINE_PARTS) if (parts.includes(part)) findings.push(await PARTS[part](run));
  const report = {
    verdicts: findings.flatMap(({ verdicts = [] }) => verdicts),
    tables: Object.assign({}, ...findings.map(({ tables }) => tables)) as NonNullable<Findings["tables"]>,
  };
  print(report, { quick, parts, seconds: (performance.now() - started) / 1000 });
}

interface Run {
  readonly model: DefaultModel;
  readonly prompts: Prompts;
  readonly rounds: number;
  readonly quick: boolean;
  readonly plotPath: string;
  readonly say: (line: string) => void;
}

const PARTS: Readonly<Record<EnginePart, (run: Run) => Promise<Findings>>> = {
  peers: async (run) => {
    await using held = new AsyncDisposableStack();
    const contenders = await startContenders(run, held);
    const agreement = await measureAgreement(run.model, contenders);
    const rates = await measureSideBySide({ ...run, contenders });
    return {
      verdicts: judgePeers(rates),
      tables: {
        "decode and prefill, tokens/s": sideBySideRows(rates),
        "same greedy tokens as coldpath": agreementRows(agreement),
      },
    };
  },
  growth: async (run) => {
    await using engine = await startEngine(run);
    const growth = await measureGrowth({ ...run, engine });
    await drawGrowth(run.plotPath, growth).catch((cause: unknown) => run.say(`no plot: ${String(cause)}`));
    return { tables: growthTables(growth) };
  },
  speculation: async (run) => {
    const speculation = await measureSpeculation({ ...run, rounds: SMALL_ROUNDS, guessed: GUESSED });
    return {
      verdicts: judgeSpeculation(speculation),
      tables: { "decode with so many tokens guessed, tokens/s": speculationRows(speculation) },
    };
  },
  service: async (run) => ({ verdicts: judgeService(await measureService(run)) }),
  http: async (run) => ({ verdicts: [judgeOverHttp(await measureHttp(run))] }),
  closed: async (run) => ({ verdicts: [judgeClosed(await measureClosedConnections(run))] }),
};

/** coldpath's own engine, without HTTP. */
async function startEngine({ model }: Run): Promise<Contender & AsyncDisposable> {
  const contender = await startContender("coldpath-process.ts", [model.folder]);
  return { ...contender, [Symbol.asyncDispose]: () => contender.stop() };
}

/** A peer that can't be had is left out with a sentence; its rows then say so. */
async function startContenders({ model, say }: Run, held: AsyncDisposableStack): Promise<ReadonlyMap<Name, Contender>> {
  const contenders = new Map<Name, Contender>();
  const start = async (name: Name, file: string, args: () => Promise<readonly string[]>): Promise<void> => {
    say(`starting ${name}`);
    try {
      const contender = await startContender(file, await args());
      held.defer(() => contender.stop());
      contenders.set(name, contender);
    } catch (cause) {
      if (name === "coldpath") throw cause;
      say(`${name} is left out: ${String(cause)}`);
    }
  };
  await start("coldpath", "coldpath-process.ts", async () => [model.folder]);
  await start("node-llama-cpp", "llama-cpp-process.ts", async () => [await installPeer("node-llama-cpp"), model.gguf]);
  for (const dtype of Object.keys(PEER_FORMATS) as PeerFormat[]) {
    await start(`transformers.js ${dtype}`, "transformers-process.ts", async () => {
      const module = await installPeer("@huggingface/transformers");
      const folder = join(benchFolder(), "models", `${DEFAULT_MODEL}-transformers`);
      await exportForTransformers(model.gguf, folder);
      return [module, folder, dtype];
    });
  }
  return contenders;
}

async function measureService(run: Run): Promise<ServiceRounds> {
  await using origin = await startDefaultOrigin(run);
  const measured = { firstToken: [] as FirstTokenRound[], gap: [] as GapRound[] };
  for (let round = 0; round <= run.rounds; round++) {
    run.say(`service, round ${round} of ${run.rounds}`);
    const firstToken = await measureFirstToken(origin, asked(run));
    const gap = await measureGap(origin, asked(run));
    if (round === 0) continue;
    measured.firstToken.push(firstToken);
    measured.gap.push(gap);
  }
  return measured;
}

async function measureHttp(run: Run): Promise<OverHttpRound[]> {
  await using origin = await startDefaultOrigin(run);
  await using engine = await startEngine(run);
  const { folder, manifest } = run.model;
  const tokenizer = loadTokenizer(folder, manifest.tokens);
  const encode = (text: string) => tokenizer.encodePrompt(text);
  const measured: OverHttpRound[] = [];
  for (let round = 0; round <= SMALL_ROUNDS; round++) {
    run.say(`over HTTP, round ${round} of ${SMALL_ROUNDS}`);
    const rates = await measureOverHttp({ ...asked(run), origin, engine, encode });
    if (round > 0) measured.push(rates);
  }
  return measured;
}

function asked({ model, prompts }: Run) {
  return { model: DEFAULT_MODEL, endTokens: model.manifest.tokens.ends, prompts };
}

async function startDefaultOrigin({ say }: Run): Promise<OriginUnderTest & AsyncDisposable> {
  say("starting an origin");
  const origin = await startOrigin({ COLDPATH_MODEL: DEFAULT_MODEL });
  return { ...origin, [Symbol.asyncDispose]: () => origin.stop() };
}

async function measureClosedConnections(run: Run): Promise<number[]> {
  run.say("starting an origin with two rows");
  await using held = new AsyncDisposableStack();
  const origin = await startOrigin({ COLDPATH_MODEL: DEFAULT_MODEL, ...TWO_ROWS });
  held.defer(() => origin.stop());
  const steps: number[] = [];
  for (let time = 0; time <= CLOSED_CONNECTIONS; time++) {
    const counted = await countStepsToFree(origin, { ...asked(run), round: time });
    if (time > 0) steps.push(counted);
  }
  return steps;
}

function print({ verdicts, tables }: Required<Findings>, about: object): void {
  const machine = machineLine();
  console.log(machine);
  if (verdicts.length > 0) console.log(`\n${goalTable("number", verdicts)}`);
  for (const [title, rows] of Object.entries(tables)) console.log(`\n${markdownTable(title, rows)}`);
  console.log(`\n${JSON.stringify({ bench: "engine", machine, ...about, verdicts, tables })}`);
}
