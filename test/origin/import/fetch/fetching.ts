/** What the tests of fetching share: settings for hubs on the loopback, and a pull by name. */
import { type ImportConfig, readImportConfig } from "../../../../origin/import/config.ts";
import { pull, type Pulled, type PullOptions } from "../../../../origin/import/fetch/pull.ts";
import { parseWanted } from "../../../../origin/import/fetch/wanted.ts";
import { silentProgress } from "../../../../origin/import/progress/progress.ts";
import type { Hub } from "../../../fakes/hub.ts";

export const SEGMENT_BYTES = 50_000;

/** Settings under which everything is fetched from this hub, patient enough for any loaded machine. */
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

/** Fetches by a name as a person writes it, asking the source even for what is there. */
export function pullNamed(name: string, config: ImportConfig, more: Partial<PullOptions> = {}): Promise<Pulled> {
  const wanted = parseWanted(name);
  if (wanted === undefined) throw new Error(`${name} is nothing to fetch`);
  return pull(wanted, { config, progress: silentProgress, fetch, ...more, refresh: true });
}

export function fetchConfig(
  hub: Hub,
  modelsDir: string,
  overrides: Readonly<Record<string, string>> = {},
): ImportConfig {
  return readImportConfig({ ...fetchEnvironment(hub, modelsDir), ...overrides });
}
