/**
 * Downloads on disk: each file once, under its SHA-256, and names that point to files. Models that share a file, and a model
 * that was fetched from two places, share its bytes.
 *
 * ```
 * <models folder>/.store/
 *   blobs/<sha256>               content of a file; gets this name only when it is complete and checked
 *   partial/<key>.part, .lock    a file being downloaded, and the process that downloads it
 *   models/<name>.json           the record of a download; written last, so its files exist
 *   models/<name>/               the same files as a folder of links into blobs/, for readers
 * ```
 *
 * The store's lock is held while a name is added or removed: as long as it takes to look at the blobs and write a record.
 */
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { z } from "zod";
import { renameDurably } from "../disk/durable.ts";
import { withLock } from "../disk/lock.ts";
import { fileSha256 } from "../disk/digest.ts";

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);

/** Record of a download. */
const downloadSchema = z.object({
  name: z.string(),
  kind: z.enum(["hugging-face", "modelscope", "url", "s3", "package-index"]),
  /** The place that it came from, for people: a repository, a URL without its query, a package. */
  location: z.string(),
  /** The commit, or the source's equivalent; `null` if it has none. */
  revision: z.string().nullable(),
  /** Time of the last change according to the source, ISO 8601. */
  modified: z.iso.datetime(),
  files: z.record(z.string(), z.object({ bytes: z.int().min(1), sha256 })),
});

export type Download = z.infer<typeof downloadSchema>;

/** A file that is missing or does not match its digest. */
export interface Damage {
  /** Name of the download. */
  readonly name: string;
  readonly file: string;
  readonly path: string;
  readonly reason: "missing" | "changed";
}

export interface StoreOptions {
  /** The models folder. The store is a hidden folder in it. */
  readonly modelsDir: string;
  /** Milliseconds to wait for another process that adds or removes a name. */
  readonly lockWaitMs: number;
  /** Milliseconds since 1970; default the clock. */
  readonly now?: () => number;
}

/** Milliseconds that an abandoned partial download is kept. */
const PARTIAL_KEPT_MS = 14 * 24 * 3600 * 1000;

export class ModelStore {
  readonly #root: string;
  readonly #lockWaitMs: number;
  readonly #now: () => number;

  constructor({ modelsDir, lockWaitMs, now = Date.now }: StoreOptions) {
    this.#root = join(modelsDir, ".store");
    this.#lockWaitMs = lockWaitMs;
    this.#now = now;
  }

