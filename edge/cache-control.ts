/**
 * What the client wants of the cache: the request's `cache-control`.
 *
 * Decisions: `no-store` neither reads nor keeps; `no-cache` does not read and keeps the new answer. A `max-age` that
 * can't be read counts as 0, the careful side. Directives not listed are ignored, as the RFC asks.
 *
 * Source: RFC 9111, section 5.2.1.
 */

export interface CacheWish {
  /** May a stored answer be the reply? */
  readonly read: boolean;
  /** May the new answer be kept? */
  readonly keep: boolean;
  /** Oldest acceptable answer in seconds; `undefined` takes any. */
  readonly ageMaxSeconds: number | undefined;
  /** A stored answer or nothing. */
  readonly onlyIfCached: boolean;
}

export function readCacheWish(header: string | null): CacheWish {
  const directives = new Map(
    (header ?? "").split(",").map((directive) => {
      const [name = "", value = ""] = directive.split("=", 2);
      return [name.trim().toLowerCase(), value.trim().replaceAll('"', "")];
    }),
  );
  const maxAge = directives.get("max-age");
  const keep = !directives.has("no-store");
  return {
    read: keep && !directives.has("no-cache"),
    keep,
    ageMaxSeconds: maxAge === undefined ? undefined : /^\d{1,9}$/.test(maxAge) ? Number(maxAge) : 0,
    onlyIfCached: directives.has("only-if-cached"),
  };
}
