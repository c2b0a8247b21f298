/** `npm run cache` as a process, against a server that answers as an edge does and keeps what it was asked. */
import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { decodeJwt } from "jose";
import { afterEach, beforeEach, expect, it } from "vitest";

interface Asked {
  readonly path: string;
  readonly body: unknown;
  readonly claims: Readonly<Record<string, unknown>>;
}

let server: Server;
let url: string;
let folder: string;
let asked: Asked[];
/** Answers in turn; then 200 with what was asked for. */
let replies: { readonly status: number; readonly headers?: Record<string, string>; readonly body: unknown }[];

async function bodyOf(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  return chunks.length === 0 ? undefined : JSON.parse(Buffer.concat(chunks).toString());
}

beforeEach(async () => {
  asked = [];
  replies = [];
  folder = await mkdtemp(join(tmpdir(), "coldpath-cache-"));
  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const body = await bodyOf(request);
    const claims = decodeJwt(request.headers.authorization?.slice("Bearer ".length) ?? "");
    asked.push({ path: request.url ?? "", body, claims });
    const reply = replies.shift() ?? { status: 200, headers: { "x-cache": "MISS" }, body: {} };
    response.writeHead(reply.status, reply.headers).end(JSON.stringify(reply.body));
  };
  server = createServer((request, response) => void answer(request, response));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterEach(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await rm(folder, { recursive: true });
});

function run(...args: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const program = join(import.meta.dirname, "../../infra/cache.ts");
  const env = { ...process.env, COLDPATH_JWT_SECRET: "a token secret of more than 32 bytes" };
  return new Promise((resolve) => {
    execFile(process.execPath, [program, ...args], { env }, (error, stdout, stderr) => {
      resolve({ code: typeof error?.code === "number" ? error.code : 0, stdout, stderr });
    });
  });
}

it("warms from a file: plain prompts and whole requests, once each, under the tenant's name", async () => {
  const file = join(folder, "prompts");
  await writeFile(file, '\nName three colours.\n{"messages":[{"role":"user","content":"hi"}],"seed":1}\n{"broken\n');
  replies.push({ status: 200, headers: { "x-cache": "HIT" }, body: {} });
  const whose = ["--tenant", "acme", "--model", "tiny", "--plan", "bench"];
  const { code, stdout, stderr } = await run("warm", file, ...whose, "--edge", url, "--at-once", "1");
  expect([code, stdout]).toEqual([1, "1 made, 1 known before, 1 failed\n"]);
  expect(stderr).toContain("line 4: it begins like JSON");
  expect(asked.map(({ path, body }) => [path, body])).toEqual([
    ["/generate", { prompt: "Name three colours.", model: "tiny" }],
    ["/v1/chat/completions", { model: "tiny", messages: [{ role: "user", content: "hi" }], seed: 1 }],
  ]);
  expect(asked[0]?.claims).toMatchObject({ tid: "acme", plan: "bench", scope: "chat" });
});

it("waits where a limit says so, and reports what can't be answered", async () => {
  const file = join(folder, "prompts");
  await writeFile(file, "one\ntwo\n");
  replies.push(
    { status: 429, headers: { "retry-after": "1" }, body: { error: { message: "later" } } },
    { status: 200, headers: { "x-cache": "MISS" }, body: {} },
    { status: 400, body: { error: { message: "too long" } } },
  );
  const { code, stdout, stderr } = await run("warm", file, "--tenant", "acme", "--edge", url, "--at-once", "1");
  expect([code, stdout]).toEqual([1, "1 made, 0 known before, 1 failed\n"]);
  expect(stderr).toContain("line 2: too long");
  expect(asked).toHaveLength(3);
});

it("purges and counts with an administrator's token", async () => {
  replies.push({ status: 200, body: { purged: 3 } }, { status: 200, body: { answers: 7 } });
  expect((await run("purge", "--tenant", "acme", "--model", "tiny", "--edge", url)).stdout).toBe("3 answers purged\n");
  expect((await run("stats", "--tenant", "a&b", "--edge", url)).stdout).toBe("7 answers\n");
  expect(asked.map(({ path, body, claims }) => [path, body, claims["scope"]])).toEqual([
    ["/admin/purge", { tenant: "acme", model: "tiny" }, "admin"],
    ["/admin/stats?tenant=a%26b", undefined, "admin"],
  ]);
});

it("lists what was asked most, and warms with it", async () => {
  const questions = [
    { times: 41.26, path: "/v1/chat/completions", body: { model: "old", messages: [], seed: 1 } },
    { times: 2, path: "/generate", body: { prompt: "hi" } },
  ];
  replies.push({ status: 200, body: { questions } }, { status: 200, body: { questions } });
  const listed = await run("top", "--tenant", "a&b", "--count", "7", "--edge", url);
  expect(listed.stdout.split("\n")[0]).toBe('    41.3  /v1/chat/completions  {"model":"old","messages":[],"seed":1}');
  replies.push(
    { status: 200, headers: { "x-cache": "HIT" }, body: {} },
    { status: 400, body: { error: { message: "too long" } } },
  );
  const whose = ["--tenant", "a&b", "--model", "new"];
  const { code, stdout, stderr } = await run("warm", "--top", "2", ...whose, "--edge", url, "--at-once", "1");
  expect([code, stdout]).toEqual([1, "0 made, 1 known before, 1 failed\n"]);
  expect(stderr).toContain("question 2: too long");
  expect(asked.map(({ path, body, claims }) => [path, body, claims["scope"]])).toEqual([
    ["/admin/top?tenant=a%26b&count=7", undefined, "admin"],
    ["/admin/top?tenant=a%26b&count=2", undefined, "admin"],
    ["/v1/chat/completions", { model: "new", messages: [], seed: 1 }, "chat"],
    ["/generate", { prompt: "hi", model: "new" }, "chat"],
  ]);
});

it("says what is wrong in one sentence, and purges nothing by mistake", async () => {
  const cases: readonly [readonly string[], number, string][] = [
    [["purge"], 2, "purge what?"],
    [["purge", "--everything", "--tenant", "acme"], 2, "--everything goes with nothing else"],
    [["warm"], 2, "warm from what?"],
    [["warm", "x", "--top", "3", "--tenant", "acme"], 2, "warm from what?"],
    [["warm", "--top", "many", "--tenant", "acme"], 2, "--top is a whole number"],
    [["top"], 2, "--tenant"],
    [["top", "--tenant", "acme", "--count", "0"], 2, "--count is a whole number"],
    [["warm", "x"], 2, "--tenant"],
    [["warm", "/nowhere", "--tenant", "acme"], 1, "/nowhere can't be read"],
    [["warm", "x", "--tenant", "acme", "--at-once", "0"], 2, "--at-once"],
    [["melt"], 2, 'no command "melt"'],
    [["stats", "--tenat", "x"], 2, "--help lists the arguments"],
    [["stats", "--edge", "http://127.0.0.1:9"], 1, "can't be reached"],
  ];
  for (const [args, code, message] of cases) {
    const ended = await run(...args, ...(args.includes("--edge") ? [] : ["--edge", url]));
    expect([ended.code, ended.stderr.split("\n")[0]]).toEqual([code, expect.stringContaining(message)]);
  }
  expect(asked).toHaveLength(0);
  replies.push({ status: 503, body: { error: { message: "the regional store can't be reached" } } });
  const refused = await run("purge", "--everything", "--edge", url);
  expect([refused.code, refused.stderr]).toEqual([1, "the edge refused: the regional store can't be reached\n"]);
});
