/** The numbers that issue 4 asks for, from what was measured. Measures nothing. */
import { type EdgeRounds, MISSING, type SideFigures } from "./edge.ts";
import { type Side, SIDES } from "./edge-sides.ts";
import { type Goal, judge, type Verdict } from "./goals.ts";
import { median, medianRatio } from "./report.ts";

const HITS = ["workerdIsolate", "workerdRegional", "nodeIsolate", "nodeRegional"] as const;

export function judgeEdge(rounds: EdgeRounds): Verdict[] {
  const against = (side: Side, baseline: Side, atLeast: number): Verdict => judgeSides(rounds, side, baseline, atLeast);
  return [
    against("workerdIsolate", "workerdBare", 0.85),
    against("workerdRegional", "workerdFetch", 0.85),
    against("nodeIsolate", "workerdIsolate", 2),
    against("nodeIsolate", "nodeBare", 0.75),
    against("nodeRegional", "workerdRegional", 4),
    ...HITS.map((side) => against(side, "portkey", 5)),
    ...MISSING.map((side) =>
      judge(
        {
          what: `${SIDES[side].split(",")[0]}, miss: added p50 over asking the origin directly, 1 connection`,
          unit: "ms",
          atMost: 1,
        },
        median(rounds.missAddsMs[side]),
        `rounds: ${rounds.missAddsMs[side].map((ms) => ms.toFixed(2)).join(", ")}`,
      ),
    ),
    judge(
      {
        what: "a stream's first chunk, from the origin's writing to the client's reading, p50",
        unit: "ms",
        atMost: 10,
      },
      median(rounds.firstChunkMs),
      `rounds: ${rounds.firstChunkMs.map((ms) => ms.toFixed(2)).join(", ")}`,
    ),
    ...judgeOpenLoop(rounds),
    judgeRedisRest(rounds),
  ];
}

function judgeSides({ sides }: EdgeRounds, side: Side, baseline: Side, atLeast: number): Verdict {
  const goal: Goal = { what: SIDES[side], unit: `× ${SIDES[baseline]}`, atLeast };
  const [ours, theirs] = [sides[side], sides[baseline]];
  const note = `${whole(rates(ours))} : ${whole(rates(theirs))} requests/s; ${cpu(ours)} : ${cpu(theirs)} µs of CPU`;
  return judge(goal, medianRatio(rates(ours), rates(theirs)), note);
}

function rates(figures: readonly SideFigures[]): number[] {
  return figures.map((figure) => figure["requests/s"]);
}

function judgeOpenLoop({ openLoop }: EdgeRounds): Verdict[] {
  return openLoop
    .filter(({ share }) => share === 0.5)
    .map(({ hits, bare }) => {
      const of = (side: typeof hits, column: keyof (typeof hits.rounds)[number]): number =>
        median(side.rounds.map((round) => round[column]));
      const p99s = hits.rounds.map((round) => round["p99 ms"]);
      const busy = (side: typeof hits): string => `${of(side, "server busy %").toFixed(0)} % busy`;
      return judge(
        { what: `p99: ${hits.label}`, unit: "ms", atMost: 10 },
        of(hits, "p99 ms"),
        `windows from ${Math.min(...p99s).toFixed(1)} to ${Math.max(...p99s).toFixed(1)} ms; ` +
          `${of(hits, "requests/s").toFixed(0)} requests/s, p50 ${of(hits, "p50 ms").toFixed(2)} ms, ${busy(hits)}; ` +
          `generator late by ${of(hits, "sent late, p99 ms").toFixed(1)} ms; ` +
          `${bare.label}: p99 ${of(bare, "p99 ms").toFixed(1)} ms, ${busy(bare)}`,
      );
    });
}

function judgeRedisRest({ redisRest }: EdgeRounds): Verdict {
  const goal: Goal = { what: "redis-rest, one EVALSHA", unit: "× redis-benchmark", atLeast: 0.3 };
  const [rest, direct] = [redisRest.map((round) => round.rest), redisRest.map((round) => round.direct)];
  if (direct.some(Number.isNaN)) return judge(goal, Number.NaN, "redis-benchmark is not installed here");
  return judge(
    goal,
    medianRatio(rest, direct),
    `${whole(rest)} : ${whole(direct)} requests/s, by ${redisRest[0]?.generator}`,
  );
}

/** Of all processes that serve, the load generator not among them. */
function cpu(figures: readonly SideFigures[]): string {
  return whole(figures.map((figure) => figure["server µs"] + figure["redis-rest µs"] + figure["Redis µs"]));
}

function whole(values: readonly number[]): string {
  return median(values).toFixed(0);
}
