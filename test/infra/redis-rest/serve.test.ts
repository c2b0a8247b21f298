/** redis-rest through its front door: plain HTTP as an attacker or a tired beginner sends it, and a real Redis. */
import { randomUUID } from "node:crypto";
import { connect } from "node:net";
import { describe, expect, inject, it } from "vitest";

const { url, token, readToken } = inject("redisRest");

interface Answer {
  readonly status: number;
  readonly body: unknown;
}

interface AskInit extends RequestInit {
  readonly bearer?: string;
  readonly headers?: Record<string, string>;
}

async function ask(path: string, init: AskInit = {}): Promise<Answer> {
  const { bearer = token, headers, ...rest } = init;
  const response = await fetch(`${url}${path}`, {
    ...rest,
    headers: { authorization: `Bearer ${bearer}`, ...headers },
  });
  return { status: response.status, body: await response.json() };
}

function post(path: string, body: unknown, headers: Record<string, string> = {}): Promise<Answer> {
  return ask(path, { method: "POST", body: typeof body === "string" ? body : JSON.stringify(body), headers });
}

function read(command: unknown): Promise<Answer> {
  return ask("/", { method: "POST", body: JSON.stringify(command), bearer: readToken });
}

function freshKey(): string {
  return `test:${randomUUID()}`;
}

describe("commands", () => {
  it("runs a command sent as a JSON array", async () => {
    const key = freshKey();
    expect(await post("/", ["SET", key, "value", "EX", 100])).toEqual({ status: 200, body: { result: "OK" } });
    expect(await post("/", ["TTL", key])).toEqual({ status: 200, body: { result: 100 } });
    expect(await post("/", ["GET", key])).toEqual({ status: 200, body: { result: "value" } });
  });

  it("runs a command spelled in the path, the query's options last", async () => {
    const key = freshKey();
    expect(await ask(`/set/${key}/a%2Fb%20c?EX=100&NX`)).toEqual({ status: 200, body: { result: "OK" } });
    expect(await ask(`/set/${key}/other?EX=100&NX`)).toEqual({ status: 200, body: { result: null } });
    expect(await ask(`/get/${key}`)).toEqual({ status: 200, body: { result: "a/b c" } });
    expect(await ask(`/ttl/${key}`)).toEqual({ status: 200, body: { result: 100 } });
  });

  it("appends the body of a path command as one argument before the query's options", async () => {
    const key = freshKey();
    await post(`/set/${key}?EX=50`, `{"json": true}`);
    expect(await ask(`/get/${key}`)).toEqual({ status: 200, body: { result: `{"json": true}` } });
    expect(await ask(`/ttl/${key}`)).toEqual({ status: 200, body: { result: 50 } });
  });

  it("leaves replies unreshaped", async () => {
    const key = freshKey();
    await post("/", ["HSET", key, "field", "1", "other", "two"]);
    expect(await post("/", ["HGETALL", key])).toEqual({
      status: 200,
      body: { result: ["field", "1", "other", "two"] },
    });
    expect(await post("/", ["HGETALL", freshKey()])).toEqual({ status: 200, body: { result: [] } });
  });

  it("passes an error reply through with status 400", async () => {
    const key = freshKey();
    await post("/", ["SET", key, "text"]);
    expect(await post("/", ["INCR", key])).toEqual({
      status: 400,
      body: { error: "ERR value is not an integer or out of range" },
    });
    const unknown = await post("/", ["FROBNICATE"]);
    expect(unknown.status).toBe(400);
    expect(unknown.body).toMatchObject({ error: expect.stringContaining("unknown command") as string });
  });

  it("answers HEAD like GET, without the body", async () => {
    const response = await fetch(`${url}/ping?_token=${token}`, { method: "HEAD" });
    expect(response.status).toBe(200);
    expect(await response.text()).toBe("");
  });
});

