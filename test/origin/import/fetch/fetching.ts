/** Helpers for tests of downloads: settings for hubs on the loopback, and a pull by name. */
import { type ImportConfig, readImportConfig } from "../../../../origin/import/config.ts";
import { pull, type PulledModel, type PullOptions } from "../../../../origin/import/fetch/pull.ts";
import { parseReference } from "../../../../origin/import/fetch/reference.ts";
import { silentProgress } from "../../../../origin/import/progress/progress.ts";
import type { Hub } from "../../../fakes/hub.ts";

export const SEGMENT_BYTES = 50_000;

/** Settings that fetch everything from this hub, with timeouts that are long enough for a busy machine. */
export function fetchEnvironment(hub: Hub, modelsDir: string): Readonly<Record<string, string>> {
  return {
    COLDPATH_MODELS_DIR: modelsDir,
    COLDPATH_HUB_ENDPOINT: hub.origin,
    COLDPATH_MODELSCOPE_ENDPOINT: `${hub.origin}/scope`,
    COLDPATH_S3_ENDPOINT: `${hub.origin}/s3`,
    COLDPATH_DOWNLOAD_STALL_MS: "30000",
    COLDPATH_DOWNLOAD_CONNECT_MS: "30000",
    COLDPATH_DOWNLOAD_RETRY_MS: "5",
    COLDPATH_DOWNLOAD_SEGMENT_BYTES: `${SEGMENT_BYTES}`,
  };
}

/** Fetches a model by its name, again even if it is already in the store. */
export function pullNamed(name: string, config: ImportConfig, more: Partial<PullOptions> = {}): Promise<PulledModel> {
  const reference = parseReference(name);
  if (reference === undefined) throw new Error(`${name} is not a model reference`);
  return pull(reference, { config, progress: silentProgress, fetch, ...more, refresh: true });
}

export function fetchConfig(
  hub: Hub,
  modelsDir: string,
  overrides: Readonly<Record<string, string>> = {},
): ImportConfig {
  return readImportConfig({ ...fetchEnvironment(hub, modelsDir), ...overrides });
}
