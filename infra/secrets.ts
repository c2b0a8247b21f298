/**
 * The local secrets: made once, kept in one file of the state folder that only its owner can read, so that tokens and
 * cached answers outlive a restart. What the environment sets wins. Knows nothing of who uses them.
 */
import { randomBytes } from "node:crypto";
import { chmodSync, linkSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { type KnobValues, readKnobs, secretKnob } from "../shared/knobs.ts";
import { LaunchFailure } from "./launch/failure.ts";

const SECRET_KNOBS = {
  COLDPATH_ORIGIN_SECRET: secretKnob({
    env: "COLDPATH_ORIGIN_SECRET",
    help: "Signs what the edge sends to the origin, at least 32 bytes. Both need the same.",
  }),
  COLDPATH_JWT_SECRET: secretKnob({
    env: "COLDPATH_JWT_SECRET",
    help: "Signs the clients' tokens (HS256), at least 32 bytes. Another value makes every issued token invalid.",
  }),
  COLDPATH_CACHE_SECRET: secretKnob({
    env: "COLDPATH_CACHE_SECRET",
    help: "Encrypts cached answers, at least 32 bytes. Another value makes them unreadable, except with the previous one.",
  }),
  COLDPATH_IDENTITY_SECRET: secretKnob({
    env: "COLDPATH_IDENTITY_SECRET",
    help: "Names cached answers, at least 32 bytes. Another value makes every one of them a miss.",
  }),
  COLDPATH_REDIS_REST_TOKEN: secretKnob({
    env: "COLDPATH_REDIS_REST_TOKEN",
    help: "Lets the edge into redis-rest, at least 32 bytes.",
  }),
} as const;

/** A secret's variable. */
export type SecretName = keyof typeof SECRET_KNOBS;
export type Secrets = Readonly<Record<SecretName, string>>;

export const SECRET_NAMES = Object.keys(SECRET_KNOBS) as readonly SecretName[];

const SECRETS_FILE = "secrets.json";
/** 256 bits, as long as the HMAC's hash; in hex, so no shell or address needs to quote it. */
const SECRET_BYTES = 32;

const secret = z.string().min(SECRET_BYTES);
const fileSchema = z.object({
  COLDPATH_ORIGIN_SECRET: secret,
  COLDPATH_JWT_SECRET: secret,
  COLDPATH_CACHE_SECRET: secret,
  COLDPATH_IDENTITY_SECRET: secret.optional(),
  COLDPATH_REDIS_REST_TOKEN: secret,
});

/**
 * The secrets of a state folder, made when it has none.
 *
 * @throws {LaunchFailure} when the file is damaged or the folder can't be written
 * @throws {KnobError} when the environment sets one that is too short
 */
export function makeSecrets(stateDir: string, env: NodeJS.ProcessEnv): Secrets {
  return { ...(readFile(stateDir) ?? createFile(stateDir)), ...fromEnvironment(env) };
}

/**
 * One secret, from the environment or the state folder.
 *
 * @returns `undefined` when neither has it
 * @throws as `makeSecrets`
 */
export function findSecret(name: SecretName, stateDir: string, env: NodeJS.ProcessEnv): string | undefined {
  return fromEnvironment(env)[name] ?? readFile(stateDir)?.[name];
}

function fromEnvironment(env: NodeJS.ProcessEnv): Partial<Secrets> {
  const values: KnobValues<typeof SECRET_KNOBS> = readKnobs(SECRET_KNOBS, env);
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));
}

function readFile(stateDir: string): Secrets | undefined {
  const path = join(stateDir, SECRETS_FILE);
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new LaunchFailure(`${path} can't be read (${String(cause)}): make it readable for this user`, { cause });
  }
  try {
    const { COLDPATH_IDENTITY_SECRET, ...secrets } = fileSchema.parse(JSON.parse(text));
    chmodSync(path, 0o600);
    // A file from before there were two: one secret did both, and goes on naming the answers.
    return { ...secrets, COLDPATH_IDENTITY_SECRET: COLDPATH_IDENTITY_SECRET ?? secrets.COLDPATH_CACHE_SECRET };
  } catch (cause) {
    throw new LaunchFailure(
      `${path} is damaged: delete it to have new secrets made (issued tokens and cached answers are lost with it)`,
      { cause },
    );
  }
}

/** Written aside and linked: two first starts at once agree on one file, and neither reads half of it. */
function createFile(stateDir: string): Secrets {
  const path = join(stateDir, SECRETS_FILE);
  const draft = join(stateDir, `${SECRETS_FILE}.${process.pid}`);
  const secrets = Object.fromEntries(SECRET_NAMES.map((name) => [name, randomBytes(SECRET_BYTES).toString("hex")]));
  try {
    mkdirSync(stateDir, { recursive: true, mode: 0o700 });
    writeFileSync(draft, `${JSON.stringify(secrets, null, 2)}\n`, { mode: 0o600 });
    linkSync(draft, path);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "EEXIST") {
      throw new LaunchFailure(
        `${stateDir} can't be written (${String(cause)}): set COLDPATH_STATE_DIR to another folder`,
        {
          cause,
        },
      );
    }
  } finally {
    rmSync(draft, { force: true });
  }
  // Ours, or that of the other start.
  return readFile(stateDir) as Secrets;
}
