/** Whose limits a caller is under: always its own, and its tenant's where the plan has them. */
import type { Caller } from "./authenticate.ts";
import type { LimitScope } from "./regional/regional-store.ts";

/** The scopes that must all agree before a request goes on. */
export function limitScopes({ subject, plan }: Caller): readonly LimitScope[] {
  const own: LimitScope = { name: "subject", id: subject, limits: plan };
  return plan.tenant === undefined ? [own] : [own, { name: "tenant", id: "", limits: plan.tenant }];
}
