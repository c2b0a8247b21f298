/**
 * `npm run bench [-- edge|engine|quality]`: without a name, the edge and the engine. Prints Markdown tables, and
 * everything as one line of JSON last. The whole stack is the real one, started for the benchmark on ports of its own.
 */
import { DEFAULT_MODEL, ensureDefaultModel } from "../setup/default-model.ts";
import { startPrivateStack } from "../setup/private-stack.ts";
import { benchEdge } from "./edge.ts";
import { benchEdgePlatforms } from "./edge-platforms.ts";
import { benchOrigin } from "./origin.ts";
import { main as benchQuality } from "./quality.ts";
import { machineLine, markdownTable, type Row } from "./report.ts";

const [name = "all", ...args] = process.argv.slice(2);

if (name === "quality") await benchQuality(args);
else if (["all", "edge", "engine"].includes(name)) await benchStack(name);
else {
  console.error(`there is no benchmark "${name}": edge, engine, quality, or no name for the first two`);
  process.exitCode = 2;
}

async function benchStack(which: string): Promise<void> {
  const { manifest, gguf } = await ensureDefaultModel();
  const stack = await startPrivateStack();
  try {
    const report: Record<string, { rows: readonly Row[]; ratios: Readonly<Record<string, number>> }> = {};
    if (which !== "engine") {
      report["edge"] = await benchEdge(stack);
      report["edge, self-hosted platforms"] = await benchEdgePlatforms(stack, DEFAULT_MODEL);
    }
    if (which !== "edge") {
      const { originUrl: url, secrets } = stack;
      const secret = secrets.COLDPATH_ORIGIN_SECRET;
      report["engine"] = await benchOrigin({
        url,
        secret,
        model: DEFAULT_MODEL,
        endTokens: manifest.tokens.ends,
        gguf,
      });
    }
    const machine = machineLine();
    console.log(machine);
    for (const [part, { rows, ratios }] of Object.entries(report)) {
      const ratioRows = Object.entries(ratios).map(([label, ratio]) => ({ label, figures: { "×": ratio } }));
      console.log(`\n${markdownTable(part, rows)}\n\n${markdownTable("ratio, median of rounds", ratioRows)}`);
    }
    console.log(`\n${JSON.stringify({ machine, ...report })}`);
  } finally {
    await stack.stop();
  }
}
