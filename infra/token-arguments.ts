/** The words and options after `npm run token --`. Knows nothing of tokens but their options. */
import { parseArgs } from "node:util";
import { PRIORITIES, type Priority } from "../shared/edge-context.ts";
import type { Scope } from "../shared/token-claims.ts";
import type { TokenOptions } from "./issue-token.ts";
import { SIGNING_ALGORITHMS, type SigningAlgorithm } from "./signing-keys.ts";

const COMMANDS = ["issue", "revoke", "list", "keys", "client"] as const;
type Command = (typeof COMMANDS)[number];

export interface Arguments {
  readonly command: Command;
  readonly help: boolean;
  /** What follows the command without a dash. */
  readonly words: readonly string[];
  readonly token: Partial<TokenOptions>;
  readonly edge: string | undefined;
  readonly alg: SigningAlgorithm | undefined;
  readonly id: string | undefined;
}

/** Arguments that can't be used; the message says which and why. */
export class UsageError extends Error {}

const SCOPES: readonly Scope[] = ["chat", "admin"];
const SECONDS = { s: 1, m: 60, h: 3_600, d: 86_400 } as const;
/** Ten years: beyond it a token is a password that nobody remembers. */
const EXPIRES_MAX_SECONDS = 3_650 * SECONDS.d;

const TOKEN_OPTIONS = ["sub", "tenant", "scope", "plan"] as const;
type OptionName = (typeof TOKEN_OPTIONS)[number] | "priority" | "expires" | "edge" | "alg" | "id";
/** What each command takes, and how many words. */
const TAKES: Readonly<Record<Command, { readonly options: readonly OptionName[]; readonly words: number }>> = {
  issue: { options: [...TOKEN_OPTIONS, "priority", "expires"], words: 0 },
  revoke: { options: ["tenant", "edge"], words: 1 },
  list: { options: [], words: 0 },
  keys: { options: ["alg"], words: 2 },
  client: { options: ["id", "tenant", "scope", "plan"], words: 0 },
};

/** @throws {UsageError} */
export function parseArguments(args: readonly string[]): Arguments {
  const { values, positionals } = parse(args);
  const [first = "issue", ...words] = positionals;
  const command = COMMANDS.find((known) => known === first);
  if (command === undefined) throw new UsageError(`there is no command "${first}": --help lists them`);
  const takes = TAKES[command];
  const stray = words[takes.words];
  if (stray !== undefined) throw new UsageError(`${command} does not take "${stray}": --help lists the arguments`);
  const { help, ...options } = values;
  const wrong = (Object.keys(options) as OptionName[]).find((name) => !takes.options.includes(name));
  if (wrong !== undefined) throw new UsageError(`${command} does not take --${wrong}: --help lists the arguments`);
  const { sub, tenant, scope, plan, priority, expires, edge, alg, id } = options;
  return {
    command,
    help: help === true,
    words,
    edge: edge?.replace(/\/$/, ""),
    alg: alg === undefined ? undefined : readAlgorithm(alg),
    id,
    token: {
      ...(sub === undefined ? {} : { sub: required("--sub", sub) }),
      tenant: tenant === undefined ? undefined : required("--tenant", tenant),
      scope: scope === undefined ? undefined : readScope(scope),
      plan: plan === undefined ? undefined : required("--plan", plan),
      priority: priority === undefined ? undefined : readPriority(priority),
      expiresInSeconds: expires === undefined ? undefined : readDuration(expires),
    },
  };
}

/** @throws {UsageError} for a name that is missing or empty */
export function required(name: string, value: string | undefined): string {
  if (value === undefined || value.trim() === "") throw new UsageError(`${name} needs a name, as in ${name} alice`);
  return value;
}

function parse(args: readonly string[]) {
  try {
    const text = { type: "string" } as const;
    return parseArgs({
      args: [...args],
      strict: true,
      allowPositionals: true,
      options: {
        sub: text,
        tenant: text,
        scope: text,
        plan: text,
        priority: text,
        expires: text,
        edge: text,
        alg: text,
        id: text,
        help: { type: "boolean" },
      },
    });
  } catch (cause) {
    // Node's own message is one or two sentences; the first names the argument.
    const [reason] = (cause as Error).message.split(". ");
    throw new UsageError(`${reason}: --help lists the arguments`, { cause });
  }
}

function readAlgorithm(text: string): SigningAlgorithm {
  const alg = SIGNING_ALGORITHMS.find((known) => known === text);
  if (alg === undefined) throw new UsageError(`--alg knows ${SIGNING_ALGORITHMS.join(" and ")}, not "${text}"`);
  return alg;
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
