/**
 * A stream that its client lost goes on where it ended: wherever it was cut and however the rest is cut into events, the
 * two parts are the whole.
 */
import { array, assert, asyncProperty, boolean, integer, record, string, type Arbitrary } from "fast-check";
import OpenAI from "openai";
import { describe, expect, it } from "vitest";
import { readEventId, writeEventId } from "../../../edge/answer/event-id.ts";
import { ask, chat, createStack, STORES, token } from "../stack.ts";

interface Choice {
  readonly index: number;
  readonly text?: string;
  readonly delta?: {
    readonly role?: string;
    readonly content?: string;
    readonly tool_calls?: readonly {
      readonly index: number;
      readonly id?: string;
      readonly function: { readonly name?: string; readonly arguments: string };
    }[];
  };
  readonly finish_reason: string | null;
  readonly logprobs?: { readonly content?: readonly unknown[]; readonly tokens?: readonly unknown[] } | null;
}

interface Event {
  readonly id: string;
  readonly data: string;
}

/** The events of a stream, each with its id. */
async function eventsOf(response: Response): Promise<readonly Event[]> {
  const blocks = (await response.text()).split("\n\n").filter((block) => !block.startsWith(":") && block !== "");
  return blocks.map((block) => {
    // Not a dot: to an expression U+2028 ends a line, to an event stream it does not.
    const [, id = "", data = ""] = /^id: ([^\n]+)\ndata: ([^\n]+)$/.exec(block) ?? [];
    return { id, data };
  });
}

/** What a client has of an answer after these events; what comes twice is seen. */
function assemble(events: readonly Event[]): unknown {
  const said: Record<string, string[]> = {};
  const add = (name: string, value: string): void => void (said[name] ??= []).push(value);
  for (const { data } of events) {
    if (data === "[DONE]") {
      add("done", data);
      continue;
    }
    const { choices, usage, id } = JSON.parse(data) as { choices: Choice[]; usage?: unknown; id: string };
    if (choices.length === 0) add("usage", JSON.stringify(usage));
    for (const { index, delta, text, finish_reason: finish, logprobs } of choices) {
      add(`${index} text`, delta?.content ?? text ?? "");
      if (delta?.role !== undefined) add(`${index} role`, ` ${delta.role}`);
      if (finish !== null) add(`${index} finish`, ` ${finish}`);
      for (const entry of logprobs?.content ?? logprobs?.tokens ?? []) add(`${index} logprobs`, JSON.stringify(entry));
      for (const call of delta?.tool_calls ?? []) {
        if (call.id !== undefined) add(`${index} call ${call.index}`, `${call.id} ${call.function.name} `);
        add(`${index} call ${call.index}`, call.function.arguments);
      }
    }
    said["id"] = [id];
  }
  return Object.fromEntries(Object.entries(said).map(([name, values]) => [name, values.join("")]));
}

/** One choice as it was generated; as at the origin, either log probabilities or tool calls: its text token by token, then its calls piece by piece. */
const generated = record({
  tokens: array(string({ unit: "grapheme", maxLength: 3 }), { maxLength: 4 }),
  logprobs: boolean(),
  calls: array(array(string({ unit: "grapheme-ascii", maxLength: 3 }), { minLength: 1, maxLength: 3 }), {
    maxLength: 2,
  }),
}).filter(({ logprobs, calls }) => !logprobs || calls.length === 0);
type Generated = typeof generated extends Arbitrary<infer Value> ? Value : never;

function logprobOf(text: string) {
  return { token: text, logprob: -1, bytes: null, top_logprobs: [] };
}

/** The origin's events for one choice, `join` tokens in each. */
function originEvents(index: number, { tokens, logprobs, calls }: Generated, join: number): Choice[] {
  const base = { index, finish_reason: null, logprobs: null };
  const batches = Array.from({ length: Math.ceil(tokens.length / join) }, (_, at) =>
    tokens.slice(at * join, (at + 1) * join),
  );
  return [
    { ...base, delta: { role: "assistant", content: "" } },
    ...batches.map((batch) =>
      Object.assign(
        { index, finish_reason: null },
        {
          delta: { content: batch.join("") },
          logprobs: logprobs ? { content: batch.map(logprobOf), refusal: null } : null,
        },
      ),
    ),
    ...calls.flatMap(([first = "", ...more], call) => [
      {
        ...base,
        delta: {
          tool_calls: [
            { index: call, id: `call_${call}`, type: "function", function: { name: "f", arguments: first } },
          ],
        },
      },
      ...more.map((part) => ({ ...base, delta: { tool_calls: [{ index: call, function: { arguments: part } }] } })),
    ]),
    { ...base, delta: {}, finish_reason: calls.length > 0 ? "tool_calls" : "stop" },
  ];
}

