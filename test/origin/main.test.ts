/** The origin's process, started as the launcher starts it: what it says, how it ends, and that it never hangs. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, inject, onTestFinished, test } from "vitest";
import { readImportConfig } from "../../origin/import/config.ts";
import { ensureModel } from "../../origin/import/import.ts";
import { silentProgress } from "../../origin/import/progress/progress.ts";
import { importSignatureKey, signMessage } from "../../shared/signature.ts";
import { writeTinyBert } from "../fakes/tiny-bert.ts";
import { writeTinyCheckpoint } from "../fakes/tiny-checkpoint.ts";
import { writeHubCheckpoint } from "../fakes/tiny-hub-checkpoint.ts";

const MAIN = fileURLToPath(new URL("../../origin/main.ts", import.meta.url));
const SECRET = "0123456789abcdef0123456789abcdef";

interface Started {
  readonly child: ChildProcess;
  readonly lines: Readonly<Record<string, unknown>>[];
  readonly stderr: () => string;
  /** Exit code, or the signal's name. */
  readonly ended: Promise<unknown>;
}

function start(env: Readonly<Record<string, string>>, { ipc = false } = {}): Started {
  const child = spawn(process.execPath, [MAIN], {
    env: {
      PATH: process.env["PATH"],
      COLDPATH_ORIGIN_SECRET: SECRET,
      COLDPATH_ORIGIN_PORT: "0",
      COLDPATH_MODELS_DIR: dirname(inject("modelFolder")),
      COLDPATH_SLOTS: "4",
      COLDPATH_CONTEXT: "1024",
      COLDPATH_THREADS: "1",
      ...env,
    },
    stdio: ["ignore", "pipe", "pipe", ...(ipc ? (["ipc"] as const) : [])],
  });
  const lines: Readonly<Record<string, unknown>>[] = [];
  let stdout = "";
  let stderr = "";
  child.stdout?.on("data", (data: Buffer) => {
    const parts = (stdout + data.toString()).split("\n");
    stdout = parts.pop() ?? "";
    lines.push(...parts.map((part) => JSON.parse(part) as Record<string, unknown>));
  });
  child.stderr?.on("data", (data: Buffer) => (stderr += data.toString()));
  // Not "close": it never comes to a parent that disconnected.
  const streams = [child.stdout, child.stderr].filter((stream) => stream !== null);
  const closed = Promise.all(streams.map((stream) => once(stream, "close")));
  const ended = once(child, "exit").then(async ([code, signal]: unknown[]) => {
    await closed;
    return code ?? signal;
  });
  onTestFinished(() => void child.kill("SIGKILL"));
  return { child, lines, stderr: () => stderr, ended };
}

/** Waits for an event of the log; fails when the process ends first. */
async function logged({ lines, ended, stderr }: Started, event: string): Promise<Readonly<Record<string, unknown>>> {
  let isOver = false;
  void ended.then(() => (isOver = true));
  for (;;) {
    const line = lines.find((candidate) => candidate["event"] === event);
    if (line !== undefined) return line;
    if (isOver) throw new Error(`the origin ended before "${event}": ${stderr()}`);
    await sleep(5);
  }
}

async function ready(started: Started): Promise<string> {
  await logged(started, "ready");
  return `http://127.0.0.1:${String((await logged(started, "listening"))["port"])}`;
}

async function post(url: string, body: object): Promise<Response> {
  const bytes = new TextEncoder().encode(JSON.stringify({ model: "smollm2-135m-instruct", ...body }));
  const message = { method: "POST", path: "/v1/completions", requestId: crypto.randomUUID(), body: bytes };
  const key = await importSignatureKey(SECRET);
  const headers = await signMessage(key, message, Math.floor(Date.now() / 1000));
  const init = { method: "POST", headers: { ...headers, "content-type": "application/json" }, body: bytes };
  return fetch(`${url}/v1/completions`, init);
}