  /** Creates the folders, which everything except reading needs. */
  prepare(): void {
    for (const folder of ["blobs", "partial", "models"]) mkdirSync(join(this.#root, folder), { recursive: true });
  }

  get folder(): string {
    return this.#root;
  }

  blobPath(digest: string): string {
    return join(this.#root, "blobs", digest);
  }

  /** @param key - identifies the file: its digest, or its place and version */
  partialPath(key: string): string {
    return join(this.#root, "partial", `${createHash("sha256").update(key).digest("hex")}.part`);
  }

  /** Compares only the size: a blob's digest was checked before it got its name, and most later damage changes the size. */
  hasBlob({ bytes, sha256: digest }: { readonly bytes: number; readonly sha256: string }): boolean {
    return statSync(this.blobPath(digest), { throwIfNoEntry: false })?.size === bytes;
  }

  /** Folder of the wheels that a model's files are unpacked from. */
  wheelsPath(name: string): string {
    return join(this.#root, "partial", `wheels-${createHash("sha256").update(name).digest("hex").slice(0, 12)}`);
  }

  /** Path of the lock that is held while a name is being fetched. */
  lockPath(name: string): string {
    return `${this.#path(name)}.lock`;
  }

  /** The download of a name, if all of its files exist. */
  find(name: string): Download | undefined {
    const download = readRecord(`${this.#path(name)}.json`);
    return download !== undefined && this.#isWhole(download) ? download : undefined;
  }

  /** All downloads by name, also those with missing files. */
  list(): readonly Download[] {
    const folder = join(this.#root, "models");
    if (statSync(folder, { throwIfNoEntry: false }) === undefined) return [];
    const records = readdirSync(folder).filter((file) => file.endsWith(".json"));
    const all = records.map((file) => readRecord(join(folder, file))).filter((record) => record !== undefined);
    return all.toSorted((a, b) => (a.name < b.name ? -1 : 1));
  }

  /**
   * Gives a name to files that are in the store.
   *
   * @returns false if one of them no longer exists, because another name was removed meanwhile
   */
  add(download: Download): Promise<boolean> {
    return this.#locked(() => {
      if (!this.#isWhole(download)) return false;
      const path = this.#path(download.name);
      this.#link(path, download);
      const record = `${path}.json`;
      const before = readRecord(record);
      writeFileSync(`${record}.new`, `${JSON.stringify(download, undefined, 2)}\n`);
      renameDurably(`${record}.new`, record);
      if (before !== undefined) this.#release(before);
      this.#sweep();
      return true;
    });
  }

  /** The path for readers: the file of a GGUF, or the first of its parts; the folder of a checkpoint. */
  pathOf({ name, files }: Download): string {
    const [first, ...others] = Object.keys(files).toSorted();
    const folder = this.#path(name);
    if (first === undefined) return folder;
    const isFile = others.every((other) => other.toLowerCase().endsWith(".gguf"));
    return isFile ? join(folder, first) : folder;
  }

  /**
   * Removes a name, and the files that no other name needs.
   *
   * @returns the freed bytes; undefined if the name does not exist
   */
  remove(name: string): Promise<number | undefined> {
    return this.#locked(() => {
      const path = this.#path(name);
      const download = readRecord(`${path}.json`);
      rmSync(`${path}.json`, { force: true });
      rmSync(path, { recursive: true, force: true });
      return download && this.#release(download);
    });
  }

  /** Reads every byte of a name's files. */
  async verify({ name, files }: Download): Promise<readonly Damage[]> {
    const damages: Damage[] = [];
    for (const [file, { sha256: digest }] of Object.entries(files)) {
      const path = this.blobPath(digest);
      if (statSync(path, { throwIfNoEntry: false }) === undefined)
        damages.push({ name, file, path, reason: "missing" });
      else if ((await fileSha256(path)) !== digest) damages.push({ name, file, path, reason: "changed" });
    }
    return damages;
  }

  /** Deletes the files of a removed download that no other one needs. @returns the freed bytes */
  #release({ files }: Download): number {
    const needed = new Set(this.list().flatMap((other) => Object.values(other.files).map((file) => file.sha256)));
    const freed = new Map(
      Object.values(files)
        .filter((file) => !needed.has(file.sha256))
        .map((file) => [file.sha256, file]),
    );
    for (const digest of freed.keys()) rmSync(this.blobPath(digest), { force: true });
    return [...freed.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /** Deletes abandoned partial downloads. */
  #sweep(): void {
    const folder = join(this.#root, "partial");
    for (const file of readdirSync(folder)) {
      const path = join(folder, file);
      const changedMs = statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Number.POSITIVE_INFINITY;
      if (this.#now() - changedMs > PARTIAL_KEPT_MS) rmSync(path, { recursive: true, force: true });
    }
  }

  #isWhole({ files }: Download): boolean {
    return Object.values(files).every((file) => this.hasBlob(file));
  }

  #link(folder: string, { files }: Download): void {
    rmSync(folder, { recursive: true, force: true });
    for (const [file, { sha256: digest }] of Object.entries(files)) {
      const path = join(folder, file);
      mkdirSync(dirname(path), { recursive: true });
      symlinkSync(relative(dirname(path), this.blobPath(digest)), path);
    }
  }

  #locked<T>(action: () => T): Promise<T> {
    this.prepare();
    return withLock(join(this.#root, "lock"), { waitMs: this.#lockWaitMs }, () => Promise.resolve(action()));
  }

  /** A name may have slashes and be long, so the path has a digest of it at the end. */
  #path(name: string): string {
    const readable = name
      .replaceAll(/[^A-Za-z0-9._-]+/g, "-")
      .replace(/^[-.]+/, "")
      .slice(0, 80);
    const digest = createHash("sha256").update(name).digest("hex").slice(0, 12);
    return join(this.#root, "models", `${readable}-${digest}`);
  }
}

/** Undefined for a record that is missing, damaged, or of another version: the model is then fetched again. */
function readRecord(path: string): Download | undefined {
  let body: unknown;
  try {
    body = JSON.parse(readFileSync(path, "utf8"));
  } catch {
    return undefined;
  }
  const parsed = downloadSchema.safeParse(body);
  return parsed.success ? parsed.data : undefined;
}
