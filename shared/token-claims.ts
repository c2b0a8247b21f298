/**
 * What the command line writes into a client's JWT and the edge reads from it: the registered claims of RFC 7519,
 * section 4.1 (`iss`, `aud`, `exp`, `sub`, `jti`), and coldpath's own: `tid` (the tenant, `sub` where it is absent),
 * `scope` (space-separated, RFC 8693, section 4.2), `plan` (`default` where it is absent) and `priority` (`normal`).
 */

/** `iss` and `aud` where the operator sets no other. */
export const DEFAULT_ISSUER = "coldpath";
export const DEFAULT_AUDIENCE = "coldpath";

/** What a token may allow: `chat` asks for completions, `admin` is for the operator's own routes. */
export type Scope = "chat" | "admin";