describe("what can't work ends with one sentence and exit code 1", () => {
  test.each([
    ["no secret", { COLDPATH_ORIGIN_SECRET: "" }, /^origin: COLDPATH_ORIGIN_SECRET must be set\n$/],
    [
      "a short secret",
      { COLDPATH_ORIGIN_SECRET: "hush" },
      /^origin: COLDPATH_ORIGIN_SECRET must be at least 32 bytes long\n$/,
    ],
    ["a knob that is no number", { COLDPATH_SLOTS: "many" }, /^origin: COLDPATH_SLOTS must be a whole number[^\n]*\n$/],
    [
      "an unknown runtime",
      { COLDPATH_RUNTIME: "cuda" },
      /^origin: COLDPATH_RUNTIME must be one of capi, binding[^\n]*\n$/,
    ],
    [
      "an unknown execution provider",
      { COLDPATH_EXECUTION_PROVIDER: "tpu" },
      /^origin: COLDPATH_EXECUTION_PROVIDER must be one of cpu, cuda, webgpu[^\n]*\n$/,
    ],
    [
      "more rows than a provider takes",
      { COLDPATH_EXECUTION_PROVIDER: "webgpu" },
      /^origin: COLDPATH_EXECUTION_PROVIDER=webgpu [^\n]*COLDPATH_SLOTS=1\n$/,
    ],
    [
      "a model that is not there",
      { COLDPATH_MODEL: "nobody" },
      /^origin: no imported model "nobody" in [^\n]*npm run model[^\n]*\n$/,
    ],
    ["a folder that is not there", { COLDPATH_MODELS_DIR: "/nowhere" }, /^origin: no imported model [^\n]*\n$/],
    [
      "a list with a hole",
      { COLDPATH_MODEL: "smollm2-135m-instruct, ," },
      /^origin: COLDPATH_MODEL has an empty name [^\n]*"smollm2-135m-instruct, ,"\n$/,
    ],
    [
      "a model named twice",
      { COLDPATH_MODEL: "smollm2-135m-instruct,smollm2-135m-instruct" },
      /^origin: COLDPATH_MODEL names "smollm2-135m-instruct" twice\n$/,
    ],
    [
      "one of two models that is not there",
      { COLDPATH_MODEL: "smollm2-135m-instruct,nobody" },
      /^origin: no imported model "nobody" in [^\n]*import nobody\n$/,
    ],
    [
      "models that do not fit",
      { COLDPATH_MEMORY_BYTES: "300000000" },
      /^origin: smollm2-135m-instruct needs \d+ MiB of memory, and 286 MiB can be had: lower COLDPATH_CONTEXT [^\n]*\n$/,
    ],
    [
      "more memory than there is",
      { COLDPATH_KV_BYTES: "1000000000000000" },
      /^origin: COLDPATH_KV_BYTES=1000000000000000 is more [^\n]*\n$/,
    ],
    [
      "memory for no row at all",
      { COLDPATH_KV_BYTES: "1000" },
      /^origin: COLDPATH_KV_BYTES=1000 is too little [^\n]*\n$/,
    ],
  ])("%s", async (_, env, sentence) => {
    const started = start(env);
    expect(await started.ended).toBe(1);
    expect(started.stderr()).toMatch(sentence);
    expect(started.stderr()).not.toContain("hush");
  });

  test("a model that an older import wrote", async () => {
    const models = mkdtempSync(join(tmpdir(), "coldpath-main-"));
    onTestFinished(() => rmSync(models, { recursive: true, force: true }));
    mkdirSync(join(models, "old"));
    writeFileSync(join(models, "old", "coldpath.json"), JSON.stringify({ importVersion: 1 }));
    const started = start({ COLDPATH_MODELS_DIR: models, COLDPATH_MODEL: "old" });
    expect(await started.ended).toBe(1);
    expect(started.stderr()).toMatch(/^origin: [^\n]* was written by another version of coldpath; import [^\n]*\n$/);
  });

  test("a port in use", async () => {
    const taken = createServer().listen(0, "127.0.0.1");
    await once(taken, "listening");
    onTestFinished(() => void taken.close());
    const started = start({ COLDPATH_ORIGIN_PORT: String((taken.address() as AddressInfo).port) });
    expect(await started.ended).toBe(1);
    expect(started.stderr()).toMatch(/^origin: the port is in use: [^\n]*COLDPATH_ORIGIN_PORT\n$/);
  });
});

test("the model may be named by the file it was imported from", async () => {
  const modelsDir = mkdtempSync(join(tmpdir(), "coldpath-main-"));
  onTestFinished(() => rmSync(modelsDir, { recursive: true }));
  const file = join(modelsDir, "My Tiny.gguf");
  writeTinyCheckpoint(file);
  const config = { ...readImportConfig({}), modelsDir };
  await ensureModel({ model: file, config, progress: silentProgress, fetch });
  const started = start({ COLDPATH_MODEL: file, COLDPATH_MODELS_DIR: modelsDir, COLDPATH_CONTEXT: "0" });
  expect(await logged(started, "ready")).toMatchObject({ model: "my-tiny" });
});

