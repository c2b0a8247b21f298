/** The claims of a client's JWT, as the command line issues them and the edge reads them. */

/** `iss` and `aud` where the operator sets no other. */
export const DEFAULT_ISSUER = "coldpath";
export const DEFAULT_AUDIENCE = "coldpath";

/** What a token may allow: `chat` asks for completions, `admin` is for the operator's own routes. */
export type Scope = "chat" | "admin";

/** Verified claims; registered ones as in RFC 7519, section 4.1. */
export interface TokenClaims {
  readonly iss: string;
  readonly aud: string | readonly string[];
  /** Unix seconds. */
  readonly exp: number;
  readonly sub: string;
  readonly jti?: string;
  /** The tenant; `sub` where it is absent. Answers are shared only inside it. */
  readonly tid?: string;
  /** Space-separated scopes, as in RFC 8693, section 4.2. */
  readonly scope?: string;
  /** The name of a plan; `default` where it is absent. */
  readonly plan?: string;
}
