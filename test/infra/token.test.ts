/** The token command as it is typed: standard output, standard error and exit codes of the real process. */
import { execFile, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { appendFileSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { createLocalJWKSet, decodeProtectedHeader, type JSONWebKeySet, type JWK, jwtVerify, SignJWT } from "jose";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { makeSecrets } from "../../infra/secrets.ts";

const root = join(import.meta.dirname, "../..");
const stateDir = mkdtempSync(join(tmpdir(), "coldpath-token-"));
const secret = makeSecrets(stateDir, {}).COLDPATH_JWT_SECRET;
afterAll(() => rmSync(stateDir, { recursive: true }));

function run(args: readonly string[], env: NodeJS.ProcessEnv = {}) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, "infra/token.ts"), ...args], {
    encoding: "utf8",
    env: { PATH: process.env["PATH"], COLDPATH_STATE_DIR: stateDir, ...env },
  });
  return { status, stdout, stderr };
}

function verify(token: string, key = secret, audience = "coldpath") {
  return jwtVerify(token.trim(), new TextEncoder().encode(key), {
    algorithms: ["HS256"],
    issuer: "coldpath",
    audience,
  });
}

it("prints a token and nothing else", async () => {
  const before = Math.floor(Date.now() / 1000);
  const args = ["--sub", "alice", "--tenant", "acme", "--scope", "chat", "--plan", "bench", "--expires", "90m"];
  args.push("--priority", "high");
  const { status, stdout, stderr } = run(args);
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  expect(stdout).toMatch(/^[\w-]+\.[\w-]+\.[\w-]+\n$/);
  const { payload } = await verify(stdout);
  expect(payload).toMatchObject({ sub: "alice", tid: "acme", scope: "chat", plan: "bench", priority: "high" });
  expect(payload.iat).toBeGreaterThanOrEqual(before);
  expect((payload.exp ?? 0) - (payload.iat ?? 0)).toBe(90 * 60);
  expect(payload.jti).toMatch(/^[0-9a-f-]{36}$/);
});

it("gives the smallest call sensible defaults, and each token a name of its own", async () => {
  const first = (await verify(run(["--sub", "bob"]).stdout)).payload;
  const second = (await verify(run(["--sub", "bob"]).stdout)).payload;
  expect(first).toMatchObject({ scope: "chat", plan: "default" });
  expect(first).not.toHaveProperty("tid");
  expect(first).not.toHaveProperty("priority");
  expect((first.exp ?? 0) - (first.iat ?? 0)).toBe(3_600);
  expect(first.jti).not.toBe(second.jti);
});

it("takes issuer, audience and secret from the environment", async () => {
  const key = "another-secret-of-at-least-32-bytes!";
  const { stdout } = run(["--sub", "bob"], { COLDPATH_JWT_SECRET: key, COLDPATH_JWT_AUDIENCE: "elsewhere" });
  await expect(verify(stdout, key, "elsewhere")).resolves.toBeDefined();
  await expect(verify(stdout)).rejects.toThrow(/signature/);
});

describe("the list", () => {
  const folder = mkdtempSync(join(tmpdir(), "coldpath-token-list-"));
  const here = { COLDPATH_STATE_DIR: folder, COLDPATH_JWT_SECRET: "s".repeat(40) };
  afterAll(() => rmSync(folder, { recursive: true }));
  const listed = () =>
    run(["list"], here)
      .stdout.split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line) as { readonly jti: string; readonly revoked: boolean });

  it("says who has which token, and holds none", async () => {
    const token = run(["issue", "--sub", "alice", "--tenant", "acme"], here).stdout.trim();
    const { jti } = (await verify(token, here.COLDPATH_JWT_SECRET)).payload;
    run(["--sub", "bob", "--expires", "1s"], here);
    expect(listed()[0]).toMatchObject({ jti, sub: "alice", tenant: "acme", scope: "chat", revoked: false });
    const text = readFileSync(join(folder, "tokens.jsonl"), "utf8");
    expect(text).not.toContain(token.split(".")[2]);
    expect(statSync(join(folder, "tokens.jsonl")).mode & 0o777).toBe(0o600);
    await vi.waitFor(() => expect(listed().map((entry) => entry.jti)).toEqual([jti]), { timeout: 5_000 });
  });

  it("survives a damaged line", () => {
    appendFileSync(join(folder, "tokens.jsonl"), '{"event":"issued","jti"\n\0\n');
    expect(listed()).toHaveLength(1);
  });
});

