/** Whose token a request carries. Knows nothing of what the token may do. */
import { timingSafeEqual } from "node:crypto";
import { RestFailure } from "./failure.ts";
import type { Access } from "./permit.ts";

/** The two tokens; without `readToken` there is only the full one. */
export interface RestTokens {
  readonly token: string;
  readonly readToken?: string | undefined;
}

/** @param search - the target's query, without the question mark */
export type Authorize = (header: string | undefined, search: string) => Access;

/**
 * Prepares the check of `Authorization: Bearer …` or `?_token=…`.
 *
 * @returns a function that gives the token's access
 * @throws {RestFailure} 401, from that function
 */
export function authorizer(tokens: RestTokens): Authorize {
  const full = Buffer.from(tokens.token);
  const read = tokens.readToken === undefined ? undefined : Buffer.from(tokens.readToken);
  return (header, search) => {
    const given = bearer(header) ?? new URLSearchParams(search).get("_token");
    if (given === null) throw new RestFailure(401, "WRONGPASS the request carries no token");
    const candidate = Buffer.from(given);
    if (isSame(candidate, full)) return "full";
    if (read !== undefined && isSame(candidate, read)) return "read";
    throw new RestFailure(401, "WRONGPASS invalid or missing auth token");
  };
}

/** In a time that tells the token's length and nothing else of it. Comparing digests hides that too, for a tenth of a request. */
function isSame(candidate: Buffer, token: Buffer): boolean {
  return candidate.length === token.length && timingSafeEqual(candidate, token);
}

function bearer(header: string | undefined): string | undefined {
  return header === undefined ? undefined : /^Bearer +(\S+)$/i.exec(header)?.[1];
}
