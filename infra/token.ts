/**
 * `npm run -s token`: issues tokens, takes them back, lists them, and makes the keys and clients that others may have
 * tokens with. What was asked for goes to standard output, and nothing else.
 */
import { createHash, randomBytes, randomUUID } from "node:crypto";
import { resolve } from "node:path";
import { decodeJwt } from "jose";
import { KnobError, readKnobs } from "../shared/knobs.ts";
import type { Scope } from "../shared/token-claims.ts";
import { TOKEN_KNOBS } from "./config.ts";
import { type Issuer, issueToken } from "./issue-token.ts";
import { urlHost } from "./launch/edge-fleet.ts";
import { LaunchFailure } from "./launch/failure.ts";
import { type Revocation, revokeToken } from "./revoke-token.ts";
import { findSecret } from "./secrets.ts";
import { addSigningKey, publicJwks, readSigningKeys, removeSigningKey, SIGNING_ALGORITHMS } from "./signing-keys.ts";
import { type Arguments, parseArguments, required, UsageError } from "./token-arguments.ts";
import { noteInRegister, readRegister } from "./token-register.ts";

const HELP = `npm run -s token -- [issue] --sub NAME [--tenant NAME] [--scope chat,admin] [--plan NAME] [--priority normal]
                              [--expires 1h]

  --sub       whose token it is; limits are counted for it (required)
  --tenant    cached answers are shared inside it (default: the same as --sub)
  --scope     what it may do: chat, admin, or both (default: chat)
  --plan      the name of a plan, its limits (default: default)
  --priority  who goes first when the model has too much to do: high, normal or low (default: normal)
  --expires   how long it is valid: a number and s, m, h or d (default: 1h)

npm run -s token -- revoke TOKEN|JTI [--tenant NAME] [--edge URL]

  Takes a token back: the token itself, or the jti that list shows. --tenant is needed for a jti issued elsewhere.

npm run -s token -- list

  The tokens issued here that have not expired, one JSON object a line, with what is known of their revocation.

npm run -s token -- keys [add [--alg EdDSA|ES256] | remove KID]

  Prints the public keys as a JWKS for COLDPATH_JWKS. With add a new pair signs from now on and the old ones still
  verify: that is the rotation. Remove an old one when its tokens have expired. npm start takes changes when it starts.

npm run -s token -- client --id NAME [--tenant NAME] [--scope chat,admin] [--plan NAME]

  Makes a client for POST /token: prints its secret, and its entry for COLDPATH_CLIENTS.

Tokens are signed with the newest key of keys, else with COLDPATH_JWT_SECRET, else with the secret that npm start made in
COLDPATH_STATE_DIR.`;

/** For an id that nobody here knows the expiry of: as long as any token that this command issues. */
const UNKNOWN_EXPIRY_SECONDS = 3_650 * 86_400;
const ADMIN_SECONDS = 60;
const CLIENT_SECRET_BYTES = 32;

try {
  await main(process.argv.slice(2), process.env);
} catch (error) {
  if (!(error instanceof UsageError || error instanceof KnobError || error instanceof LaunchFailure)) throw error;
  console.error(error.message);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}

async function main(args: readonly string[], env: NodeJS.ProcessEnv): Promise<void> {
  const parsed = parseArguments(args);
  if (parsed.help) return console.log(HELP);
  const place = readPlace(env);
  switch (parsed.command) {
    case "issue":
      return issue(parsed, place);
    case "revoke":
      return revoke(parsed, place);
    case "list":
      return list(place);
    case "keys":
      return keys(parsed, place);
    case "client":
      return makeClient(parsed);
    default:
      return parsed.command satisfies never;
  }
}

/** Where the secrets are, and who issues. */
interface Place extends Omit<Issuer, "secret"> {
  readonly folder: string;
  readonly env: NodeJS.ProcessEnv;
  readonly edgeUrl: string;
}

function readPlace(env: NodeJS.ProcessEnv): Place {
  const { stateDir, edgeHost, edgePort, ...names } = readKnobs(TOKEN_KNOBS, env);
  const folder = resolve(import.meta.dirname, "..", stateDir);
  const edgeUrl = `http://${urlHost(edgeHost)}:${edgePort}`;
  return { ...names, folder, env, edgeUrl, nowSeconds: Math.floor(Date.now() / 1000) };
}

function issuerOf(place: Place): Issuer {
  const { folder, env, issuer, audience, nowSeconds } = place;
  const secret = readSigningKeys(folder)[0] ?? findSecret("COLDPATH_JWT_SECRET", folder, env);
  if (secret === undefined) {
    throw new LaunchFailure(`there is no secret in ${folder} yet: run npm start once, or set COLDPATH_JWT_SECRET`);
  }
  return { secret, issuer, audience, nowSeconds };
}

