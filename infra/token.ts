/** `npm run -s token`: prints a client's JWT on standard output, and nothing else. */
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { PRIORITIES, type Priority } from "../shared/edge-context.ts";
import { KnobError, readKnobs } from "../shared/knobs.ts";
import type { Scope } from "../shared/token-claims.ts";
import { TOKEN_KNOBS } from "./config.ts";
import { type TokenOptions, issueToken } from "./issue-token.ts";
import { LaunchFailure } from "./launch/failure.ts";
import { findSecret } from "./secrets.ts";

const HELP = `npm run -s token -- --sub NAME [--tenant NAME] [--scope chat,admin] [--plan NAME] [--priority normal] [--expires 1h]

  --sub       whose token it is; limits are counted for it (required)
  --tenant    cached answers are shared inside it (default: the same as --sub)
  --scope     what it may do: chat, admin, or both (default: chat)
  --plan      the name of a plan, its limits (default: default)
  --priority  who goes first when the model has too much to do: high, normal or low (default: normal)
  --expires   how long it is valid: a number and s, m, h or d (default: 1h)

It is signed with COLDPATH_JWT_SECRET, or with the secret that npm start made in COLDPATH_STATE_DIR.`;

const SCOPES: readonly Scope[] = ["chat", "admin"];
const SECONDS = { s: 1, m: 60, h: 3_600, d: 86_400 } as const;
/** Ten years: beyond it a token is a password that nobody remembers. */
const EXPIRES_MAX_SECONDS = 3_650 * SECONDS.d;

/** Arguments that can't be used; the message says which and why. */
class UsageError extends Error {}

try {
  await main(process.argv.slice(2), process.env);
} catch (error) {
  if (!(error instanceof UsageError || error instanceof KnobError || error instanceof LaunchFailure)) throw error;
  console.error(error.message);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}

async function main(args: readonly string[], env: NodeJS.ProcessEnv): Promise<void> {
  const options = readArguments(args);
  if (options === "help") return console.log(HELP);
  const { stateDir, issuer, audience } = readKnobs(TOKEN_KNOBS, env);
  const folder = resolve(import.meta.dirname, "..", stateDir);
  const secret = findSecret("COLDPATH_JWT_SECRET", folder, env);
  if (secret === undefined) {
    throw new LaunchFailure(`there is no secret in ${folder} yet: run npm start once, or set COLDPATH_JWT_SECRET`);
  }
  console.log(await issueToken(options, { secret, issuer, audience, nowSeconds: Math.floor(Date.now() / 1000) }));
}

function readArguments(args: readonly string[]): TokenOptions | "help" {
  const values = parse(args);
  if (values.help === true) return "help";
  return {
    sub: required("--sub", values.sub),
    tenant: values.tenant === undefined ? undefined : required("--tenant", values.tenant),
    scope: values.scope === undefined ? undefined : readScope(values.scope),
    plan: values.plan === undefined ? undefined : required("--plan", values.plan),
    priority: values.priority === undefined ? undefined : readPriority(values.priority),
    expiresInSeconds: values.expires === undefined ? undefined : readDuration(values.expires),
  };
}

function parse(args: readonly string[]) {
  try {
    const text = { type: "string" } as const;
    return parseArgs({
      args: [...args],
      strict: true,
      options: {
        sub: text,
        tenant: text,
        scope: text,
        plan: text,
        priority: text,
        expires: text,
        help: { type: "boolean" },
      },
    }).values;
  } catch (cause) {
    // Node's own message is one or two sentences; the first names the argument.
    const [reason] = (cause as Error).message.split(". ");
    throw new UsageError(`${reason}: --help lists the arguments`, { cause });
  }
}

function required(name: string, value: string | undefined): string {
  if (value === undefined || value.trim() === "") throw new UsageError(`${name} needs a name, as in ${name} alice`);
  return value;
}

function readScope(text: string): readonly Scope[] {
  return text
    .split(/[\s,]+/)
    .filter((word) => word !== "")
    .map((word) => {
      const scope = SCOPES.find((known) => known === word);
      if (scope === undefined) throw new UsageError(`--scope knows ${SCOPES.join(" and ")}, not "${word}"`);
      return scope;
    });
}

function readPriority(text: string): Priority {
  const priority = PRIORITIES.find((known) => known === text);
  if (priority === undefined) throw new UsageError(`--priority knows ${PRIORITIES.join(", ")}, not "${text}"`);
  return priority;
}

function readDuration(text: string): number {
  const match = /^(\d{1,9})([smhd])$/.exec(text);
  const seconds = Number(match?.[1]) * SECONDS[(match?.[2] ?? "s") as keyof typeof SECONDS];
  if (match === null || seconds < 1 || seconds > EXPIRES_MAX_SECONDS) {
    throw new UsageError(`--expires needs a number and s, m, h or d, up to 3650d, as in 12h, not "${text}"`);
  }
  return seconds;
}
