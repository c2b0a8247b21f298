/**
 * Fetches what only benchmarks need (the peers they compare with, the load generator) into a cache folder, so that
 * `npm ci` stays small. Knows names and versions, not what is measured with them.
 */
import { execFile } from "node:child_process";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";

const PEERS = { "node-llama-cpp": "3.22.1", autocannon: "9.0.0", "@portkey-ai/gateway": "1.15.2" } as const;

/** Where a package says what to run: a library has `main`, a program `bin`. */
interface Manifest {
  readonly main?: string;
  readonly bin?: string | Readonly<Record<string, string>>;
}

/**
 * Installs a peer at its pinned version unless it is there.
 *
 * @returns the URL to import it by
 * @throws when the package registry can't be reached
 */
export async function installPeer(name: keyof typeof PEERS): Promise<string> {
  const version = PEERS[name];
  const folder = join(
    process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache"),
    "coldpath",
    "bench",
    `${name.replaceAll("/", "-")}-${version}`,
  );
  const done = join(folder, "installed");
  if ((await readFile(done, "utf8").catch(() => "")) !== version) {
    console.error(`installing ${name} ${version} for this benchmark …`);
    await mkdir(folder, { recursive: true });
    await writeFile(join(folder, "package.json"), `{"private":true}`);
    // Its prebuilt binary comes from the registry; the scripts would look for a compiler and for sources.
    await promisify(execFile)("npm", ["install", "--no-audit", "--no-fund", "--ignore-scripts", `${name}@${version}`], {
      cwd: folder,
    });
    await writeFile(done, version);
  }
  const installed = join(folder, "node_modules", name);
  const { main, bin } = JSON.parse(await readFile(join(installed, "package.json"), "utf8")) as Manifest;
  const entry = main ?? bin;
  if (typeof entry !== "string") throw new Error(`${name} ${version} names no program of its own`);
  return pathToFileURL(join(installed, entry)).href;
}