test("the model may be a checkpoint's folder, and answers as its GGUF does", async () => {
  const modelsDir = mkdtempSync(join(tmpdir(), "coldpath-main-"));
  onTestFinished(() => rmSync(modelsDir, { recursive: true }));
  const gguf = join(modelsDir, "tiny.gguf");
  writeTinyCheckpoint(gguf);
  const config = { ...readImportConfig({}), modelsDir };
  const { folder } = await ensureModel({ model: gguf, config, progress: silentProgress, fetch });
  const text = (name: string) => readFileSync(join(folder, name), "utf8");
  const checkpoint = join(modelsDir, "checkpoints", "Tiny-Hub");
  writeHubCheckpoint(checkpoint, { tokenizer: text("tokenizer.json"), chatTemplate: text("chat_template.jinja") });
  await ensureModel({ model: checkpoint, config, progress: silentProgress, fetch });
  const answers: string[] = [];
  for (const [path, model] of [
    [gguf, "tiny"],
    [checkpoint, "tiny-hub"],
  ] as const) {
    const started = start({ COLDPATH_MODEL: path, COLDPATH_MODELS_DIR: modelsDir });
    const reply = await post(await ready(started), { model, prompt: "Once upon", max_tokens: 12, temperature: 0 });
    expect(reply.status).toBe(200);
    answers.push(((await reply.json()) as { choices: [{ text: string }] }).choices[0].text);
    started.child.kill("SIGTERM");
    await started.ended;
  }
  expect(answers[0]).not.toBe("");
  expect(answers[1]).toBe(answers[0]);
});

describe("a list of models", () => {
  let modelsDir: string;
  beforeAll(async () => {
    modelsDir = mkdtempSync(join(tmpdir(), "coldpath-many-"));
    const config = { ...readImportConfig({}), modelsDir };
    writeTinyCheckpoint(join(modelsDir, "Alpha.gguf"));
    writeTinyCheckpoint(join(modelsDir, "beta.gguf"));
    writeTinyBert(join(modelsDir, "vectors"));
    for (const model of ["Alpha.gguf", "beta.gguf", "vectors"]) {
      const name = model === "vectors" ? { name: "tiny-bert" } : {};
      await ensureModel({ model: join(modelsDir, model), ...name, config, progress: silentProgress, fetch });
    }
  });
  afterAll(() => rmSync(modelsDir, { recursive: true }));
  const startList = (list: string) => start({ COLDPATH_MODEL: list, COLDPATH_MODELS_DIR: modelsDir });

  test("is served by one process, whatever blanks are around its names; the plan is told before anything is loaded", async () => {
    const started = startList(" alpha ,\n tiny-bert , beta ");
    await logged(started, "ready");
    await expect.poll(() => started.lines.filter(({ event }) => event === "ready").length, { timeout: 60_000 }).toBe(3);
    expect(started.lines.filter(({ event }) => event === "ready").map(({ model }) => model)).toEqual([
      "alpha",
      "tiny-bert",
      "beta",
    ]);
    expect(started.lines.map(({ event }) => event).slice(0, 2)).toEqual(["listening", "memory"]);
    expect(started.lines[1]?.["plan"]).toMatchObject([
      expect.stringMatching(/^alpha: weights /),
      expect.stringMatching(/^tiny-bert: weights /),
      expect.stringMatching(/^beta: weights /),
      expect.stringMatching(/^memory: /),
    ]);
    const url = `http://127.0.0.1:${String(started.lines[0]?.["port"])}`;
    await expect.poll(async () => (await fetch(`${url}/ready`)).status, { timeout: 60_000 }).toBe(200);
    for (const model of ["alpha", "beta"]) {
      const reply = await post(url, { model, prompt: "Once upon", max_tokens: 3, temperature: 0 });
      expect([reply.status, await reply.json()]).toMatchObject([200, { model }]);
    }
    expect((await post(url, { model: "tiny-bert", prompt: "x" })).status).toBe(400);
    expect((await post(url, { model: "gamma", prompt: "x" })).status).toBe(404);

    const running = await post(url, { model: "beta", prompt: "Once", max_tokens: 60, stream: true, ignore_eos: true });
    started.child.kill("SIGTERM");
    expect(await running.text()).toMatch(/data: \[DONE\]\n\n$/);
    expect(await started.ended).toBe(0);
  });

  test("ends in good order whenever it is told to while it loads", async () => {
    for (const afterMs of [0, 200, 400, 600]) {
      const started = startList("tiny-bert,alpha");
      await logged(started, "memory");
      await sleep(afterMs);
      started.child.kill("SIGTERM");
      expect([await started.ended, started.stderr()]).toEqual([0, ""]);
    }
  });

  test("may name a model by its file, but not once more by its name", async () => {
    const started = startList(`alpha,${join(modelsDir, "Alpha.gguf")}`);
    expect(await started.ended).toBe(1);
    expect(started.stderr()).toMatch(
      /^origin: COLDPATH_MODEL: "alpha" and "[^"\n]*Alpha.gguf" both have the name alpha[^\n]*\n$/,
    );
  });

  test("names a copy of a folder under another name, which is the same model", async () => {
    cpSync(join(modelsDir, "alpha"), join(modelsDir, "copy"), { recursive: true });
    onTestFinished(() => rmSync(join(modelsDir, "copy"), { recursive: true }));
    const started = startList("alpha,copy");
    expect(await started.ended).toBe(1);
    expect(started.stderr()).toMatch(/^origin: [^\n]*alpha and [^\n]*copy are both the model "alpha"[^\n]*\n$/);
  });

  test("with one damaged page or damaged weights serves none, and says which", async () => {
    cpSync(join(modelsDir, "beta"), join(modelsDir, "page"), { recursive: true });
    writeFileSync(join(modelsDir, "page", "coldpath.json"), "{");
    const page = startList("alpha,page");
    expect(await page.ended).toBe(1);
    expect(page.stderr()).toMatch(/^origin: [^\n]*page is not an imported model[^\n]*\n$/);
    expect(page.lines).toEqual([]);

    const damaged = join(modelsDir, "damaged");
    cpSync(join(modelsDir, "beta"), damaged, { recursive: true });
    const manifest = JSON.parse(readFileSync(join(damaged, "coldpath.json"), "utf8")) as object;
    writeFileSync(join(damaged, "coldpath.json"), JSON.stringify({ ...manifest, name: "damaged" }));
    truncateSync(join(damaged, "model.onnx.data"), 100);
    const cut = startList("alpha,damaged");
    expect(await cut.ended).toBe(1);
    expect(cut.stderr()).toMatch(/^origin: [^\n]*model.onnx.data is cut short[^\n]*\n$/);
  });
});

