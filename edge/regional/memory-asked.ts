/**
 * The most-asked lists of the embedded store: the arithmetic of `count-asked.lua`, in one isolate. Tenants beyond the
 * bound are forgotten, the least recently counted first.
 */
import { Lru } from "../../shared/lru.ts";
import type { Platform } from "../platform/platform.ts";
import { ASKED_HALF_LIFE_SECONDS, type AskedCount, type PurgeTarget } from "./regional-store.ts";

interface Listed {
  /** As in the script: the logarithm of a sum. */
  score: number;
  sealed: string | undefined;
}

export class AskedLists {
  readonly #platform: Pick<Platform, "now">;
  readonly #lists: Lru<Map<string, Listed>>;
  readonly #questionsMax: number;

  /** @param questionsMax - of all tenants together */
  constructor(platform: Pick<Platform, "now">, questionsMax: number) {
    this.#platform = platform;
    this.#questionsMax = questionsMax;
    this.#lists = new Lru({ weightMax: questionsMax, weigh: (list) => Math.max(list.size, 1) });
  }

  count(tenant: string, asked: readonly AskedCount[], max: number): readonly string[] {
    const list = new Map(this.#lists.get(tenant));
    for (const { digest, times } of asked) {
      const score = this.#now() + Math.log2(times);
      const before = list.get(digest)?.score ?? makeRoom(list, Math.min(max, this.#questionsMax));
      list.set(digest, {
        score: before === undefined ? score : addLogs(before, score),
        sealed: list.get(digest)?.sealed,
      });
    }
    this.#lists.set(tenant, list);
    return asked
      .map(({ digest }) => digest)
      .filter((digest) => list.get(digest)?.sealed === undefined && list.has(digest));
  }

  keep(tenant: string, questions: readonly (readonly [string, string])[]): void {
    const list = this.#lists.get(tenant);
    for (const [digest, sealed] of questions) {
      const listed = list?.get(digest);
      if (listed !== undefined) listed.sealed = sealed;
    }
  }

  top(tenant: string, count: number): readonly (AskedCount & { readonly sealed: string })[] {
    return [...(this.#lists.get(tenant) ?? [])]
      .toSorted(([, a], [, b]) => b.score - a.score)
      .slice(0, count)
      .flatMap(([digest, { score, sealed }]) =>
        sealed === undefined ? [] : [{ digest, times: 2 ** (score - this.#now()), sealed }],
      );
  }

  forget({ tenant, digest, digestPrefix }: PurgeTarget): void {
    if (digest === undefined && digestPrefix !== undefined) return;
    for (const name of tenant === undefined ? [...this.#lists.keys()] : [tenant]) {
      if (digest === undefined) this.#lists.delete(name);
      else this.#lists.get(name)?.delete(digest);
    }
  }

  #now(): number {
    return this.#platform.now() / 1000 / ASKED_HALF_LIFE_SECONDS;
  }
}

/** @returns the score that the new one inherits */
function makeRoom(list: Map<string, Listed>, max: number): number | undefined {
  let inherited: number | undefined;
  while (list.size >= max) {
    let last: [string, number] | undefined;
    for (const [digest, { score }] of list) if (last === undefined || score < last[1]) last = [digest, score];
    if (last === undefined) return undefined;
    list.delete(last[0]);
    inherited = last[1];
  }
  return inherited;
}

/** The logarithm of the sum of what these are the logarithms of. */
function addLogs(one: number, other: number): number {
  const [low, high] = one < other ? [one, other] : [other, one];
  return high + Math.log2(1 + 2 ** (low - high));
}