describe("bytes", () => {
  const allBytes = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
  const base64 = { "upstash-encoding": "base64" };

  it("stores a body's bytes and gives all 256 back in base64", async () => {
    const key = freshKey();
    await ask(`/set/${key}`, { method: "POST", body: allBytes });
    const { body } = await ask(`/get/${key}`, { headers: base64 });
    expect(body).toEqual({ result: allBytes.toString("base64") });
    expect((await ask(`/strlen/${key}`)).body).toEqual({ result: 256 });
  });

  it("takes all 256 bytes percent-encoded in the path", async () => {
    const key = freshKey();
    const encoded = [...allBytes].map((byte) => `%${byte.toString(16).padStart(2, "0")}`).join("");
    await ask(`/set/${key}/${encoded}`);
    expect((await ask(`/get/${key}`, { headers: base64 })).body).toEqual({ result: allBytes.toString("base64") });
  });

  it("gives bytes back whole from inside lists and transactions", async () => {
    const key = freshKey();
    await ask(`/rpush/${key}`, { method: "POST", body: allBytes });
    const expected = [allBytes.toString("base64")];
    expect((await post("/", ["LRANGE", key, 0, -1], base64)).body).toEqual({ result: expected });
    expect((await post("/multi-exec", [["LRANGE", key, 0, -1]], base64)).body).toEqual([{ result: expected }]);
    expect((await post("/pipeline", [["LRANGE", key, 0, -1]], base64)).body).toEqual([{ result: expected }]);
  });

  it("encodes a value that reads OK, and leaves only the status OK readable", async () => {
    const key = freshKey();
    expect((await post("/", ["SET", key, "OK"], base64)).body).toEqual({ result: "OK" });
    expect((await post("/", ["GET", key], base64)).body).toEqual({ result: "T0s=" });
  });

  it("hands a script its last argument as bytes", async () => {
    const { body } = await post("/", ["SCRIPT", "LOAD", "return {#ARGV[1], ARGV[1]}"]);
    const sha = (body as { result: string }).result;
    const answer = await ask(`/evalsha/${sha}/0`, { method: "POST", body: allBytes, headers: base64 });
    expect(answer.body).toEqual({ result: [256, allBytes.toString("base64")] });
  });
});

describe("pipelines and transactions", () => {
  it("answers each command of a pipeline, the failed ones too", async () => {
    const key = freshKey();
    const { status, body } = await post("/pipeline", [
      ["SET", key, "a"],
      ["INCR", key],
      ["GET", key],
      ["CONFIG", "GET", "*"],
    ]);
    expect(status).toBe(200);
    expect(body).toEqual([
      { result: "OK" },
      { error: "ERR value is not an integer or out of range" },
      { result: "a" },
      { error: `ERR "config" is not available over redis-rest` },
    ]);
  });

  it("runs none of a transaction when Redis refuses one of its commands", async () => {
    const key = freshKey();
    const { status, body } = await post("/multi-exec", [["SET", key, "a"], ["FROBNICATE"]]);
    expect(status).toBe(400);
    expect(body).toEqual({ error: "EXECABORT Transaction discarded because of previous errors." });
    expect((await post("/", ["EXISTS", key])).body).toEqual({ result: 0 });
  });

  it("runs none of a transaction when redis-rest refuses one of its commands", async () => {
    const key = freshKey();
    expect(
      (
        await post("/multi-exec", [
          ["SET", key, "a"],
          ["SUBSCRIBE", "x"],
        ])
      ).status,
    ).toBe(400);
    expect((await post("/", ["EXISTS", key])).body).toEqual({ result: 0 });
  });

  it("keeps concurrent pipelines and transactions apart", async () => {
    const runs = Array.from({ length: 60 }, async (_, run) => {
      const key = freshKey();
      const commands = Array.from({ length: 20 }, () => ["APPEND", key, `${run};`]);
      const { body } = await post(run % 2 === 0 ? "/pipeline" : "/multi-exec", [...commands, ["GET", key]]);
      const results = (body as { result: unknown }[]).map(({ result }) => result);
      const size = `${run};`.length;
      expect(results).toEqual([...commands.map((_c, index) => (index + 1) * size), `${run};`.repeat(20)]);
    });
    await Promise.all(runs);
  });

  it("never lets another request between the commands of a transaction", async () => {
    const key = freshKey();
    const transaction = [
      ["GET", key],
      ["INCR", key],
      ["INCR", key],
      ["GET", key],
    ];
    const noise = Array.from({ length: 50 }, () => post("/", ["INCR", key]));
    const transactions = await Promise.all(Array.from({ length: 50 }, () => post("/multi-exec", transaction)));
    await Promise.all(noise);
    for (const { body } of transactions) {
      const [before, , , after] = (body as { result: string | null }[]).map(({ result }) => Number(result ?? 0));
      expect(after).toBe((before ?? Number.NaN) + 2);
    }
    expect((await post("/", ["GET", key])).body).toEqual({ result: "150" });
  });
});