describe("revoke", () => {
  const folder = mkdtempSync(join(tmpdir(), "coldpath-token-revoke-"));
  const here = { COLDPATH_STATE_DIR: folder, COLDPATH_JWT_SECRET: "s".repeat(40) };
  const asked: { readonly authorization: string; readonly body: unknown }[] = [];
  let status = 200;
  // In a process of its own the command would wait for ever for a server of this one, which waits for the command.
  const edge = createServer((incoming, outgoing) => {
    let text = "";
    incoming.on("data", (chunk) => (text += String(chunk)));
    incoming.on("end", () => {
      asked.push({ authorization: incoming.headers.authorization ?? "", body: JSON.parse(text) as unknown });
      outgoing.writeHead(status).end("{}");
    });
  });
  const revoke = async (...args: readonly string[]) => {
    const { port } = edge.address() as AddressInfo;
    const env = { PATH: process.env["PATH"], COLDPATH_EDGE_PORT: String(port), ...here };
    return promisify(execFile)(process.execPath, [join(root, "infra/token.ts"), "revoke", ...args], { env }).catch(
      (error: unknown) => error as { readonly stdout: string; readonly stderr: string },
    );
  };
  beforeAll(async () => {
    edge.listen(0, "127.0.0.1");
    await once(edge, "listening");
  });
  afterAll(() => {
    edge.close();
    rmSync(folder, { recursive: true });
  });

  it("tells the edge what the token says, as an operator, and notes it", async () => {
    const token = run(["--sub", "alice", "--tenant", "acme"], here).stdout.trim();
    const { jti, exp } = (await verify(token, here.COLDPATH_JWT_SECRET)).payload;
    for (const word of [token, String(jti)]) {
      expect((await revoke(word)).stdout).toBe(`${String(jti)}\n`);
      const { authorization, body } = asked.at(-1) ?? { authorization: "", body: undefined };
      expect(body).toEqual({ tenant: "acme", jti, exp });
      const { payload } = await verify(authorization.slice("Bearer ".length), here.COLDPATH_JWT_SECRET);
      expect(payload).toMatchObject({ scope: "admin" });
      expect((payload.exp ?? 0) - (payload.iat ?? 0)).toBe(60);
    }
    expect(run(["list"], here).stdout).toContain('"revoked":true');
  });

  it("notes nothing that the edge refused", async () => {
    const token = run(["--sub", "carol"], here).stdout.trim();
    status = 503;
    const { stdout, stderr } = await revoke(token);
    status = 200;
    expect(stdout).toBe("");
    expect(stderr).toContain("not revoked");
    expect(run(["list"], here).stdout).toMatch(/"sub":"carol".*"revoked":false/);
  });

  it("can't be told of a token of which it knows too little", async () => {
    const foreign = await new SignJWT({ iss: "https://idp.test", sub: "x", jti: "j", exp: 2e9 })
      .setProtectedHeader({ alg: "HS256" })
      .sign(new Uint8Array(32));
    expect((await revoke("unknown-jti")).stderr).toContain("--tenant");
    expect((await revoke(foreign)).stderr).toContain("--tenant");
    expect((await revoke("a.b.c")).stderr).toContain("no token");
    expect((await revoke()).stderr).toContain("revoke needs a name");
    expect((await revoke(foreign, "--tenant", "https://idp.test|x")).stdout).toBe("j\n");
    expect(asked.at(-1)?.body).toEqual({ tenant: "https://idp.test|x", jti: "j", exp: 2e9 });
  });

  it("says what to do without an edge", async () => {
    expect((await revoke("j", "--tenant", "t", "--edge", "http://127.0.0.1:9")).stderr).toContain("--edge URL");
  });
});

async function verified(token: string, jwks: JSONWebKeySet): Promise<string | undefined> {
  const names = { issuer: "coldpath", audience: "coldpath" };
  return (await jwtVerify(token.trim(), createLocalJWKSet(jwks), names)).payload.sub;
}

