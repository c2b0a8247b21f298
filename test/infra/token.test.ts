/** The token command as it is typed: standard output, standard error and exit codes of the real process. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { jwtVerify } from "jose";
import { afterAll, describe, expect, it } from "vitest";
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
