/**
 * Something that generates tokens, in a process of its own, so that its threads and memory are not the benchmark's. The
 * three of them (coldpath's engine, node-llama-cpp, transformers.js) are given the same token ids and answer with the
 * times at which tokens came. Here are both ends of the pipe; how tokens are generated is each process's own file.
 */
import { fork } from "node:child_process";
import { once } from "node:events";
import type { StreamTimes } from "../streams.ts";
import { originEnvironment } from "./origin-under-test.ts";

export interface Job {
  /** Token ids, one prompt for each concurrent stream. */
  readonly prompts: readonly (readonly number[])[];
  /** Tokens to generate for each, end-of-text tokens included. */
  readonly tokens: number;
}

export interface JobResult extends StreamTimes {
  /** For each stream, what was generated. */
  readonly tokens: readonly (readonly number[])[];
}

export interface Contender {
  /** Runs all streams of a job at once; jobs one after the other. */
  run(job: Job): Promise<JobResult>;
  stop(): Promise<void>;
}

/** A job that takes longer than this has hung. */
const JOB_TIMEOUT_MS = 300_000;

/**
 * Starts a process and waits until it has loaded its model.
 *
 * @param file - one of the `*-process.ts` beside this file
 * @param knobs - of the origin, other than their defaults
 * @throws an Error with its last words when it ends
 */
export async function startContender(
  file: string,
  args: readonly string[],
  knobs: Readonly<Record<string, string>> = {},
): Promise<Contender> {
  const env = { ...originEnvironment(), ...knobs };
  const child = fork(new URL(file, import.meta.url), args, { env, stdio: ["ignore", "ignore", "pipe", "ipc"] });
  let words = "";
  child.stderr?.on("data", (bytes: Buffer) => (words = (words + bytes.toString()).slice(-2_000)));
  const exit = once(child, "exit");
  const ended = exit.then(() => Promise.reject(new Error(`${file} ended: ${words.trim()}`)));
  // It matters only to whoever waits for an answer.
  ended.catch(() => undefined);
  const next = async (): Promise<unknown> => {
    const signal = AbortSignal.timeout(JOB_TIMEOUT_MS);
    const [message] = (await Promise.race([once(child, "message", { signal }), ended])) as [unknown];
    return message;
  };
  await next();
  return {
    run: async (job) => {
      const answer = next();
      child.send(job);
      return (await answer) as JobResult;
    },
    stop: async () => {
      if (child.connected) child.disconnect();
      await exit;
    },
  };
}

/** The other end, in the process: answers jobs until the benchmark lets go. */
export function serveJobs(run: (job: Job) => Promise<JobResult>): void {
  process.on("message", (job: Job) => {
    void run(job).then((result) => process.send?.(result));
  });
  process.on("disconnect", () => process.exit());
  process.send?.("ready");
}
