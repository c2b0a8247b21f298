/**
 * Which tokens the command line issued and took back: a file of lines in the state folder, so that a token can be found by
 * its holder's name. It holds no token, only what one says. Knows nothing of edges.
 */
import { appendFileSync, mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";

const issued = z.object({
  event: z.literal("issued"),
  jti: z.string(),
  sub: z.string(),
  tenant: z.string(),
  scope: z.string(),
  plan: z.string(),
  /** Unix seconds, like `exp`. */
  iat: z.int(),
  exp: z.int(),
});
const revoked = z.object({ event: z.literal("revoked"), jti: z.string(), tenant: z.string(), exp: z.int() });
const line = z.union([issued, revoked]);

type Issued = z.infer<typeof issued>;
type Revoked = z.infer<typeof revoked>;

export interface Register {
  /** Those that have not expired, oldest first. */
  readonly issued: readonly Issued[];
  readonly revoked: readonly Revoked[];
}

const FILE = "tokens.jsonl";
/** Beyond it, what has expired is dropped. */
const BYTES_MAX = 1_048_576;

/** A line that can't be read says nothing; a register that is not there is empty. */
export function readRegister(folder: string, nowSeconds: number): Register {
  const lines = readLines(folder).filter(({ exp }) => exp > nowSeconds);
  return {
    issued: lines.filter((entry) => entry.event === "issued"),
    revoked: lines.filter((entry) => entry.event === "revoked"),
  };
}

/** Adds one line; appending it is atomic, so two commands at once lose nothing. */
export function noteInRegister(folder: string, entry: Issued | Revoked, nowSeconds: number): void {
  const path = join(folder, FILE);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  appendFileSync(path, `${JSON.stringify(entry)}\n`, { mode: 0o600 });
  if (statSync(path).size <= BYTES_MAX) return;
  const rest = readLines(folder).filter(({ exp }) => exp > nowSeconds);
  writeFileSync(`${path}.${process.pid}`, rest.map((kept) => `${JSON.stringify(kept)}\n`).join(""), { mode: 0o600 });
  renameSync(`${path}.${process.pid}`, path);
}

function readLines(folder: string): readonly (Issued | Revoked)[] {
  let text: string;
  try {
    text = readFileSync(join(folder, FILE), "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
  return text.split("\n").flatMap((json) => {
    try {
      return line.safeParse(JSON.parse(json)).data ?? [];
    } catch {
      return [];
    }
  });
}