/** All choices' events, one after the other in turn. */
function interleave(choices: readonly Choice[][]): Choice[][] {
  const longest = Math.max(...choices.map(({ length }) => length));
  return Array.from({ length: longest }, (_, at) => choices.flatMap((events) => events.slice(at, at + 1))).flatMap(
    (turn) => turn.map((choice) => [choice]),
  );
}

const UNLIMITED = {
  COLDPATH_PLANS: '{"default":{"requestsPerMinute":1000000,"tokensPerMinute":1000000000,"streamsMax":100}}',
};
const STREAM = { stream: true, stream_options: { include_usage: true } };

describe("a stream that was cut", () => {
  it("and what follows its Last-Event-ID are the whole, from the cache and from the origin, at every point", async () => {
    const stack = createStack({ bindings: UNLIMITED });
    let question = 0;
    await assert(
      asyncProperty(
        array(generated, { minLength: 1, maxLength: 3 }),
        integer({ min: 2, max: 3 }),
        async (choices, join) => {
          question += 1;
          const asked = chat(`question ${question}`, { n: choices.length, ...STREAM });
          stack.origin.script.answerId = `chatcmpl-${question}`;
          const events = (size: number) =>
            interleave(choices.map((choice, index) => originEvents(index, choice, size)));
          stack.origin.script.events = events(1);
          const live = await eventsOf(await ask(stack, asked));
          const replayed = await eventsOf(await ask(stack, asked));
          const whole = assemble(live);
          expect(assemble(replayed)).toEqual(whole);

          // The same answer, still being made for others: their next reader gets it in larger pieces.
          stack.origin.script.events = events(join);
          for (const first of [live, replayed]) {
            for (const [cut, { id }] of first.entries()) {
              const got = first.slice(0, cut + 1);
              for (const [wish, cache] of [
                ["", "HIT"],
                ["no-cache", "BYPASS"],
              ] as const) {
                const headers = { "last-event-id": id, ...(wish === "" ? {} : { "cache-control": wish }) };
                const response = await ask(stack, asked, { headers });
                expect(response.headers.get("x-cache")).toBe(cache);
                const rest = await eventsOf(response);
                const end = rest.at(-1)?.data;
                expect(end).toBe("[DONE]");
                const both = id.endsWith(":end") && got.at(-1)?.data === "[DONE]" ? got : [...got, ...rest];
                expect(assemble(both)).toEqual(whole);
              }
            }
          }
        },
      ),
      { numRuns: 40, examples: [[[{ tokens: ["\u2028"], logprobs: false, calls: [] }], 2]] },
    );
  });

  it.each(STORES)("goes on in the older form too, from both tiers, with its store in %s", async (store) => {
    const stack = createStack({ store });
    stack.origin.script.pieces = ["Cold ", "paths, ", "热路径"];
    const asked = { model: "tiny", prompt: "hi", ...STREAM };
    const options = { path: "/v1/completions" };
    const live = await eventsOf(await ask(stack, asked, options));
    expect(live.map(({ id }) => id)).toEqual([
      "cmpl-1:5",
      "cmpl-1:12",
      "cmpl-1:15",
      "cmpl-1:15.0.0.1",
      "cmpl-1:end",
      "cmpl-1:end",
    ]);
    const other = stack.newIsolate();
    const isolates =
      store === "memory"
        ? [stack]
        : [stack, { ...stack, fetch: (incoming: Request) => other.fetch(incoming, stack.waitUntil) }];
    for (const where of isolates) {
      const rest = await eventsOf(await ask(where, asked, { ...options, headers: { "last-event-id": "cmpl-1:12" } }));
      expect(assemble([...live.slice(0, 2), ...rest])).toEqual(assemble(live));
    }
    expect(stack.origin.asked).toHaveLength(1);
  });

  it("begins anew, under its own id, where the answer is another one", async () => {
    const stack = createStack();
    const asked = chat("hi", STREAM);
    const lost = { headers: { "last-event-id": "chatcmpl-of-yesterday:5" } };
    const made = await eventsOf(await ask(stack, asked, lost));
    expect(made[0]?.id).toMatch(/^chatcmpl-1:/);
    expect(assemble(made)).toMatchObject({ "0 text": "Cold paths, 热路径 🙂.", done: "[DONE]" });
    expect(assemble(await eventsOf(await ask(stack, asked, lost)))).toMatchObject({
      "0 text": "Cold paths, 热路径 🙂.",
    });
  });

  it("is billed, settled and kept as any other", async () => {
    const stack = createStack();
    stack.origin.script.answerId = "chatcmpl-x";
    const response = await ask(stack, chat("hi", STREAM), { headers: { "last-event-id": "chatcmpl-x:5" } });
    expect(assemble(await eventsOf(response))).toMatchObject({ "0 text": "paths, 热路径 🙂.".slice(-16) });
    await stack.settled();
    expect(stack.logs.at(-1)).toMatchObject({ ended: "complete", usedTokens: 11 });
    const kept = await (await ask(stack, chat("hi"))).json<{ choices: { message: { content: string } }[] }>();
    expect(kept.choices[0]?.message.content).toBe("Cold paths, 热路径 🙂.");
  });

  it("is no matter for a client that wants JSON, or says what nobody wrote", async () => {
    const stack = createStack();
    const whole = await (await ask(stack, chat("hi"))).text();
    const headers = { "last-event-id": "chatcmpl-1:5" };
    expect(await (await ask(stack, chat("hi"), { headers })).text()).toBe(whole);
    const replay = await (await ask(stack, chat("hi", STREAM))).text();
    const nonsense = [
      "",
      ":",
      "5",
      "chatcmpl-1:",
      "chatcmpl-1:x",
      "chatcmpl-1:-1",
      "chatcmpl-1:5.",
      "chatcmpl-1:1e9",
      "chatcmpl-1:1.2.3.4.5",
    ];
    for (const id of [...nonsense, `chatcmpl-1:${"1_".repeat(5_000)}`]) {
      const again = await ask(stack, chat("hi", STREAM), { headers: { "last-event-id": id } });
      expect(again.status).toBe(200);
      expect(await again.text()).toBe(replay);
    }
  });
});

