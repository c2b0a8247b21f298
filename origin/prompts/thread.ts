/** The tokenizer's thread: one long prompt after the other. Knows no requests, and not who asks. */
import { parentPort, workerData } from "node:worker_threads";
import { ColdpathError } from "../../shared/errors.ts";
import { loadTokenizer } from "../tokenize/tokenizer.ts";
import {
  encodeSource,
  type FromPromptThread,
  type PromptSource,
  type TokenizerFiles,
  type ToPromptThread,
} from "./messages.ts";

if (parentPort === null) throw new Error("prompts/thread.ts runs as a worker thread only");
const port = parentPort;
const { folder, tokens } = workerData as TokenizerFiles;
const tokenizer = loadTokenizer(folder, tokens);

port.on("message", (json: ToPromptThread) => {
  const answer = encode(json);
  port.postMessage(answer, answer.type === "encoded" ? [answer.ids.buffer] : []);
});

function encode(json: ToPromptThread): FromPromptThread {
  try {
    return { type: "encoded", ids: Int32Array.from(encodeSource(tokenizer, JSON.parse(json) as PromptSource)) };
  } catch (thrown) {
    if (!(thrown instanceof ColdpathError)) return { type: "failed", message: describe(thrown) };
    const { code, message, param } = thrown;
    return { type: "refused", code, message, param };
  }
}

function describe(thrown: unknown): string {
  return thrown instanceof Error ? (thrown.stack ?? thrown.message) : "something that is no Error was thrown";
}
