/** What an isolate's memory takes after a million distinct prompts, as V8 counts it, here in Node. */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import type { Row } from "./report.ts";

const PROMPTS = 1_000_000;
const FORM = { type: "json" } as const;
/** The knobs' defaults. */
const SETTINGS = { isolateQuestionBytesMax: 16_777_216, isolateAnswerBytesMax: 25_165_824 };

/** The part of `edge/cache/memory.ts` that is called. The edge is compiled for Workers, so its types stay there. */
interface IsolateModule {
  readonly IsolateMemory: new (settings: typeof SETTINGS) => {
    keepQuestion(tenant: string, path: string, text: string, question: object): void;
    keepReply(digest: string, form: object, reply: object): void;
    reply(digest: string, form: object, nowMs: number): unknown;
  };
}

/** Feeds a memory of the default size a million prompts of a kilobyte, with answers of half of that. */
export async function isolateMemoryRow(): Promise<Row> {
  const module = new URL("../../edge/cache/memory.ts", import.meta.url).href;
  const { IsolateMemory } = (await import(module)) as IsolateModule;
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const memory = new IsolateMemory(SETTINGS);
  collect();
  const before = process.memoryUsage().heapUsed;
  const startMs = performance.now();
  let half = 0;
  for (let prompt = 0; prompt < PROMPTS; prompt++) {
    const digest = digestOf(prompt);
    const question = { digest, form: FORM, modelId: "bench", modelDigest: "bench" };
    memory.keepQuestion("bench", "/v1/chat/completions", unshared(digest, 1_000), question);
    const body = unshared(digest, 500);
    memory.keepReply(digest, FORM, { body, storedAt: 0, expiresMs: Infinity, generation: "" });
    if (prompt === PROMPTS / 2) {
      collect();
      half = process.memoryUsage().heapUsed;
    }
  }
  const microseconds = ((performance.now() - startMs) / PROMPTS) * 1000;
  collect();
  const used = process.memoryUsage().heapUsed;
  // Keeps the memory alive until here, and shows that the last prompt is still known.
  if (memory.reply(digestOf(PROMPTS - 1), FORM, 0) === undefined) throw new Error("the isolate keeps nothing");
  return {
    label: "isolate memory, distinct prompts",
    figures: {
      "MiB after 500,000": (half - before) / 2 ** 20,
      "MiB after 1,000,000": (used - before) / 2 ** 20,
      "µs a prompt": microseconds,
    },
  };
}

function digestOf(prompt: number): string {
  return String(prompt).padStart(43, "-");
}

/** A text of its own, not a rope over a shared one. */
function unshared(seed: string, bytes: number): string {
  return Buffer.alloc(bytes, seed).toString("latin1");
}
