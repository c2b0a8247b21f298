/**
 * The folders of imported models: finding them, and replacing or removing one so that a process killed at any moment leaves
 * either a complete model or none. Does not depend on what is imported.
 */
import { mkdirSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { type Manifest, MANIFEST_FILE, readManifest } from "../../manifest/manifest.ts";
import { renameDurably } from "../disk/durable.ts";
import { withLock } from "../disk/lock.ts";
import type { ProgressReporter } from "../progress/progress.ts";

export interface ImportedModel {
  readonly folder: string;
  readonly manifest: Manifest;
}

/** Lists the imported models of a models folder by name. Incomplete folders and those of another version are left out. */
export function listModels(modelsDir: string): readonly ImportedModel[] {
  if (statSync(modelsDir, { throwIfNoEntry: false }) === undefined) return [];
  const names = readdirSync(modelsDir).filter((name) => !name.startsWith("."));
  return names.toSorted().flatMap((name) => {
    const folder = join(modelsDir, name);
    const manifest = readIntactManifest(folder);
    return manifest === undefined ? [] : [{ folder, manifest }];
  });
}

/** Reads the manifest of a folder that has all of its files, each with the right size; undefined for any other folder. */
export function readIntactManifest(folder: string): Manifest | undefined {
  let manifest: Manifest;
  try {
    manifest = readManifest(folder);
  } catch {
    return undefined;
  }
  const isIntact = Object.entries(manifest.files).every(
    ([file, { bytes }]) => statSync(join(folder, file), { throwIfNoEntry: false })?.size === bytes,
  );
  return isIntact ? manifest : undefined;
}

export interface FolderLockOptions {
  readonly config: { readonly lockWaitMs: number };
  readonly progress: ProgressReporter;
}

/**
 * Runs `action` while no other process imports or removes the model of this folder.
 *
 * @throws {ImportError} `busy` if another process holds the lock for too long
 */
export function withFolderLock<T>(
  folder: string,
  { config, progress }: FolderLockOptions,
  action: () => Promise<T>,
): Promise<T> {
  const onWait = (pid: number) => progress.line(`waiting for process ${pid}, which is importing ${basename(folder)}`);
  return withLock(hiddenSibling(folder, "lock"), { waitMs: config.lockWaitMs, onWait }, action);
}

/** Removes an imported model's folder. Waits for a process that is importing it. */
export async function removeModel(folder: string, options: FolderLockOptions): Promise<void> {
  await withFolderLock(folder, options, () => {
    // The manifest goes first: a folder without one is not a model, so a killed removal leaves nothing that looks complete.
    rmSync(join(folder, MANIFEST_FILE), { force: true });
    rmSync(folder, { recursive: true, force: true });
    return Promise.resolve();
  });
}

/** A folder under construction beside the model's, deleted at the end unless it was moved. */
export class UnfinishedFolder implements Disposable {
  readonly path: string;
  readonly #target: string;

  constructor(target: string) {
    this.#target = target;
    this.path = hiddenSibling(target, "importing");
    rmSync(this.path, { recursive: true, force: true });
    mkdirSync(this.path);
  }

  /** Moves it to the model's place. A folder can't be renamed onto another one, so the old one is moved aside first. */
  replaceTarget(): void {
    const old = hiddenSibling(this.#target, "old");
    rmSync(old, { recursive: true, force: true });
    if (statSync(this.#target, { throwIfNoEntry: false }) !== undefined) renameSync(this.#target, old);
    renameDurably(this.path, this.#target);
    rmSync(old, { recursive: true, force: true });
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

/** A hidden name beside the folder, on the same file system, so that a rename is atomic. */
function hiddenSibling(folder: string, extension: string): string {
  return join(dirname(folder), `.${basename(folder)}.${extension}`);
}
