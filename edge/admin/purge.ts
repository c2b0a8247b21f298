/**
 * The operator's hold on stored answers: removes them by tenant, model, digest or all of them, counts them, and lists what
 * was asked most. Isolates forget theirs within `COLDPATH_PERMIT_MS`, with their permits. An answer that is being made
 * meanwhile is not kept.
 */
import * as z from "zod";
import { ColdpathError } from "../../shared/errors.ts";
import type { Call } from "../call/call.ts";
import { modelPrefix } from "../question/identify.ts";
import type { Models } from "../fleet/models.ts";
import type { MostAsked } from "../cache/most-asked.ts";
import { StoreUnavailable, type PurgeTarget, type RegionalStore } from "../regional/regional-store.ts";

interface PurgeParts {
  readonly store: RegionalStore;
  readonly models: Models;
  readonly asked: MostAsked;
  readonly config: { readonly bodyBytesMax: number };
}

const TOP_DEFAULT = 20;
const TOP_MAX = 1_000;

const name = z.string().min(1).max(512);
/** `model` is a model's id or, for one that is no longer served, its digest; `everything` must be said. */
export const purgeSchema = z.union([
  z.strictObject({ everything: z.literal(true).describe("All tenants' answers, of all models.") }),
  z
    .strictObject({
      tenant: name.optional().describe("Only this tenant's answers."),
      model: name
        .optional()
        .describe("Only this model's answers: its name, or the digest of one that is served no more."),
      digest: z
        .string()
        .regex(/^[\w-]{1,128}$/)
        .optional()
        .describe("Only this one answer, as /admin/top names it."),
    })
    .refine((target) => Object.values(target).some((field) => field !== undefined)),
]);

/**
 * `POST /admin/purge`: `{ tenant?, model?, digest? }`, of which every one given must agree, or `{ everything: true }`.
 *
 * @returns `{ purged }`, how many answers there were
 * @throws {ColdpathError} `invalid_json`, `invalid_request`, `store_unavailable`
 */
export async function purgeAnswers({ store, models, config }: PurgeParts, call: Call): Promise<Response> {
  const parsed = purgeSchema.safeParse(parse(await call.text(config.bodyBytesMax)));
  if (!parsed.success) {
    const message = "say what to purge: tenant, model, digest, some of them together, or everything: true";
    throw new ColdpathError("invalid_request", message);
  }
  const target: PurgeTarget =
    "everything" in parsed.data
      ? {}
      : {
          tenant: parsed.data.tenant,
          digest: parsed.data.digest,
          digestPrefix:
            parsed.data.model === undefined
              ? undefined
              : modelPrefix(models.digestOf(call, parsed.data.model) ?? parsed.data.model),
        };
  const { digest, digestPrefix = "" } = target;
  if (digest?.startsWith(digestPrefix) === false) return Response.json({ purged: 0 });
  return Response.json({ purged: await reached(store.purge(target), "nothing may have been purged") });
}

/** `GET /admin/stats?tenant=`: how many answers the region holds, of one tenant or of all. */
export async function countAnswers({ store }: PurgeParts, call: Call): Promise<Response> {
  const tenant = new URL(call.request.url).searchParams.get("tenant") ?? undefined;
  return Response.json({ answers: await reached(store.countEntries(tenant), "it can't be counted") });
}

/** `GET /admin/top?tenant=&count=`: what a tenant asks most, in words; `count` is 20 where it is not said. */
export async function listMostAsked({ asked }: PurgeParts, call: Call): Promise<Response> {
  const query = new URL(call.request.url).searchParams;
  const tenant = query.get("tenant");
  const count = Number(query.get("count") ?? TOP_DEFAULT);
  if (tenant === null || tenant === "" || !Number.isInteger(count) || count < 1 || count > TOP_MAX) {
    throw new ColdpathError(
      "invalid_request",
      `say whose questions (tenant), and how many (count) from 1 to ${TOP_MAX}`,
    );
  }
  return Response.json({ questions: await reached(asked.top(tenant, count), "nobody knows what was asked") });
}

async function reached<T>(asked: Promise<T>, otherwise: string): Promise<T> {
  try {
    return await asked;
  } catch (cause) {
    if (!(cause instanceof StoreUnavailable)) throw cause;
    throw new ColdpathError("store_unavailable", `the regional store can't be reached: ${otherwise}`, {
      cause,
      retryAfterSeconds: 1,
    });
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new ColdpathError("invalid_json", "the request body is not valid JSON", { cause });
  }
}
