/**
 * coldpath's engine as the origin runs it (its own thread, the origin's settings), read through `EngineClient` without
 * HTTP or text. Started with an imported model's folder.
 */
import { ORIGIN_KNOBS } from "../../../origin/config.ts";
import { prepare } from "../../../origin/request/prepare.ts";
import { readManifest } from "../../../origin/manifest/manifest.ts";
import { serveModel } from "../../../origin/models/open.ts";
import { readKnobs } from "../../../shared/knobs.ts";
import { type Job, type JobResult, serveJobs } from "./contender.ts";

const [folder = ""] = process.argv.slice(2);
const fail = (problem: Error | string): never => {
  throw new Error(`the engine failed: ${String(problem)}`);
};
const config = readKnobs(ORIGIN_KNOBS, process.env);
const { model, engine } = await serveModel({
  config,
  folder,
  memory: { kvBytes: Infinity, prefixCacheBytes: config.prefixCacheBytes },
  onTrouble: fail,
  onCrash: fail,
  onRestart: () => {},
  onGiveUp: () => {},
});
const { ends } = readManifest(folder).tokens;

serveJobs(async (job: Job): Promise<JobResult> => {
  const start = performance.now();
  const streams = await Promise.all(job.prompts.map((prompt) => generate(prompt, job.tokens, start)));
  return { arrivals: streams.map(({ times }) => times), tokens: streams.map(({ tokens }) => tokens) };
});

async function generate(prompt: readonly number[], count: number, start: number) {
  const asked = await request(prompt, count);
  const times: number[] = [];
  const tokens: number[] = [];
  return new Promise<{ times: number[]; tokens: number[] }>((resolve, reject) => {
    engine.submit(asked, (event) => {
      if (event.type === "error") reject(event.error);
      else if (event.type === "finish") resolve({ times, tokens });
      else if (event.type === "token") {
        times.push(performance.now() - start);
        tokens.push(event.token);
      }
    });
  });
}

/** What the origin would make of a greedy request that end tokens don't end; its prompt is given as ids. */
async function request(prompt: readonly number[], maxTokens: number) {
  const body = {
    model: model.id,
    prompt: Array.from(prompt),
    max_tokens: maxTokens,
    temperature: 0,
    logit_bias: Object.fromEntries(ends.map((token) => [token, -100])),
  };
  const prompts = { encode: () => Promise.reject(new Error("ids need no tokenizer")) };
  const { signal } = new AbortController();
  const prepared = await prepare(body, { model, prompts, createSeed: () => 1, schemaBytesMax: 0, signal });
  const [answer] = prepared.answers;
  if (answer === undefined) throw new Error("one prompt has one answer");
  return answer.sequence;
}
