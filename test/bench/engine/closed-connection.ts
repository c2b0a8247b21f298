/**
 * How many steps a closed connection keeps its row, counted from outside. The origin has two rows. A witness streams in
 * one, a victim in the other, a third request waits. The victim's connection is closed just after a step; the third
 * request's prompt, a token or two and so of one step, can only be computed once the row is free. The witness gets one token a
 * step, so its tokens between the close and the third request's first token are the steps; one of them is the third
 * request's own.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { exactly, type OriginUnderTest } from "./origin-under-test.ts";

/** Settings of the origin this is measured on. */
export const TWO_ROWS = { COLDPATH_SLOTS: "2" } as const;

const TOKENS = 160;
const WAITING = "coldpath_origin_num_requests_waiting";
const WAITING_TIMEOUT_MS = 5_000;
/** One step's tokens reach their readers over sockets of their own, a little apart. A step takes several times this. */
const SAME_STEP_MS = 1;

export async function countStepsToFree(
  origin: OriginUnderTest,
  {
    model,
    endTokens,
    round,
  }: { readonly model: string; readonly endTokens: readonly number[]; readonly round: number },
): Promise<number> {
  const ask = (prompt: string, tokens: number) => ({ model, prompt, ...exactly(tokens, endTokens) });
  const connection = new AbortController();
  const { promise: begun, resolve: begin } = Promise.withResolvers<void>();
  const victim = origin
    .stream("/v1/completions", ask(`Round ${round}: the victim tells a story`, TOKENS), {
      signal: connection.signal,
      onText: () => begin(),
    })
    .catch(() => undefined);
  await begun;

  let closing = false;
  let closedAtMs: number | undefined;
  const witness = origin.stream("/v1/completions", ask(`Round ${round}: the witness tells another`, TOKENS), {
    onText: () => {
      if (!closing || closedAtMs !== undefined) return;
      connection.abort();
      closedAtMs = performance.now();
    },
  });
  const third = origin.stream("/v1/completions", ask(String(round), 1));
  const deadline = performance.now() + WAITING_TIMEOUT_MS;
  while ((await origin.metrics()).get(WAITING) !== 1) {
    if (performance.now() > deadline) throw new Error("the third request did not wait for a row");
    await sleep(5);
  }
  closing = true;

  const [{ textAtMs: steps }, { textAtMs }] = await Promise.all([witness, third, victim]);
  const freedAtMs = (textAtMs[0] ?? Number.NaN) + SAME_STEP_MS;
  if (closedAtMs === undefined) throw new Error("the witness ended before the connection was closed");
  const from = closedAtMs;
  // On a crowded machine the witness's last token before the close may be read after it: never less than none.
  return Math.max(0, steps.filter((atMs) => atMs > from && atMs <= freedAtMs).length - 1);
}
