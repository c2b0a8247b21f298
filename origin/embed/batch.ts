/**
 * Which of the waiting texts are computed together. Texts of one length cost nothing beside each other but their own
 * tokens; a short one beside a long one is filled up to its length. So the next text is the one whose request has waited
 * longest for its turn, and its company is whatever is about as long, from any request. Pure: knows no model and no clock.
 */

export interface WaitingText {
  /** Requests take turns, so that a thousand texts of one do not keep another's only one waiting. */
  readonly request: number;
  readonly ids: readonly number[];
}

export interface BatchLimits {
  /** Tokens of a batch, the filling included; a single longer text runs by itself. */
  readonly tokensMax: number;
}

/** Of a batch's tokens, so much may be filling. */
const FILLING_MAX = 0.25;

/**
 * Chooses the next batch.
 *
 * @param waiting - in the order of arrival
 * @param lastTurn - when each request had its turn last: larger is later, absent is never
 * @returns some of them, the one whose turn it is first; empty where nothing waits
 */
export function nextBatch<Text extends WaitingText>(
  waiting: readonly Text[],
  lastTurn: ReadonlyMap<number, number>,
  { tokensMax }: BatchLimits,
): readonly Text[] {
  const turnOf = ({ request }: Text): number => lastTurn.get(request) ?? -1;
  const [head, ...rest] = waiting;
  if (head === undefined) return [];
  const first = rest.reduce((best, text) => (turnOf(text) < turnOf(best) ? text : best), head);
  const distance = ({ ids }: Text): number => Math.abs(ids.length - first.ids.length);
  const others = waiting.filter((text) => text !== first).toSorted((a, b) => distance(a) - distance(b));

  const batch = [first];
  let [longest, tokens] = [first.ids.length, first.ids.length];
  for (const text of others) {
    const { length } = text.ids;
    const padded = Math.max(longest, length) * (batch.length + 1);
    if (padded > tokensMax || tokens + length < padded * (1 - FILLING_MAX)) continue;
    batch.push(text);
    longest = Math.max(longest, length);
    tokens += length;
  }
  return batch;
}