async function issue({ token }: Arguments, place: Place): Promise<void> {
  const sub = required("--sub", token.sub);
  const { tenant = sub, scope = ["chat"], plan = "default", expiresInSeconds = 3_600 } = token;
  const jti = randomUUID();
  const { nowSeconds: iat, folder } = place;
  const issued = await issueToken({ ...token, sub, jti }, issuerOf(place));
  try {
    const entry = { event: "issued", jti, sub, tenant, scope: scope.join(" "), plan, iat, exp: iat + expiresInSeconds };
    noteInRegister(folder, { ...entry, event: "issued" }, iat);
  } catch (error) {
    // The token is good all the same.
    console.error(`the token is not in the list: ${String(error)}`);
  }
  console.log(issued);
}

async function revoke({ words, token, edge }: Arguments, place: Place): Promise<void> {
  const { folder, nowSeconds, edgeUrl } = place;
  const revocation = findRevocation(required("revoke", words[0]), token.tenant, place);
  const scope: readonly Scope[] = ["admin"];
  const admin = { sub: "npm run token", scope, plan: "default", expiresInSeconds: ADMIN_SECONDS };
  await revokeToken(edge ?? edgeUrl, await issueToken(admin, issuerOf(place)), revocation);
  noteInRegister(folder, { event: "revoked", ...revocation }, nowSeconds);
  console.log(revocation.jti);
}

/** What a token says, without checking it: to revoke one that nobody takes does no harm. */
function findRevocation(word: string, tenant: string | undefined, { folder, issuer, nowSeconds }: Place): Revocation {
  if (word.split(".").length === 3) {
    const { iss, sub, tid, jti, exp } = decode(word);
    if (typeof jti !== "string" || exp === undefined)
      throw new UsageError("a token without jti and exp can't be revoked");
    if (iss !== issuer && tenant === undefined) {
      throw new UsageError("the token is another issuer's: name its tenant as the edge logs it, with --tenant");
    }
    return { tenant: tenant ?? (typeof tid === "string" ? tid : String(sub)), jti, exp };
  }
  const known = readRegister(folder, nowSeconds).issued.find(({ jti }) => jti === word);
  if (known !== undefined) return { tenant: tenant ?? known.tenant, jti: word, exp: known.exp };
  if (tenant === undefined)
    throw new UsageError(`no token with the jti ${word} was issued here: name its tenant, --tenant`);
  return { tenant, jti: word, exp: nowSeconds + UNKNOWN_EXPIRY_SECONDS };
}

function decode(token: string): ReturnType<typeof decodeJwt> {
  try {
    return decodeJwt(token);
  } catch (cause) {
    throw new UsageError("that is no token", { cause });
  }
}

function list({ folder, nowSeconds }: Place): void {
  const { issued, revoked } = readRegister(folder, nowSeconds);
  const gone = new Set(revoked.map(({ jti }) => jti));
  for (const { event: _, iat, exp, ...rest } of issued) {
    const times = { issued: isoTime(iat), expires: isoTime(exp) };
    console.log(JSON.stringify({ ...rest, ...times, revoked: gone.has(rest.jti) }));
  }
}

async function keys({ words, alg }: Arguments, { folder, nowSeconds }: Place): Promise<void> {
  const [action, kid] = words;
  if (action === "add") {
    await addSigningKey(folder, alg ?? SIGNING_ALGORITHMS[0], nowSeconds);
  } else if (action === "remove") {
    if (!removeSigningKey(folder, required("keys remove", kid))) throw new UsageError(`there is no key ${String(kid)}`);
  } else if (action !== undefined) throw new UsageError(`keys knows add and remove, not "${action}"`);
  console.log(JSON.stringify(publicJwks(readSigningKeys(folder))));
}

function makeClient({ id, token }: Arguments): void {
  const name = required("--id", id);
  const secret = randomBytes(CLIENT_SECRET_BYTES).toString("base64url");
  const { tenant, plan, scope: scopes } = token;
  const secretSha256 = createHash("sha256").update(secret).digest("hex");
  const client = Object.entries({ secretSha256, tenant, plan, scopes }).filter(([, value]) => value !== undefined);
  console.log(JSON.stringify({ secret, COLDPATH_CLIENTS: { [name]: Object.fromEntries(client) } }));
}

function isoTime(seconds: number): string {
  return new Date(seconds * 1000).toISOString();
}