test("while the model loads it is healthy and not ready, then ready", async () => {
  const started = start({});
  const url = `http://127.0.0.1:${String((await logged(started, "listening"))["port"])}`;
  expect((await fetch(`${url}/health`)).status).toBe(200);
  const early = await fetch(`${url}/ready`);
  // The line was read while the model's thread had barely begun.
  expect([early.status, await early.json()]).toEqual([
    503,
    { status: "loading", models: { "smollm2-135m-instruct": "loading" } },
  ]);
  await logged(started, "ready");
  expect((await fetch(`${url}/ready`)).status).toBe(200);
});

test("a SIGTERM lets the running answer finish, takes no other, and ends with 0", async () => {
  const started = start({});
  const url = await ready(started);
  const running = await post(url, { prompt: "Once upon a time", max_tokens: 120, stream: true, temperature: 0 });
  started.child.kill("SIGTERM");
  await logged(started, "draining");
  const refused = await post(url, { prompt: "x", max_tokens: 1 });
  expect([refused.status, await refused.json()]).toMatchObject([503, { error: { code: "not_ready" } }]);
  expect((await fetch(`${url}/health`)).status).toBe(200);

  expect(await running.text()).toMatch(/data: \[DONE\]\n\n$/);
  expect(await started.ended).toBe(0);
  expect(started.stderr()).toBe("");
});

test("an answer that outlasts the drain ends with an error event", async () => {
  const started = start({ COLDPATH_ORIGIN_DRAIN_MS: "50" });
  const url = await ready(started);
  const endless = { prompt: "Once upon a time", max_tokens: 1000, stream: true, logit_bias: { "0": -100, "2": -100 } };
  const running = await post(url, endless);
  started.child.kill("SIGTERM");
  const text = await running.text();
  expect(text).toMatch(/event: error\ndata: \{"error":\{[^\n]*"code":"not_ready"[^\n]*\n\n$/);
  expect(text).not.toContain("[DONE]");
  expect(await started.ended).toBe(0);
});

test("it goes on when nobody reads its log any more, and still ends in good order", async () => {
  const started = start({});
  const url = await ready(started);
  started.child.stdout?.destroy();
  for (const prompt of ["one", "two", "three"]) {
    expect((await post(url, { prompt, max_tokens: 1 })).status).toBe(200);
  }
  started.child.kill("SIGTERM");
  expect(await started.ended).toBe(0);
});

test("it ends when the launcher that started it is gone", async () => {
  const started = start({}, { ipc: true });
  await ready(started);
  started.child.disconnect();
  expect(await started.ended).toBe(0);
});

test("a signal while the model loads ends it too", async () => {
  const started = start({});
  await logged(started, "listening");
  started.child.kill("SIGINT");
  expect(await started.ended).toBe(0);
});
