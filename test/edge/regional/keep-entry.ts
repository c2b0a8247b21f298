/** Keeps an entry of which nothing was reserved: what a test finds in the store, without the asking before it. */
import type { Keeping, RegionalStore } from "../../../edge/regional/regional-store.ts";

/** @returns `false` where the tenant's answers were purged since it was asked for */
export async function keepEntry(store: RegionalStore, tenant: string, keeping: Keeping): Promise<boolean> {
  const nothing = { tenant, leaseId: "", tokens: 0, windows: { day: 0, month: 0 }, scopes: [] };
  const kept = await store.settle(nothing, 0, keeping);
  if (kept !== "kept" && kept !== "purged") throw new Error(`expected it to be kept, not ${kept}`);
  return kept === "kept";
}
