/**
 * What the client wants of the cache: the request's `cache-control`.
 *
 * Decisions: `no-store` neither reads nor keeps; `no-cache` does not read and keeps the new answer. A `max-age` that
 * can't be read counts as 0, and of several the smallest counts: the careful side. Directives not listed are ignored, as
 * the RFC asks.
 *
 * Source: RFC 9111, sections 4.2.1 and 5.2.1.
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

/** Of whoever says nothing, as nearly all do. */
const NO_WISH: CacheWish = { read: true, keep: true, ageMaxSeconds: undefined, onlyIfCached: false };

export function readCacheWish(header: string | null): CacheWish {
  if (header === null) return NO_WISH;
  const directives = header.split(",").map((directive) => {
    const [name = "", value = ""] = directive.split("=", 2);
    return { name: name.trim().toLowerCase(), value: value.trim().replaceAll('"', "") };
  });
  const has = (wanted: string): boolean => directives.some(({ name }) => name === wanted);
  const ages = directives.filter(({ name }) => name === "max-age").map(({ value }) => readSeconds(value));
  const keep = !has("no-store");
  return {
    read: keep && !has("no-cache"),
    keep,
    ageMaxSeconds: ages.length === 0 ? undefined : Math.min(...ages),
    onlyIfCached: has("only-if-cached"),
  };
}

function readSeconds(text: string): number {
  return /^\d{1,9}$/.test(text) ? Number(text) : 0;
}
