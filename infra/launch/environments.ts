/**
 * What each part of the stack finds in its environment: the operator's own settings, what the launcher decided, and of
 * the secrets only those it needs. The origin knows nothing of tenants, so it gets no key to their tokens.
 */
import { SECRET_NAMES, type SecretName, type Secrets } from "../secrets.ts";

/** Variables besides the secrets that hold a credential. */
const CREDENTIALS = [
  "COLDPATH_REDIS_URL",
  "COLDPATH_REDIS_REST_READ_TOKEN",
  "COLDPATH_CACHE_SECRET_PREVIOUS",
  "COLDPATH_ORIGIN_SECRET_PREVIOUS",
  "COLDPATH_JWT_SECRET_PREVIOUS",
  "COLDPATH_CLIENTS",
  "COLDPATH_HUB_TOKEN",
  "AWS_SECRET_ACCESS_KEY",
  "AWS_SESSION_TOKEN",
] as const;

type Credential = SecretName | (typeof CREDENTIALS)[number];

export interface EnvironmentOptions {
  readonly env: NodeJS.ProcessEnv;
  readonly secrets: Secrets;
  /** The credentials this part may see. */
  readonly allowed: readonly Credential[];
  /** The launcher's decisions; they win. */
  readonly set?: NodeJS.ProcessEnv;
}

/** Puts one part's environment together. */
export function environmentFor(options: EnvironmentOptions): NodeJS.ProcessEnv {
  const all: NodeJS.ProcessEnv = { ...options.env, ...options.secrets, ...options.set };
  const hidden = new Set<string>([...SECRET_NAMES, ...CREDENTIALS].filter((name) => !options.allowed.includes(name)));
  return Object.fromEntries(Object.entries(all).filter(([name]) => !hidden.has(name)));
}

/** Every setting of coldpath in an environment: the worker's bindings. */
export function settingNames(env: NodeJS.ProcessEnv): readonly string[] {
  return Object.keys(env)
    .filter((name) => name.startsWith("COLDPATH_"))
    .toSorted();
}
