/** The tokenizer's thread, on a tokenizer of bytes read from files, against the same tokenizer in this thread. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { CHAT_TEMPLATE_FILE, TOKENIZER_FILE } from "../../../origin/manifest/manifest.ts";
import { PromptEncoder, type PromptEncoderOptions } from "../../../origin/prompts/encoder.ts";
import type { PromptSource } from "../../../origin/prompts/messages.ts";
import { byteTokenizerSource, createByteTokenizer } from "../../fakes/byte-tokenizer.ts";

/** Refuses a user who says nothing else than "no". */
const TEMPLATE =
  "{% for message in messages %}{% if message['content'][:6] == 'refuse' %}{{ raise_exception('not this one') }}{% endif %}" +
  "{{ '<|im_start|>' + message['content'] + '<|im_end|>' }}{% endfor %}";
const tokenizer = createByteTokenizer({ chatTemplate: TEMPLATE });
const LONG = "a long prompt, letter by letter ".repeat(100);
/** Takes this thread seconds, so the other one too. */
const HOSTILE = " ".repeat(4_000_000);

function never(): AbortSignal {
  return new AbortController().signal;
}

function writeFiles(folder: string): void {
  const { tokenizerJson } = byteTokenizerSource();
  writeFileSync(join(folder, TOKENIZER_FILE), JSON.stringify(tokenizerJson));
  writeFileSync(join(folder, CHAT_TEMPLATE_FILE), TEMPLATE);
}

function createFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "coldpath-prompts-"));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  return folder;
}

function createEncoder(options: Partial<PromptEncoderOptions> & { readonly folder?: string } = {}): PromptEncoder {
  const { folder = createFolder(), ...changes } = options;
  if (options.folder === undefined) writeFiles(folder);
  const files = { folder, tokens: { bos: null, addBos: false } };
  const encoder = new PromptEncoder({ tokenizer, files, queueMax: 10, encodeMs: 60_000, ...changes });
  onTestFinished(() => encoder.stop());
  return encoder;
}

function ask(encoder: PromptEncoder, prompt: string, signal = never()): Promise<Int32Array> {
  return encoder.encode({ prompt }, signal);
}

test("tokenizes a short prompt itself, where no thread could start", async () => {
  const encoder = createEncoder({ folder: "/nowhere" });
  expect([...(await ask(encoder, "hi"))]).toEqual([104, 105]);
});

test.each<[string, PromptSource]>([
  ["text", { prompt: `${LONG}<|im_end|>漢字🙂` }],
  ["a conversation", { messages: [{ role: "user", content: `${LONG}<|im_end|>漢字🙂` }], tools: [] }],
])("gives the thread's ids of a long prompt of %s: those of the tokenizer in here", async (_, source) => {
  const own = "prompt" in source ? tokenizer.encodePrompt(source.prompt) : tokenizer.encodeChat(source.messages);
  expect(await createEncoder().encode(source, never())).toEqual(own);
});

test("passes on what the chat template says against a long conversation, and goes on", async () => {
  const encoder = createEncoder();
  const messages = [{ role: "user", content: `refuse ${LONG}` } as const];
  const refusal = { code: "invalid_request", param: "messages", message: expect.stringContaining("not this one") };
  await expect(encoder.encode({ messages, tools: [] }, never())).rejects.toMatchObject(refusal);
  expect(await ask(encoder, LONG)).toHaveLength(LONG.length);
});

test("lets the event loop turn while the thread works on a hostile prompt", async () => {
  const encoder = createEncoder();
  await ask(encoder, LONG);
  let turns = 0;
  const turning = setInterval(() => (turns += 1), 1);
  await ask(encoder, HOSTILE.slice(0, 500_000));
  clearInterval(turning);
  expect(turns).toBeGreaterThan(20);
});

test("takes the shortest of those that wait", async () => {
  const encoder = createEncoder();
  const order: string[] = [];
  const note = async (name: string, prompt: string) => {
    await ask(encoder, prompt);
    order.push(name);
  };
  await Promise.all([
    note("first", LONG.repeat(4)),
    note("longest", LONG.repeat(3)),
    note("shortest", LONG),
    note("middle", LONG.repeat(2)),
  ]);
  expect(order).toEqual(["first", "shortest", "middle", "longest"]);
});

test("refuses a prompt that takes too long, and does the next one in a new thread", async () => {
  const encoder = createEncoder({ encodeMs: 3_000 });
  await ask(encoder, LONG);
  const slow = ask(encoder, HOSTILE.repeat(4));
  await expect(slow).rejects.toMatchObject({ code: "invalid_request", message: expect.stringMatching(/3000 ms/) });
  expect(await ask(encoder, LONG)).toHaveLength(LONG.length);
});

test("refuses one more than may wait, and one that waited too long, with a time to come back", async () => {
  const encoder = createEncoder({ encodeMs: 3_000, queueMax: 1 });
  await ask(encoder, LONG);
  const busy = { code: "queue_full", retryAfterSeconds: 1 };
  const running = ask(encoder, HOSTILE.repeat(4)).catch((cause: unknown) => cause);
  const waiting = ask(encoder, LONG).catch((cause: unknown) => cause);
  await expect(ask(encoder, LONG)).rejects.toMatchObject(busy);
  expect(await running).toMatchObject({ code: "invalid_request" });
  // It became old in the moment the thread ended: refused, or the next thread's.
  const outcome = await waiting;
  if (!(outcome instanceof Int32Array)) expect(outcome).toMatchObject(busy);
});

test("forgets whoever leaves: while he waits at once, and while the thread is at it", async () => {
  const encoder = createEncoder();
  const [first, second] = [new AbortController(), new AbortController()];
  const running = ask(encoder, HOSTILE.slice(0, 500_000), first.signal);
  const waiting = ask(encoder, LONG, second.signal);
  const others = ask(encoder, LONG);
  second.abort(new Error("left the queue"));
  await expect(waiting).rejects.toThrow("left the queue");
  first.abort(new Error("left the thread"));
  await expect(running).rejects.toThrow("left the thread");
  expect(await others).toHaveLength(LONG.length);
  await expect(ask(encoder, LONG, AbortSignal.abort(new Error("came late")))).rejects.toThrow("came late");
});

test("ends what a dying thread had, and starts another for the next", async () => {
  const folder = createFolder();
  const encoder = createEncoder({ folder });
  // There is nothing to load: each thread dies, and takes one prompt with it.
  const lost = await Promise.allSettled([ask(encoder, LONG), ask(encoder, LONG)]);
  for (const outcome of lost) {
    expect(outcome).toMatchObject({ status: "rejected", reason: { code: "not_ready", retryAfterSeconds: 1 } });
  }
  writeFiles(folder);
  expect(await ask(encoder, LONG)).toHaveLength(LONG.length);
});

test("stops: whoever waits is told, and nobody else is let in", async () => {
  const encoder = createEncoder();
  const open = [ask(encoder, HOSTILE), ask(encoder, LONG)];
  const outcomes = Promise.allSettled(open);
  await encoder.stop();
  for (const outcome of await outcomes)
    expect(outcome).toMatchObject({ status: "rejected", reason: { code: "not_ready" } });
  await expect(ask(encoder, LONG)).rejects.toMatchObject({ code: "not_ready" });
});
