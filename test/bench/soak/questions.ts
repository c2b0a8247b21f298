/**
 * What a soak asks: a seeded mixture of everything an origin meets, good and bad, each with the answers it may get.
 * Draws questions; sends none.
 */
import type { Random } from "../../../origin/engine/random.ts";
import type { EdgeContext } from "../../../shared/edge-context.ts";

export interface Question {
  readonly kind: Kind;
  readonly path: string;
  readonly body: object | string;
  /** Statuses that are right. */
  readonly statuses: readonly number[];
  readonly context?: EdgeContext;
  /** The connection is closed: before the answer, or at its first byte. */
  readonly leave?: "at once" | "midway";
  readonly unsigned?: boolean;
}

/** How often each kind is drawn, of the sum. */
const WEIGHTS = {
  "short, JSON": 20,
  "short, streamed": 20,
  "long prompt": 10,
  "long answer": 6,
  "same question at once": 8,
  "several answers": 4,
  sampled: 8,
  "leaves at once": 5,
  "leaves midway": 9,
  "not JSON": 2,
  "wrong type": 2,
  "too long": 2,
  "another model": 1,
  "unknown token": 1,
  "no such route": 1,
  unsigned: 1,
} as const;
type Kind = keyof typeof WEIGHTS;
const TOTAL = Object.values(WEIGHTS).reduce((sum, weight) => sum + weight, 0);

const CHAT = "/v1/chat/completions";
const TENANTS = 8;
/** Questions that several ask at the same time. */
const SHARED_QUESTIONS = 4;

/** @param contextTokens - of the model; its vocabulary has about one token a letter */
export function drawQuestion(
  random: Random,
  { model, contextTokens }: { readonly model: string; readonly contextTokens: number },
): Question {
  const between = (low: number, high: number) => low + Math.floor(random() * (high - low));
  const letters = (count: number) =>
    Array.from({ length: count }, () => String.fromCharCode(97 + between(0, 26))).join("");
  const kind = drawKind(random);
  const context = { tenant: `tenant-${String(between(0, TENANTS)).padStart(16, "0")}` };
  const chat = (content: string, more: object): Pick<Question, "kind" | "path" | "body" | "context"> => ({
    kind,
    path: CHAT,
    body: { model, messages: [{ role: "user", content }], temperature: 0, ...more },
    context,
  });
  const short = (more: object) => chat(letters(between(1, 40)), { max_tokens: between(1, 12), ...more });
  const good = { statuses: [200] };
  const refused = { statuses: [400] };
  switch (kind) {
    case "short, JSON":
      return { ...short({}), ...good };
    case "short, streamed":
      return { ...short({ stream: true }), ...good };
    case "long prompt":
      return { ...chat(letters(between(100, contextTokens - 40)), { max_tokens: 2, stream: true }), ...good };
    case "long answer":
      return { ...chat(letters(8), { max_tokens: between(40, 120), stream: random() < 0.5 }), ...good };
    case "same question at once": {
      const which = between(0, SHARED_QUESTIONS);
      const digest = `question-${String(which).padStart(32, "0")}`;
      return {
        ...chat(`the shared question ${which}`, { max_tokens: 16, stream: true }),
        context: { ...context, tenant: "tenant-of-the-shared", digest },
        ...good,
      };
    }
    case "several answers":
      return { ...short({ n: between(2, 4), temperature: 1, seed: between(0, 1000) }), ...good };
    case "sampled":
      return {
        ...short({
          temperature: 0.2 + random(),
          top_p: 0.5 + random() / 2,
          top_k: between(1, 50),
          frequency_penalty: random(),
          presence_penalty: random(),
          logit_bias: { [between(3, 200)]: 5 },
          stop: [letters(1)],
          stream: random() < 0.5,
        }),
        ...good,
      };
    case "leaves at once":
      return { ...chat(letters(60), { max_tokens: 100, stream: random() < 0.5 }), ...good, leave: "at once" };
    case "leaves midway":
      return { ...chat(letters(20), { max_tokens: 150, stream: true }), ...good, leave: "midway" };
    case "not JSON":
      return { kind, path: CHAT, body: `{"model": "${letters(8)}`, ...refused };
    case "wrong type":
      return { kind, path: CHAT, body: { model, messages: letters(8), max_tokens: "many" }, ...refused };
    case "too long":
      return { ...chat(letters(contextTokens * 8), { max_tokens: 4 }), ...refused };
    case "another model":
      return { ...short({ model: letters(12) }), statuses: [404] };
    case "unknown token":
      return { ...short({ logit_bias: { 999999: 1 } }), ...refused };
    case "no such route":
      return { kind, path: `/v1/${letters(6)}`, body: {}, statuses: [404] };
    case "unsigned":
      return { ...short({}), statuses: [401, 403], unsigned: true };
    default:
      return kind satisfies never;
  }
}

function drawKind(random: Random): Kind {
  let left = random() * TOTAL;
  for (const [kind, weight] of Object.entries(WEIGHTS) as [Kind, number][]) {
    left -= weight;
    if (left < 0) return kind;
  }
  return "short, JSON";
}
