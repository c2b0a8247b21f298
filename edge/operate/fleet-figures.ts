/**
 * The figures of all processes that share one port, in one scrape: whichever of them is asked asks each, itself too, at
 * the address that it has for itself alone, with the operator's own token. A process that does not answer in time is
 * missing and said to be. Knows nothing of what the figures are.
 *
 * Considered: prom-client's AggregatorRegistry, which sums what Node's cluster module collects. These processes are no
 * cluster, workerd's can't be, and sums would hide the one that is ill: each keeps its own label `process`.
 *
 * Source: Prometheus text exposition format 0.0.4, which wants each metric's lines in one group.
 */
import type { Call } from "../call/call.ts";

/** In the query of a process that is asked for its own figures only. */
const OWN = "own";
/** Longest wait for one process; Prometheus gives a whole scrape ten seconds. */
const TIMEOUT_MS = 3_000;

/** @returns `undefined` where this process is to speak for itself */
export async function collectFleetFigures(call: Call, siblings: readonly string[]): Promise<string | undefined> {
  if (siblings.length === 0 || new URL(call.request.url).searchParams.has(OWN)) return undefined;
  const answers = await Promise.all(siblings.map((sibling) => askForFigures(call, sibling)));
  const texts = answers.filter((text) => text !== undefined);
  if (texts.length === 0) return undefined;
  return [
    ...joinFigures(texts),
    "# HELP coldpath_edge_processes Processes that share the port, by whether they told their figures.",
    "# TYPE coldpath_edge_processes gauge",
    `coldpath_edge_processes{state="told"} ${texts.length}`,
    `coldpath_edge_processes{state="silent"} ${answers.length - texts.length}`,
    "",
  ].join("\n");
}

async function askForFigures({ platform, request }: Call, sibling: string): Promise<string | undefined> {
  try {
    const response = await platform.fetch(`${sibling}/metrics?${OWN}`, {
      headers: { authorization: request.header("authorization") ?? "" },
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    const text = await response.text();
    return response.ok ? text : undefined;
  } catch {
    return undefined;
  }
}

/** The lines of each metric together, its description once. */
function joinFigures(texts: readonly string[]): readonly string[] {
  const metrics = new Map<string, string[]>();
  for (const text of texts) {
    const described = new Set(metrics.keys());
    let lines: string[] = [];
    for (const line of text.split("\n")) {
      const [, name] = /^# HELP (\S+) /.exec(line) ?? [];
      if (name !== undefined) {
        lines = metrics.get(name) ?? [];
        metrics.set(name, lines);
        if (!described.has(name)) lines.push(line);
      } else if (line.startsWith("# ")) {
        if (lines.length === 1) lines.push(line);
      } else if (line !== "") lines.push(line);
    }
  }
  return [...metrics.values()].flat();
}
