/**
 * The keys of an issuer that publishes them at a URL: fetched when first needed, refreshed behind the requests, and looked
 * up once more for a key id nobody knows, because issuers rotate. A URL that is down costs nothing for a while: keys that
 * were good stay so for a stated time. Verifies nothing.
 *
 * Not jose's `createRemoteJWKSet`: it awaits one pending fetch from every request, which Workers forbid (a promise of one
 * request can't be awaited in another), follows redirects, bounds no size and has no age up to which keys outlive an
 * outage. Here a request that finds another's fetch under way looks again on a timer of its own.
 *
 * Source: RFC 7517 (JWKS), RFC 8725 section 3.1.
 */
import { ColdpathError } from "../../shared/errors.ts";
import { readBody } from "../../shared/read-body.ts";
import type { WaitUntil } from "../call/call.ts";
import type { Platform } from "../platform/platform.ts";
import { readPublicKeys, type TokenKey } from "./token-keys.ts";

export interface RemoteKeysSettings {
  readonly jwksTtlSeconds: number;
  readonly jwksStaleSeconds: number;
  readonly jwksCooldownSeconds: number;
  readonly jwksTimeoutMs: number;
}

/** What looking for a key needs of the request that looks. */
export interface KeyAsker {
  readonly platform: Pick<Platform, "fetch" | "now">;
  readonly waitUntil: WaitUntil;
}

/** A key set is a few kilobytes; more is none. */
const BYTES_MAX = 131_072;
/** Between two looks at another request's fetch. */
const POLL_MS = 20;
/** A URL that failed while there were no keys at all is left alone this long: every request would ask it. */
const FAILED_PAUSE_MS = 1_000;

export class RemoteKeys {
  readonly #url: string;
  readonly #settings: RemoteKeysSettings;
  #known: { readonly keys: readonly TokenKey[]; readonly fetchedMs: number } | undefined;
  /** When the last fetch began, and whether it is still under way. */
  #askedMs = Number.NEGATIVE_INFINITY;
  #asking = false;
  #failedMs = Number.NEGATIVE_INFINITY;

  constructor(url: string, settings: RemoteKeysSettings) {
    this.#url = url;
    this.#settings = settings;
  }

  /**
   * The keys that `fits` takes.
   *
   * @throws {ColdpathError} `issuer_unavailable` when there are no keys at all
   */
  async find(asker: KeyAsker, fits: (key: TokenKey) => boolean): Promise<readonly TokenKey[]> {
    const { platform, waitUntil } = asker;
    const nowMs = platform.now();
    const { jwksTtlSeconds, jwksStaleSeconds, jwksCooldownSeconds } = this.#settings;
    const ageMs = nowMs - (this.#known?.fetchedMs ?? Number.NEGATIVE_INFINITY);
    if (this.#known === undefined || ageMs >= (jwksTtlSeconds + jwksStaleSeconds) * 1000) {
      return (await this.#first(asker, nowMs)).filter(fits);
    }
    const found = this.#known.keys.filter(fits);
    if (found.length > 0) {
      if (ageMs >= jwksTtlSeconds * 1000 && this.#mayAsk(nowMs, FAILED_PAUSE_MS)) waitUntil(this.#refresh(platform));
      return found;
    }
    // Perhaps it rotated. Forged ids must not hammer the URL, so once per cool-down, whoever asks.
    if (this.#mayAsk(nowMs, jwksCooldownSeconds * 1000)) await this.#refresh(platform);
    else if (this.#asking) await this.#wait(platform);
    return this.#known.keys.filter(fits);
  }

  async #first({ platform }: KeyAsker, nowMs: number): Promise<readonly TokenKey[]> {
    this.#known = undefined;
    if (this.#isAsking(nowMs)) await this.#wait(platform);
    else if (nowMs - this.#failedMs >= FAILED_PAUSE_MS) await this.#refresh(platform);
    // Whoever waited may have got them from another request.
    const { keys } = (this.#known as { readonly keys: readonly TokenKey[] } | undefined) ?? {};
    if (keys !== undefined) return keys;
    throw new ColdpathError("issuer_unavailable", "the token's issuer can't be asked for its keys; try again shortly", {
      retryAfterSeconds: 1,
    });
  }

  #mayAsk(nowMs: number, pauseMs: number): boolean {
    return !this.#isAsking(nowMs) && nowMs - this.#askedMs >= pauseMs;
  }

  /** A fetch whose request was cancelled never ends; after its timeout it counts as over. */
  #isAsking(nowMs: number): boolean {
    return this.#asking && nowMs - this.#askedMs < this.#settings.jwksTimeoutMs;
  }

  async #wait(platform: Pick<Platform, "now">): Promise<void> {
    while (this.#isAsking(platform.now())) await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }

  /** Never rejects: what is known stays. */
  async #refresh(platform: KeyAsker["platform"]): Promise<void> {
    this.#askedMs = platform.now();
    this.#asking = true;
    try {
      const keys = await this.#fetch(platform);
      this.#known = { keys, fetchedMs: platform.now() };
    } catch {
      this.#failedMs = platform.now();
    } finally {
      this.#asking = false;
    }
  }

  async #fetch({ fetch }: KeyAsker["platform"]): Promise<readonly TokenKey[]> {
    const response = await fetch(this.#url, {
      method: "GET",
      headers: { accept: "application/jwk-set+json, application/json" },
      // Whoever can redirect could name other keys; the operator named this URL.
      redirect: "manual",
      signal: AbortSignal.timeout(this.#settings.jwksTimeoutMs),
    });
    if (!response.ok) {
      await response.body?.cancel();
      throw new Error(`the issuer answered ${response.status}`);
    }
    const bytes = await readBody(response.body, BYTES_MAX);
    if (bytes === undefined) throw new Error("the issuer's keys are too many bytes");
    return readPublicKeys(new TextDecoder().decode(bytes));
  }
}
