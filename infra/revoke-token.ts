/** Tells an edge that a token is no longer to be taken; its region keeps it in mind. Knows no files. */
import { LaunchFailure } from "./launch/failure.ts";

/** What the token says, with the tenant as the edge knows it. */
export interface Revocation {
  readonly tenant: string;
  readonly jti: string;
  /** Unix seconds. */
  readonly exp: number;
}

const TIMEOUT_MS = 10_000;

/**
 * @param adminToken - a token with the scope `admin`
 * @throws {LaunchFailure} when the edge can't be asked or refuses; the token is then not revoked
 */
export async function revokeToken(
  edgeUrl: string,
  adminToken: string,
  { tenant, jti, exp }: Revocation,
): Promise<void> {
  let response: Response;
  try {
    response = await fetch(`${edgeUrl}/admin/revoke`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${adminToken}` },
      body: JSON.stringify({ tenant, jti, exp }),
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
  } catch (cause) {
    throw new LaunchFailure(`${edgeUrl} can't be reached, so the token is not revoked: name an edge with --edge URL`, {
      cause,
    });
  }
  if (response.ok) return;
  const text = (await response.text()).slice(0, 300);
  throw new LaunchFailure(`${edgeUrl} answered ${response.status}, so the token is not revoked: ${text}`);
}
