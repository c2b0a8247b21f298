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

const PEERS = {
  "node-llama-cpp": { version: "3.22.1", entry: "dist/index.js" },
  "@huggingface/transformers": { version: "4.3.1", entry: "dist/transformers.node.mjs" },
  "@portkey-ai/gateway": { version: "1.15.2", entry: "build/start-server.js" },
  autocannon: { version: "9.0.0", entry: "autocannon.js" },
  // Draws without a DOM and has two dependencies; vega draws as well and brings sixty, Observable Plot needs a DOM.
  echarts: { version: "6.1.0", entry: "index.js" },
} as const;
export type Peer = keyof typeof PEERS;

/** Where benchmarks keep what they have fetched or made. */
export function benchFolder(): string {
  return join(process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache"), "coldpath", "bench");
}

/** With a slow mirror. */
const INSTALL_TIMEOUT_MS = 300_000;
/** Without any registry npm would wait ten seconds and then a minute before it says so. */
const RETRY_SOON = "--fetch-retry-mintimeout=1000";

/**
 * Installs a peer at its pinned version unless it is there.
 *
 * @returns the URL to import it by
 * @throws when the package registry can't be reached
 */
export async function installPeer(name: Peer): Promise<string> {
  const { version, entry } = PEERS[name];
  const folder = join(benchFolder(), `${name.replaceAll("/", "-")}-${version}`);
  const done = join(folder, "installed");
  if ((await readFile(done, "utf8").catch(() => "")) !== version) {
    console.error(`installing ${name} ${version} for this benchmark …`);
    await mkdir(folder, { recursive: true });
    await writeFile(join(folder, "package.json"), `{"private":true}`);
    // Its prebuilt binary comes from the registry; the scripts would look for a compiler and for sources.
    const args = ["install", "--no-audit", "--no-fund", "--ignore-scripts", RETRY_SOON, `${name}@${version}`];
    await promisify(execFile)("npm", args, { cwd: folder, timeout: INSTALL_TIMEOUT_MS }).catch((cause: unknown) => {
      throw new Error(`${name} ${version} can't be installed: the npm registry is out of reach`, { cause });
    });
    await writeFile(done, version);
  }
  return pathToFileURL(join(folder, "node_modules", name, entry)).href;
}
