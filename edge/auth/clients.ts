/** Who may have tokens of this endpoint's own making. Only a secret's digest is known here. Issues nothing. */
import * as z from "zod";
import { KnobError } from "../../shared/knobs.ts";
import type { Scope } from "../../shared/token-claims.ts";
import { DEFAULT_PLAN } from "./plans.ts";

export interface Client {
  /**
   * SHA-256 of its secret, hex. Fast on purpose: the secrets are made by the command line, 256 random bits that nobody
   * can try out; a slow hash would only let a stranger keep the edge busy.
   */
  readonly secretSha256: string;
  readonly tenant: string;
  readonly plan: string;
  /** What its tokens may allow at most. */
  readonly scopes: readonly Scope[];
}

const CHAT: readonly Scope[] = ["chat"];

const schema = z.record(
  z.string().min(1).max(256),
  z.strictObject({
    secretSha256: z.string().regex(/^[0-9a-f]{64}$/, "must be 64 hex digits"),
    tenant: z.string().min(1).max(256).optional(),
    plan: z.string().min(1).optional(),
    scopes: z
      .array(z.enum(["chat", "admin"]))
      .min(1)
      .optional(),
  }),
);

/**
 * Reads clients by id from JSON. A tenant that is not named is the client itself.
 *
 * @throws {KnobError} naming `env`, the client and the field
 */
export function parseClients(env: string, text: string): ReadonlyMap<string, Client> {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new KnobError(`${env} must be JSON`, { cause });
  }
  const parsed = schema.safeParse(json);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw new KnobError(`${env}: ${issue?.path.join(".") || "clients"}: ${issue?.message ?? "is not valid"}`);
  }
  return new Map(
    Object.entries(parsed.data).map(([id, { tenant = id, plan = DEFAULT_PLAN, scopes = CHAT, secretSha256 }]) => [
      id,
      { secretSha256, tenant, plan, scopes },
    ]),
  );
}
