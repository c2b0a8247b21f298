/** Two edge processes and one real origin: what many ask at once is generated once, whoever leaves meanwhile. */
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Stack } from "../../infra/launch/stack.ts";
import { DEFAULT_MODEL } from "../setup/default-model.ts";
import { type RunningEdge, startEdge } from "../setup/edges.ts";
import { startPrivateStack } from "../setup/private-stack.ts";

let stack: Stack;
let second: RunningEdge;
let token: string;

/** A hundred at once on a busy machine may wait longer than the default for their first call, and then share no entry. */
const PATIENT = { COLDPATH_STORE_TIMEOUT_MS: "5000" };

beforeAll(async () => {
  stack = await startPrivateStack(PATIENT);
  const { originUrl, redisRestUrl = "" } = stack;
  const own = { ...PATIENT, COLDPATH_ORIGIN_URL: originUrl, COLDPATH_REDIS_REST_URL: redisRestUrl };
  second = await startEdge("workerd", { ...stack.secrets, ...own }, 1);
  token = await stack.token({ sub: "alice", tenant: "acme", plan: "bench" });
});
afterAll(async () => {
  await second.stop();
  await stack.stop();
});

/** The two edges in turn. */
function edgeOf(number: number): string {
  return number % 2 === 0 ? stack.edgeUrl : second.url;
}

function ask(edge: string, content: string, signal?: AbortSignal, lastEventId?: string): Promise<Response> {
  const body = {
    model: DEFAULT_MODEL,
    messages: [{ role: "user", content }],
    max_tokens: 120,
    temperature: 1,
    stream: true,
    stream_options: { include_usage: true },
  };
  return fetch(`${edge}/v1/chat/completions`, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      authorization: `Bearer ${token}`,
      ...(lastEventId === undefined ? {} : { "last-event-id": lastEventId }),
    },
    body: JSON.stringify(body),
    ...(signal === undefined ? {} : { signal }),
  });
}

interface Read {
  readonly id: string;
  readonly text: string;
  readonly done: boolean;
  readonly completionTokens: number;
}

async function read(response: Response): Promise<Read> {
  const data = (await response.text())
    .split("\n\n")
    .flatMap((event) => /^(?:id: .+\n)?data: (.*)$/s.exec(event)?.[1] ?? []);
  const chunks = data.filter((line) => line !== "[DONE]").map((line) => JSON.parse(line));
  return {
    id: chunks[0].id,
    text: chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""),
    done: data.at(-1) === "[DONE]",
    completionTokens: chunks.at(-1).usage.completion_tokens,
  };
}

/** Tokens that the origin generated for anybody. */
async function generatedTokens(): Promise<number> {
  const text = await (await fetch(`${stack.originUrl}/metrics`)).text();
  const lines = text.split("\n").filter((line) => /^coldpath_origin_generation_tokens_total[ {]/.test(line));
  expect(lines.length).toBeGreaterThan(0);
  return lines.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
}

test("a hundred identical cold prompts on two edges are one generation, and all of them stream", async () => {
  const before = await generatedTokens();
  const responses = await Promise.all(
    Array.from({ length: 100 }, (_, number) => ask(edgeOf(number), "Tell me a story about a lighthouse.")),
  );
  expect(responses.map(({ status }) => status)).toEqual(Array.from({ length: 100 }, () => 200));
  const caches = responses.map(({ headers }) => headers.get("x-cache"));
  const answers = await Promise.all(responses.map(read));

  const [first] = answers;
  for (const answer of answers) expect(answer).toEqual(first);
  expect(first?.done).toBe(true);
  // At temperature 1 two generations would not agree; and the origin counted the tokens of one.
  expect((await generatedTokens()) - before).toBe(first?.completionTokens);
  expect(caches.filter((cache) => cache === "MISS")).toHaveLength(1);
  // One that came last may find the answer stored already.
  expect(caches.filter((cache) => cache === "COALESCED").length).toBeGreaterThan(50);
});

test("two spellings of one prompt at the same time are one generation, where the operator says they are the same", async () => {
  const { originUrl, redisRestUrl = "", secrets } = stack;
  const own = { COLDPATH_ORIGIN_URL: originUrl, COLDPATH_REDIS_REST_URL: redisRestUrl, COLDPATH_NORMALIZE: "space" };
  const alike = await startEdge("workerd", { ...secrets, ...own }, 1);
  try {
    const before = await generatedTokens();
    const leader = await ask(alike.url, "Tell me a story about a caf\u00e9 at 12!");
    const followers = await Promise.all(
      ["Tell me a story about a cafe\u0301 at 12!", "  Tell me a story about a caf\u00e9 at \uff11\uff12\uff01\n"].map(
        (content) => ask(alike.url, content),
      ),
    );
    expect(followers.map(({ headers }) => headers.get("x-cache"))).toEqual(["COALESCED", "COALESCED"]);
    const answers = await Promise.all([leader, ...followers].map(read));
    for (const answer of answers) expect(answer).toEqual(answers[0]);
    expect((await generatedTokens()) - before).toBe(answers[0]?.completionTokens);
  } finally {
    await alike.stop();
  }
});

test("a leader that leaves takes no follower with it", async () => {
  const before = await generatedTokens();
  const leaving = new AbortController();
  const leader = await ask(edgeOf(0), "Tell me a story about a harbour.", leaving.signal);
  expect(leader.headers.get("x-cache")).toBe("MISS");
  await leader.body?.getReader().read();
  const followers = await Promise.all(
    [1, 2, 3].map((number) => ask(edgeOf(number), "Tell me a story about a harbour.")),
  );
  expect(followers.map(({ headers }) => headers.get("x-cache"))).toEqual(["COALESCED", "COALESCED", "COALESCED"]);
  leaving.abort();

  const [first, ...others] = await Promise.all(followers.map(read));
  expect(first?.done).toBe(true);
  for (const other of others) expect(other).toEqual(first);
  expect((await generatedTokens()) - before).toBe(first?.completionTokens);
});

test("a stream that was lost on one edge goes on through the other, live and from the region", async () => {
  const question = "Tell me a story about a ferry.";
  const before = await generatedTokens();
  const leaving = new AbortController();
  const lost = await ask(edgeOf(0), question, leaving.signal);
  // Who reads along keeps the generation alive while its first client is away.
  const whole = ask(edgeOf(0), question).then(read);
  const reader = lost.body?.pipeThrough(new TextDecoderStream()).getReader();
  let had = "";
  while (had.split("\n\n").length < 8) had += (await reader?.read())?.value ?? "";
  leaving.abort();
  const events = had.split("\n\n").slice(0, -1);
  const lastEventId = events.findLast((event) => event.startsWith("id: "))?.match(/^id: (.+)$/m)?.[1];

  const live = await ask(edgeOf(1), question, undefined, lastEventId);
  const liveText = await live.text();
  const replay = await ask(edgeOf(1), question, undefined, lastEventId);
  const { id, text, done } = await whole;
  expect([done, replay.headers.get("x-cache")]).toEqual([true, "HIT"]);
  // Two beginnings of one answer would be two texts at temperature 1; and the origin counted the tokens of one.
  for (const rest of [liveText, await replay.text()]) {
    const joined = await read(new Response(`${events.join("\n\n")}\n\n${rest}`));
    expect([joined.id, joined.text, joined.done]).toEqual([id, text, true]);
    expect(rest.length).toBeGreaterThan(0);
    expect(rest).not.toContain(events.at(-1));
  }
  const { completionTokens } = await whole;
  expect((await generatedTokens()) - before).toBe(completionTokens);
});
