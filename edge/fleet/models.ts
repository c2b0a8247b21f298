/**
 * Which models the origin serves, with the digest that is part of every answer's identity and the context length that
 * bounds a reservation. The list is plain data in the isolate, refreshed behind the requests, and a sealed copy rests
 * in the regional store, so that an isolate born while the origin is down still serves hits.
 */
import * as z from "zod";
import type { Model } from "../../shared/completion-response.ts";
import { ColdpathError } from "../../shared/errors.ts";
import { readAll } from "../../shared/read-body.ts";
import type { Call } from "../call/call.ts";
import { isOk, unavailable, type OriginClient } from "./origin-client.ts";
import type { RegionalStore } from "../regional/regional-store.ts";
import type { Sealer } from "../cache/seal.ts";

export interface Models {
  /** @throws {ColdpathError} `origin_unavailable` when nobody knows the list */
  list(call: Call): Promise<readonly Model[]>;
  /** The id of the model meant by a request that names none: the first of the list that makes text. */
  first(call: Call): Promise<string>;
  /** The digest behind an id as far as this isolate knows it; asks nobody, but sees to it that the list stays young. */
  digestOf(call: Call, id: string): string | undefined;
  /** @throws {ColdpathError} `model_not_found`, `origin_unavailable` */
  find(call: Call, id: string): Promise<Model>;
  /** The origin no longer serves this digest: the next who needs the list asks for it anew, and nobody waits. */
  doubt(digest: string): void;
}

interface ModelsSettings {
  readonly modelsTtlSeconds: number;
  readonly modelsTimeoutMs: number;
  readonly modelsKeptSeconds: number;
}

const modelSchema = z.object({
  id: z.string().min(1),
  object: z.literal("model"),
  created: z.int(),
  owned_by: z.string(),
  digest: z.string().min(1),
  context_length: z.int().min(1),
  task: z.enum(["generate", "embed"]),
});
const listSchema = z.object({ object: z.literal("list"), data: z.array(modelSchema) });

const LIST_BYTES_MAX = 1_048_576;
const SHARED_NAME = "models";
/** No tenant has this name: a tenant is never empty. */
const SEAL = { tenant: "", place: SHARED_NAME };

export function createModels(
  settings: ModelsSettings,
  { origin, store, sealer }: { readonly origin: OriginClient; readonly store: RegionalStore; readonly sealer: Sealer },
): Models {
  let known: { readonly models: readonly Model[]; readonly checkedMs: number } | undefined;

  const refresh = async (call: Call): Promise<readonly Model[]> => {
    const models = await fetchModels(call, origin, settings.modelsTimeoutMs);
    known = { models, checkedMs: call.platform.now() };
    call.waitUntil(keep(models).catch(() => undefined)); // The copy is a spare; without it only a cold start suffers.
    return models;
  };
  const keep = async (models: readonly Model[]): Promise<void> => {
    const sealed = await sealer.seal(SEAL, JSON.stringify(models));
    await store.keepShared(SHARED_NAME, sealed, settings.modelsKeptSeconds);
  };
  const readKept = async (call: Call): Promise<readonly Model[] | undefined> => {
    const sealed = await store.readShared(SHARED_NAME, call).catch(() => undefined);
    const text = sealed === undefined ? undefined : await sealer.open(SEAL, sealed);
    return text === undefined ? undefined : z.array(modelSchema).safeParse(JSON.parse(text)).data;
  };

  /** What is known; a list that grew old is refreshed behind the request. */
  const listKnown = (call: Call): readonly Model[] | undefined => {
    const nowMs = call.platform.now();
    if (known !== undefined && nowMs - known.checkedMs >= settings.modelsTtlSeconds * 1000) {
      // Checked now, whatever comes of it: one request per period asks, and no other waits for it.
      known = { ...known, checkedMs: nowMs };
      call.waitUntil(refresh(call).catch(() => undefined));
    }
    return known?.models;
  };
  const list = async (call: Call): Promise<readonly Model[]> => {
    const models = listKnown(call);
    if (models !== undefined) return models;
    const nowMs = call.platform.now();
    try {
      return await refresh(call);
    } catch (error) {
      const kept = await readKept(call);
      if (kept === undefined) throw error;
      known = { models: kept, checkedMs: nowMs };
      return kept;
    }
  };

  return {
    list,
    doubt: (digest) => {
      // Whoever began before the list was renewed doubts the old one.
      if (known?.models.some((model) => model.digest === digest) === true) {
        known = { ...known, checkedMs: Number.NEGATIVE_INFINITY };
      }
    },
    first: async (call) => {
      const models = await list(call);
      const model = models.find(({ task }) => task === "generate") ?? models[0];
      if (model === undefined) throw unavailable("the origin serves no model");
      return model.id;
    },
    digestOf: (call, id) => listKnown(call)?.find((model) => model.id === id)?.digest,
    find: async (call, id) => {
      const model = (await list(call)).find((candidate) => candidate.id === id);
      if (model !== undefined) return model;
      throw new ColdpathError(
        "model_not_found",
        `the model "${id}" is not served here; GET /v1/models lists those that are`,
        {
          param: "model",
        },
      );
    },
  };
}

async function fetchModels(call: Call, origin: OriginClient, timeoutMs: number): Promise<readonly Model[]> {
  try {
    const response = await origin.send({
      method: "GET",
      path: "/v1/models",
      requestId: call.requestId,
      body: "",
      signal: AbortSignal.timeout(timeoutMs),
    });
    const bytes = await readAll(response.body, LIST_BYTES_MAX);
    if (!isOk(response)) throw new Error(`the origin answered ${response.status} for its models`);
    return listSchema.parse(JSON.parse(new TextDecoder().decode(bytes))).data;
  } catch (cause) {
    throw cause instanceof ColdpathError ? cause : unavailable(cause);
  }
}
