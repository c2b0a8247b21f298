/**
 * `npm run bench -- engine`: every number that was asked of the engine, measured and judged. Decode and prefill stand
 * beside node-llama-cpp and transformers.js on weights of the same GGUF, each library in a process of its own and driven
 * by token ids; the rest is asked of a real origin over HTTP. Each part's own file explains the physics it measures.
 *
 * Rounds are interleaved and the first is dropped; a figure is the median over rounds, a ratio the median of the rounds'
 * ratios. Seeds are fixed. All processes share one machine, so ratios hold elsewhere and absolute figures do not.
 */
import { join } from "node:path";
import { loadTokenizer } from "../../../origin/tokenize.ts";
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
import { judgeAll, sideBySideRows } from "./verdicts.ts";

const SEED = 20_260;
const ROUNDS = 5;
const QUICK_ROUNDS = 1;
/** A round takes few seconds, and what is judged is a few percent. */
const SPECULATION_ROUNDS = 5;
const CLOSED_CONNECTIONS = 9;
/** None, one, and the default. */
const GUESSED = [0, 1, 3];

interface EngineReport {
  readonly verdicts: readonly Verdict[];
  readonly tables: Readonly<Record<string, readonly Row[]>>;
}

/** @param plotPath - where the plot of growth goes */
export async function benchEngine(options: { readonly quick: boolean; readonly plotPath: string }): Promise<void> {
  const started = performance.now();
  const say = (line: string) => console.error(`[${((performance.now() - started) / 1000).toFixed(0)} s] ${line}`);
  const model = await ensureDefaultModel();
  const prompts = new Prompts({ seed: SEED, vocabSize: model.manifest.architecture.vocabSize });
  const run: Run = { model, prompts, rounds: options.quick ? QUICK_ROUNDS : ROUNDS, say };

  await using held = new AsyncDisposableStack();
  const contenders = await startContenders(run, held);
  const agreement = await measureAgreement(model, contenders);
  const rates = await measureSideBySide({ contenders, prompts, rounds: run.rounds, say });
  const engine = contenders.get("coldpath");
  if (engine === undefined) throw new Error("coldpath's own engine did not start");
  const growth = await measureGrowth({ engine, model, prompts, say, quick: options.quick });
  // The peers' threads and memory are not wanted beside the origin.
  for (const [name, contender] of contenders) if (name !== "coldpath") await contender.stop();
  const speculation = await measureSpeculation({ ...run, rounds: SPECULATION_ROUNDS, guessed: GUESSED });
  const service = await measureService(run, engine);
  const closed = await measureClosedConnections(run);

  const report: EngineReport = {
    verdicts: [...judgeAll({ rates, ...service, closed }), ...judgeSpeculation(speculation)],
    tables: {
      "decode and prefill, tokens/s": sideBySideRows(rates),
      "decode with so many tokens guessed, tokens/s": speculationRows(speculation),
      "same greedy tokens as coldpath": agreementRows(agreement),
      ...growthTables(growth),
    },
  };
  await drawGrowth(options.plotPath, growth).catch((cause: unknown) => say(`no plot: ${String(cause)}`));
  print(report, { quick: options.quick, seconds: (performance.now() - started) / 1000 });
}

interface Run {
  readonly model: DefaultModel;
  readonly prompts: Prompts;
  readonly rounds: number;
  readonly say: (line: string) => void;
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

export interface ServiceRounds {
  readonly firstToken: readonly FirstTokenRound[];
  readonly gap: readonly GapRound[];
  readonly overHttp: readonly OverHttpRound[];
}

/** Everything that is asked of one origin with its default settings. */
async function measureService({ model, prompts, rounds, say }: Run, engine: Contender): Promise<ServiceRounds> {
  say("starting an origin");
  await using held = new AsyncDisposableStack();
  const origin: OriginUnderTest = await startOrigin({ COLDPATH_MODEL: DEFAULT_MODEL });
  held.defer(() => origin.stop());
  const { tokens } = model.manifest;
  const tokenizer = loadTokenizer(model.folder, tokens);
  const asked = { model: DEFAULT_MODEL, endTokens: tokens.ends, prompts };
  const encode = (text: string) => tokenizer.encodePrompt(text);
  const measured = { firstToken: [] as FirstTokenRound[], gap: [] as GapRound[], overHttp: [] as OverHttpRound[] };
  for (let round = 0; round <= rounds; round++) {
    say(`service, round ${round} of ${rounds}`);
    const firstToken = await measureFirstToken(origin, asked);
    const gap = await measureGap(origin, asked);
    const overHttp = await measureOverHttp({ ...asked, origin, engine, encode });
    if (round === 0) continue;
    measured.firstToken.push(firstToken);
    measured.gap.push(gap);
    measured.overHttp.push(overHttp);
  }
  return measured;
}

async function measureClosedConnections({ model, say }: Run): Promise<number[]> {
  say("starting an origin with two rows");
  await using held = new AsyncDisposableStack();
  const origin = await startOrigin({ COLDPATH_MODEL: DEFAULT_MODEL, ...TWO_ROWS });
  held.defer(() => origin.stop());
  const asked = { model: DEFAULT_MODEL, endTokens: model.manifest.tokens.ends };
  const steps: number[] = [];
  for (let time = 0; time <= CLOSED_CONNECTIONS; time++) {
    const counted = await countStepsToFree(origin, { ...asked, name: `Round ${time}` });
    if (time > 0) steps.push(counted);
  }
  return steps;
}

function print({ verdicts, tables }: EngineReport, about: { readonly quick: boolean; readonly seconds: number }): void {
  const machine = machineLine();
  console.log(`${machine}\n\n${goalTable("number", verdicts)}`);
  for (const [title, rows] of Object.entries(tables)) console.log(`\n${markdownTable(title, rows)}`);
  console.log(`\n${JSON.stringify({ bench: "engine", machine, ...about, verdicts, tables })}`);
}
