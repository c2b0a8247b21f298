/**
 * Bundles the edge worker exactly as a deployment to Cloudflare would, with wrangler, and writes workerd's
 * configuration beside the bundle. Works without a network.
 */
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { type BundleModule, workerdConfig } from "../workerd-config.ts";
import { LaunchFailure } from "./failure.ts";
import type { Guard } from "./guard.ts";
import { describeExit, startPart } from "./part.ts";

const require = createRequire(import.meta.url);

export interface BundleOptions {
  /** The project's root, where wrangler.toml is. */
  readonly root: string;
  /** The stack's own folder; the bundle goes into `edge/` of it. */
  readonly folder: string;
  readonly host: string;
  readonly port: number;
  /** For processes that share the port. */
  readonly hasOwnSocket?: boolean;
  /** Variables that become the worker's bindings. */
  readonly bindings: readonly string[];
  readonly env: NodeJS.ProcessEnv;
  readonly guard: Guard;
  readonly signal: AbortSignal;
}

/**
 * Bundles and configures.
 *
 * @returns the path of workerd's configuration
 * @throws {LaunchFailure} with wrangler's last lines, when the worker does not bundle
 */
export async function bundleEdge(options: BundleOptions): Promise<string> {
  const outDir = join(options.folder, "edge");
  rmSync(outDir, { recursive: true, force: true });
  mkdirSync(outDir, { recursive: true, mode: 0o700 });
  await runWrangler(options, outDir);

  const settings = readWranglerSettings(join(options.root, "wrangler.toml"));
  const entry = `${settings.main.replace(/^.*\//, "").replace(/\.ts$/, "")}.js`;
  if (!existsSync(join(outDir, entry)))
    throw new LaunchFailure(`wrangler wrote no ${entry}: is main in wrangler.toml right?`);
  const path = join(outDir, "workerd.capnp");
  writeFileSync(path, workerdConfig({ ...options, ...settings, modules: listModules(outDir, entry) }));
  return path;
}

async function runWrangler(options: BundleOptions, outDir: string): Promise<void> {
  const part = await startPart({
    name: "wrangler",
    command: process.execPath,
    args: [
      join(dirname(require.resolve("wrangler/package.json")), "bin/wrangler.js"),
      "deploy",
      "--dry-run",
      "--outdir",
      outDir,
    ],
    cwd: options.root,
    // No telemetry, no question, and no look for updates: each would wait for a network that may not be there.
    env: {
      ...options.env,
      WRANGLER_SEND_METRICS: "false",
      CLOUDFLARE_CF_FETCH_ENABLED: "false",
      WRANGLER_HIDE_BANNER: "true",
      CI: "true",
    },
    output: { file: join(options.folder, "wrangler.log") },
    guard: options.guard,
  });
  const kill = () => part.kill();
  options.signal.addEventListener("abort", kill, { once: true });
  const exit = await part.exited;
  options.signal.removeEventListener("abort", kill);
  options.signal.throwIfAborted();
  if (exit.code === 0) return;
  throw new LaunchFailure(`the edge could not be bundled: wrangler ${describeExit(exit)} and said:`, {
    logTail: exit.logTail,
  });
}

/** The few settings of `wrangler.toml` that workerd needs, all plain top-level lines of the file, which is ours. */
export function readWranglerSettings(path: string) {
  const text = readFileSync(path, "utf8");
  const main = /^main\s*=\s*"([^"]+)"/m.exec(text)?.[1];
  const compatibilityDate = /^compatibility_date\s*=\s*"([^"]+)"/m.exec(text)?.[1];
  if (main === undefined || compatibilityDate === undefined) {
    throw new LaunchFailure(`${path} must set main and compatibility_date`);
  }
  const flags = /^compatibility_flags\s*=\s*\[([^\]]*)\]/m.exec(text)?.[1] ?? "";
  return {
    main,
    compatibilityDate,
    compatibilityFlags: [...flags.matchAll(/"([^"]+)"/g)].map(([, flag = ""]) => flag),
  };
}

function listModules(outDir: string, entry: string): readonly BundleModule[] {
  const others = readdirSync(outDir).filter((file) => file !== entry);
  return [{ file: entry, kind: "esModule" }, ...others.flatMap(toModule)];
}

/** Source maps and wrangler's note about the folder are no modules. */
function toModule(file: string): readonly BundleModule[] {
  if (/\.m?js$/.test(file)) return [{ file, kind: "esModule" }];
  if (/\.(lua|txt|html)$/.test(file)) return [{ file, kind: "text" }];
  if (file.endsWith(".wasm")) return [{ file, kind: "wasm" }];
  return [];
}