it("OpenAI's client takes a stream with ids, as it comes and replayed", async () => {
  const stack = createStack();
  const whole: Generated = { tokens: ["Cold ", "paths, ", "热路径"], logprobs: false, calls: [] };
  stack.origin.script.events = interleave([originEvents(0, whole, 1)]);
  const apiKey = await token({ sub: "alice", tid: stack.tenant });
  const fetch = (url: string | URL | Request, init?: RequestInit): Promise<Response> =>
    stack.fetch(new Request(url, init));
  const client = new OpenAI({
    baseURL: "http://edge.test/v1",
    apiKey,
    maxRetries: 0,
    fetch,
    dangerouslyAllowBrowser: true,
  });
  const messages = [{ role: "user" as const, content: "hi" }];
  const read = async (): Promise<readonly [string, unknown]> => {
    const events = client.chat.completions.stream({ model: "tiny", messages, stream_options: { include_usage: true } });
    const { choices, usage, id } = await events.finalChatCompletion();
    return [choices[0]?.message.content ?? "", { usage, id }];
  };
  const live = await read();
  expect(live[0]).toBe("Cold paths, 热路径");
  expect(await read()).toEqual(live);
});

describe("an event's id", () => {
  it("is read as it was written", () => {
    const positions = [
      { begun: false, text: 0, logprobs: 0, calls: 0, finished: false },
      { begun: true, text: 0, logprobs: 0, calls: 0, finished: false },
      { begun: true, text: 10, logprobs: 0, calls: 20, finished: false },
      { begun: true, text: 100, logprobs: 7, calls: 0, finished: true },
    ];
    for (const delivered of [
      { answerId: "a-1", positions },
      { answerId: "a", positions: "end" as const },
    ]) {
      expect(readEventId(writeEventId(delivered) ?? null)).toEqual(delivered);
    }
  });

  it("is left out where the answer's own would end the line", () => {
    expect(writeEventId({ answerId: "a\ndata: x", positions: "end" })).toBeUndefined();
    expect(writeEventId({ answerId: "热", positions: "end" })).toBeUndefined();
  });
});