describe("refusals", () => {
  it.each([
    ["no token", {}],
    ["another token", { authorization: `Bearer ${"x".repeat(48)}` }],
    ["a prefix of the token", { authorization: `Bearer ${token.slice(0, -1)}` }],
    ["another scheme", { authorization: `Basic ${token}` }],
    ["an empty token", { authorization: "Bearer " }],
  ])("answers 401 to %s", async (_, headers) => {
    const response = await fetch(`${url}/ping`, { headers });
    expect(response.status).toBe(401);
    expect(await response.json()).toMatchObject({ error: expect.stringContaining("WRONGPASS") as string });
  });

  it("takes the token from the query, and does not hand it to Redis", async () => {
    const response = await fetch(`${url}/echo/hello?_token=${token}`);
    expect(await response.json()).toEqual({ result: "hello" });
  });

  it.each([
    ["text that is no JSON", `["GET",`],
    ["an object", `{"command":"GET"}`],
    ["a bare string", `"GET"`],
    ["an empty array", `[]`],
    ["an empty name", `[""]`],
    ["null among the arguments", `["GET",null]`],
    ["a nested array", `["GET",["a"]]`],
    ["a number that JSON rounds", `["SET","a",12345678901234567890]`],
  ])("answers 400 to %s as a command", async (_, body) => {
    const answer = await post("/", body);
    expect(answer.status).toBe(400);
    expect(answer.body).toMatchObject({ error: expect.stringMatching(/^ERR /) as string });
  });

  it.each([
    ["no array", `{}`],
    ["nothing in it", `[]`],
    ["a command that is none", `["GET","a"]`],
    ["more commands than the limit", JSON.stringify(Array.from({ length: 1_001 }, () => ["PING"]))],
  ])("answers 400 to a pipeline with %s", async (_, body) => {
    expect((await post("/pipeline", body)).status).toBe(400);
    expect((await post("/multi-exec", body)).status).toBe(400);
  });

  it("answers 400 to an empty command in the path", async () => {
    expect((await ask("/")).status).toBe(400);
    expect((await ask("//x")).status).toBe(400);
  });

  it("answers 405 to other methods, and to a pipeline that is not posted", async () => {
    expect((await ask("/get/a", { method: "DELETE" })).status).toBe(405);
    expect((await ask("/pipeline")).status).toBe(405);
  });

  it.each([
    ["SUBSCRIBE", "a"],
    ["PSUBSCRIBE", "a*"],
    ["MONITOR"],
    ["BLPOP", "a", "0"],
    ["BRPOPLPUSH", "a", "b", "0"],
    ["XREAD", "BLOCK", "0", "STREAMS", "a", "$"],
    ["WAIT", "1", "0"],
    ["SELECT", "1"],
    ["AUTH", "x"],
    ["HELLO", "3"],
    ["CLIENT", "REPLY", "OFF"],
    ["MULTI"],
    ["EXEC"],
    ["WATCH", "a"],
    ["QUIT"],
    ["RESET"],
    ["SCRIPT", "debug", "yes"],
    ["config", "set", "dir", "/"],
    ["SHUTDOWN", "NOSAVE"],
    ["DEBUG", "SLEEP", "1"],
    ["ACL", "LIST"],
    ["REPLICAOF", "127.0.0.1", "1"],
    ["SAVE"],
  ])("refuses %s", async (...command) => {
    const answer = await post("/", command);
    expect(answer.status).toBe(400);
    expect(answer.body).toMatchObject({ error: expect.stringContaining("is not available over redis-rest") as string });
  });

  it("lets commands through that only look like refused ones", async () => {
    const key = freshKey();
    expect((await post("/", ["XADD", key, "*", "field", "block"])).status).toBe(200);
    expect((await post("/", ["XREAD", "COUNT", "1", "STREAMS", key, "0"])).status).toBe(200);
    expect((await post("/", ["PUBLISH", "channel", "message"])).body).toEqual({ result: 0 });
  });

  it("answers 413 to a body over the limit, announced or not", async () => {
    const big = "x".repeat(5 * 1024 * 1024);
    expect((await post("/set/a", big)).status).toBe(413);
    const chunked = new ReadableStream({
      start(controller) {
        controller.enqueue(new TextEncoder().encode(big));
        controller.close();
      },
    });
    expect((await ask("/set/a", { method: "POST", body: chunked, duplex: "half" })).status).toBe(413);
  });

  it("outlives a client that goes away in the middle of its body", async () => {
    const { hostname, port } = new URL(url);
    const socket = connect(Number(port), hostname);
    socket.write(
      `POST /set/a HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${token}\r\ncontent-length: 100\r\n\r\nhalf`,
    );
    await new Promise((resolve) => setTimeout(resolve, 50));
    socket.destroy();
    expect((await ask("/ping")).body).toEqual({ result: "PONG" });
  });
});