describe("keys", () => {
  const folder = mkdtempSync(join(tmpdir(), "coldpath-token-keys-"));
  afterAll(() => rmSync(folder, { recursive: true }));
  const here = { COLDPATH_STATE_DIR: folder };
  const keys = (...args: readonly string[]) =>
    JSON.parse(run(["keys", ...args], here).stdout) as JSONWebKeySet & { readonly keys: readonly JWK[] };

  it("rotate: the newest signs, the older ones verify until they are removed", async () => {
    expect(keys()).toEqual({ keys: [] });
    const first = keys("add");
    const token = run(["--sub", "alice"], here).stdout;
    expect(await verified(token, first)).toBe("alice");
    const both = keys("add", "--alg", "ES256");
    expect(both.keys.map(({ alg }) => alg)).toEqual(["ES256", "EdDSA"]);
    const later = run(["--sub", "bob"], here).stdout;
    expect(decodeProtectedHeader(later)).toMatchObject({ alg: "ES256", kid: both.keys[0]?.kid });
    expect([await verified(token, both), await verified(later, both)]).toEqual(["alice", "bob"]);
    const rest = keys("remove", String(first.keys[0]?.kid));
    await expect(verified(token, rest)).rejects.toThrow(/no applicable key/);
    expect(await verified(later, rest)).toBe("bob");
  });

  it("print nothing private, and keep it from others", () => {
    expect(JSON.stringify(keys())).not.toContain('"d"');
    expect(statSync(join(folder, "signing-keys.json")).mode & 0o777).toBe(0o600);
  });

  it.each([
    [["keys", "rotate"], 2],
    [["keys", "remove", "nobody"], 2],
    [["keys", "add", "--alg", "RS256"], 2],
    [["keys", "add", "--sub", "a"], 2],
  ])("refuse %j", (args, status) => {
    expect(run(args, here)).toMatchObject({ status, stdout: "" });
  });
});

it("makes a client whose secret the edge's entry fits, and keeps no copy", () => {
  const { stdout } = run(["client", "--id", "app", "--tenant", "acme", "--scope", "chat"]);
  const { secret: made, COLDPATH_CLIENTS } = JSON.parse(stdout) as {
    readonly secret: string;
    readonly COLDPATH_CLIENTS: Readonly<Record<string, unknown>>;
  };
  const secretSha256 = createHash("sha256").update(made).digest("hex");
  expect(COLDPATH_CLIENTS).toEqual({ app: { secretSha256, tenant: "acme", scopes: ["chat"] } });
  expect(Buffer.from(made, "base64url")).toHaveLength(32);
});

it("prints help on standard output", () => {
  const { status, stdout } = run(["--help"]);
  expect(status).toBe(0);
  expect(stdout).toContain("--expires");
});

describe("bad arguments end with one sentence and exit code 2:", () => {
  it.each([
    ["no subject", [], "--sub"],
    ["an empty subject", ["--sub", " "], "--sub"],
    ["an unknown argument", ["--sub", "a", "--plna", "x"], "--plna"],
    ["a stray word", ["--sub", "a", "extra"], "extra"],
    ["an unknown scope", ["--sub", "a", "--scope", "root"], "root"],
    ["an unknown priority", ["--sub", "a", "--priority", "urgent"], "urgent"],
    ["a duration without unit", ["--sub", "a", "--expires", "60"], "--expires"],
    ["a duration of nothing", ["--sub", "a", "--expires", "0s"], "--expires"],
    ["a negative duration", ["--sub", "a", "--expires=-1h"], "--expires"],
    ["a duration beyond reason", ["--sub", "a", "--expires", "999999999d"], "--expires"],
  ])("%s", (_, args, named) => {
    const { status, stdout, stderr } = run(args);
    expect({ status, stdout }).toEqual({ status: 2, stdout: "" });
    expect(stderr.trim().split("\n")).toHaveLength(1);
    expect(stderr).toContain(named);
  });
});

it("says what to do where there is no secret yet", () => {
  const { status, stdout, stderr } = run(["--sub", "a"], { COLDPATH_STATE_DIR: join(stateDir, "nowhere") });
  expect({ status, stdout }).toEqual({ status: 1, stdout: "" });
  expect(stderr).toMatch(/^there is no secret in .*: run npm start once, or set COLDPATH_JWT_SECRET\n$/);
});

it("refuses a secret that is too short", () => {
  const { status, stderr } = run(["--sub", "a"], { COLDPATH_JWT_SECRET: "short" });
  expect(status).toBe(1);
  expect(stderr).toBe("COLDPATH_JWT_SECRET must be at least 32 bytes long\n");
});
