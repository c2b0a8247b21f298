/**
 * `npm run bench [-- edge|engine|traffic|quality|soak]`: without a name, the edge and the engine. Each prints Markdown tables,
 * and everything as one line of JSON last. `engine --part growth` measures a part alone. What is measured is the real thing, started for it on ports of its own.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { startPrivateStack } from "../setup/private-stack.ts";
import { benchEdge } from "./edge.ts";
import { benchEngine, ENGINE_PARTS, type EnginePart } from "./engine/engine.ts";
import type { Stack } from "../../infra/launch/stack.ts";
import { goalTable, type Verdict } from "./goals.ts";
import { main as benchQuality } from "./quality.ts";
import { machineLine, markdownTable, type Row } from "./report.ts";
import { soak } from "./soak/soak.ts";
import { benchTraffic } from "./traffic.ts";

const PLOTS = join(import.meta.dirname, "report");

const [name = "all", ...args] = process.argv.slice(2);
switch (name) {
  case "edge":
    await edge();
    break;
  case "engine":
    await engine();
    break;
  case "all":
    await edge();
    await engine();
    break;
  case "traffic":
    await traffic();
    break;
  case "quality":
    await benchQuality(args);
    break;
  case "soak":
    await runSoak();
    break;
  default:
    console.error(
      `there is no benchmark "${name}": edge, engine, traffic, quality, soak, or no name for the first two`,
    );
    process.exitCode = 2;
}

async function edge(): Promise<void> {
  const quick = isQuick();
  const about = { asked: "asked of the edge", figures: "median of rounds; µs are CPU time a request" };
  await againstStack(about, (stack) => benchEdge(stack, { quick }));
}

async function traffic(): Promise<void> {
  await againstStack({ asked: "promised of the whole", figures: "by what is asked" }, benchTraffic);
}

interface Titles {
  readonly asked: string;
  readonly figures: string;
}

type StackBench = (stack: Stack) => Promise<{ readonly verdicts: readonly Verdict[]; readonly rows: readonly Row[] }>;

/** Measures a whole stack that is there for this alone, and prints what came of it. */
async function againstStack(titles: Titles, bench: StackBench): Promise<void> {
  const stack = await startPrivateStack();
  try {
    const { verdicts, rows } = await bench(stack);
    const machine = machineLine();
    console.log(`${machine}\n\n${goalTable(titles.asked, verdicts)}`);
    console.log(`\n${markdownTable(titles.figures, rows)}`);
    console.log(`\n${JSON.stringify({ machine, verdicts, rows })}`);
  } finally {
    await stack.stop();
  }
}

async function engine(): Promise<void> {
  const options = { quick: { type: "boolean", default: false }, part: { type: "string", multiple: true } } as const;
  const { quick, part: named = ENGINE_PARTS } = parseArgs({ args, options }).values;
  const parts = named.map((part) => {
    if (isPart(part)) return part;
    throw new Error(`the engine's benchmark has no part "${part}": ${ENGINE_PARTS.join(", ")}`);
  });
  await benchEngine({ quick, parts, plotPath: join(PLOTS, "growth.svg") });
}

function isPart(word: string): word is EnginePart {
  return ENGINE_PARTS.some((part) => part === word);
}

/** Fewer rounds. */
function isQuick(): boolean {
  return parseArgs({ args, options: { quick: { type: "boolean", default: false } } }).values.quick;
}

async function runSoak(): Promise<void> {
  const { values } = parseArgs({ args, options: { requests: { type: "string", default: "100000" } } });
  const requests = Number(values.requests);
  if (!Number.isSafeInteger(requests) || requests < 1)
    throw new Error(`--requests wants a number, not ${values.requests}`);
  const isFlat = await soak({ requests, plotPath: join(PLOTS, "soak.svg") });
  process.exitCode = isFlat ? 0 : 1;
}
