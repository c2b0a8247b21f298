/**
 * Describes a model's source for the manifest: its files with their digests, and when they last changed. The description
 * names the place of origin but no path on this machine, so that the same import elsewhere writes the same bytes.
 */
import { statSync } from "node:fs";
import { basename, join } from "node:path";
import { filesDigest, type Manifest } from "../../manifest/manifest.ts";
import { fileSha256 } from "../disk/digest.ts";
import { COMPANIONS } from "../fetch/choose-files.ts";
import type { Download } from "../fetch/store.ts";
import { presentGgufParts } from "../sources/gguf-parts.ts";
import { weightFiles } from "../sources/safetensors.ts";

export interface SourceDescription {
  readonly source: Manifest["source"];
  /** Time of the last change, ISO 8601. */
  readonly created: string;
}

/** Describes a download, whose digests are known. */
export function describeDownload(download: Download): SourceDescription {
  const { kind, name, location, revision, files, modified } = download;
  const bytes = Object.values(files).reduce((sum, file) => sum + file.bytes, 0);
  return { source: { kind, name, location, revision, bytes, sha256: filesDigest(files), files }, created: modified };
}

/** Describes a file, or a checkpoint's folder, on this machine. Reads every byte. */
export async function describeLocal(path: string): Promise<SourceDescription> {
  const { bytes, created } = localState(path);
  const files: Manifest["source"]["files"] = {};
  for (const [name, file] of localFiles(path)) {
    files[name] = { bytes: statSync(file).size, sha256: await fileSha256(file) };
  }
  const name = basename(path);
  const source = {
    kind: "file" as const,
    name,
    location: name,
    revision: null,
    bytes,
    sha256: filesDigest(files),
    files,
  };
  return { source, created };
}

/** Size and time of the last change. Tells whether a local source changed, without reading it. */
export function localState(path: string): { readonly bytes: number; readonly created: string } {
  const stats = [...localFiles(path).values()].map((file) => statSync(file));
  const newest = Math.max(0, ...stats.map(({ mtimeMs }) => mtimeMs));
  return { bytes: stats.reduce((sum, { size }) => sum + size, 0), created: new Date(newest).toISOString() };
}

/** Paths by file name: the file itself, or all files of a checkpoint. */
function localFiles(path: string): ReadonlyMap<string, string> {
  if (path.toLowerCase().endsWith(".gguf"))
    return new Map(presentGgufParts(path).map((part) => [basename(part), part]));
  const { folder, names } = weightFiles(path);
  const companions = COMPANIONS.filter((name) => statSync(join(folder, name), { throwIfNoEntry: false })?.isFile());
  return new Map([...names, ...companions].toSorted().map((name) => [name, join(folder, name)]));
}
