/** Can this edge serve: a hit (the store answers), a miss (the origin is ready)? Knows no caller. */
import { ColdpathError } from "../../shared/errors.ts";
import type { Call } from "../call/call.ts";
import type { EdgeConfig } from "../config.ts";
import { isOk, type OriginClient } from "../fleet/origin-client.ts";
import type { RegionalStore } from "../regional/regional-store.ts";

interface ReadyParts {
  readonly config: EdgeConfig;
  readonly store: RegionalStore;
  readonly origin: OriginClient;
}

/**
 * @returns `{ hit, miss }`, both as booleans
 * @throws {ColdpathError} `not_ready` when no cold prompt could be answered
 */
export async function checkReadiness(call: Call, { config, store, origin }: ReadyParts): Promise<Response> {
  const [hit, originReady] = await Promise.all([succeeds(store.ping()), succeeds(askOrigin(call, origin, config))]);
  const miss = originReady && (hit || config.limiterFails === "open");
  if (!miss) {
    const what = originReady ? "the regional store does" : "the origin does";
    throw new ColdpathError("not_ready", `${what} not answer; hits can be served: ${hit ? "yes" : "no"}`);
  }
  return Response.json({ hit, miss });
}

async function askOrigin(call: Call, origin: OriginClient, config: EdgeConfig): Promise<void> {
  const signal = AbortSignal.timeout(config.modelsTimeoutMs);
  const response = await origin.send({ method: "GET", path: "/ready", requestId: call.requestId, body: "", signal });
  await response.body.cancel();
  if (!isOk(response)) throw new Error(`the origin answered ${response.status}`);
}

function succeeds(work: Promise<unknown>): Promise<boolean> {
  return work.then(
    () => true,
    () => false,
  );
}