describe("the read-only token", () => {
  it("reads", async () => {
    const key = freshKey();
    await post("/", ["SET", key, "value"]);
    expect((await read(["GET", key])).body).toEqual({ result: "value" });
    expect((await read(["PING"])).body).toEqual({ result: "PONG" });
  });

  it.each([
    ["SET", "a", "b"],
    ["DEL", "a"],
    ["GETDEL", "a"],
    ["FLUSHALL"],
    ["PUBLISH", "a", "b"],
    ["EVAL", "return redis.call('GET', KEYS[1])", "1", "a"],
    ["EVALSHA", "0".repeat(40), "0"],
    ["SCRIPT", "LOAD", "return 1"],
    ["FROBNICATE"],
  ])("does not run %s", async (...command) => {
    const answer = await read(command);
    expect(answer.status).toBe(400);
    expect(answer.body).toMatchObject({ error: expect.stringContaining("NOPERM") as string });
  });

  it("does not write from inside a pipeline or a transaction", async () => {
    const key = freshKey();
    const commands = JSON.stringify([["SET", key, "a"]]);
    await ask("/pipeline", { method: "POST", body: commands, bearer: readToken });
    await ask("/multi-exec", { method: "POST", body: commands, bearer: readToken });
    expect((await post("/", ["EXISTS", key])).body).toEqual({ result: 0 });
  });
});

describe("for the operator", () => {
  it("says that it is healthy without a token", async () => {
    const response = await fetch(`${url}/health`);
    expect(response.status).toBe(200);
    expect(await response.json()).toEqual({ status: "ok" });
  });

  it("shows its metrics to a token only", async () => {
    expect((await fetch(`${url}/metrics`)).status).toBe(401);
    await ask("/pipeline", { method: "POST", body: `[["PING"]]` });
    const response = await fetch(`${url}/metrics`, { headers: { authorization: `Bearer ${readToken}` } });
    const text = await response.text();
    expect(text).toMatch(/^coldpath_redis_rest_requests_total\{route="pipeline",status="200"\} [1-9]/m);
    expect(text).toMatch(/^coldpath_redis_rest_redis_up 1$/m);
    expect(text).toMatch(/^coldpath_redis_rest_pending_commands 0$/m);
  });
});
