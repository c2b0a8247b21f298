/** What a plan allows. A token names its plan; the operator says here what the name means. Limits nothing itself. */
import * as z from "zod";
import { KnobError } from "../../shared/knobs.ts";

const limits = z.strictObject({
  requestsPerMinute: z.int().min(1).max(1e9),
  tokensPerMinute: z.int().min(1).max(1e9),
  streamsMax: z.int().min(1).max(1e6),
  tokensPerDay: z.int().min(1).max(1e12).optional(),
  tokensPerMonth: z.int().min(1).max(1e12).optional(),
});

/** `tenant` limits all of a tenant's subjects together; without it only each subject is limited. */
const plan = limits.extend({ tenant: limits.optional() });

/**
 * Ceilings of one subject or tenant. A bucket holds one minute's worth and refills evenly; a day and a month are the
 * calendar's, in UTC, and begin anew at 00:00.
 */
export type Limits = z.infer<typeof limits>;
export type Plan = z.infer<typeof plan>;

/** The plan of a token that names none. */
export const DEFAULT_PLAN = "default";

/** `bench` is no limit in practice, and still takes the whole way through the limiter. */
export const SHIPPED_PLANS: ReadonlyMap<string, Plan> = new Map([
  [DEFAULT_PLAN, { requestsPerMinute: 60, tokensPerMinute: 60_000, streamsMax: 8 }],
  ["bench", { requestsPerMinute: 1e9, tokensPerMinute: 1e9, streamsMax: 1e6 }],
]);

/**
 * Reads plans from JSON; a shipped plan stays unless one of its name is given.
 *
 * @throws {KnobError} naming `env`, the plan and the field
 */
export function parsePlans(env: string, text: string): ReadonlyMap<string, Plan> {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new KnobError(`${env} must be JSON`, { cause });
  }
  const parsed = z.record(z.string().min(1), plan).safeParse(json);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw new KnobError(`${env}: ${issue?.path.join(".") || "plans"}: ${issue?.message ?? "is not valid"}`);
  }
  return new Map([...SHIPPED_PLANS, ...Object.entries(parsed.data)]);
}
