/** More workers beside a running stack, each a workerd of its own: the bare one, and the stack's edge set differently. */
import { copyFile, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { readWranglerSettings } from "../../infra/launch/bundle-edge.ts";
import { settingNames } from "../../infra/launch/environments.ts";
import { findFreePort } from "../../infra/launch/ports.ts";
import type { Stack } from "../../infra/launch/stack.ts";
import { type BundleModule, workerdConfig, workerdProgram } from "../../infra/workerd-config.ts";
import { type ServerProcess, startServer } from "./server-process.ts";

const SETTINGS = readWranglerSettings(join(import.meta.dirname, "../../wrangler.toml"));

/** A worker that does only what cannot be left out. @param values - more of its bindings */
export async function startBareWorker(stack: Stack, values: Readonly<Record<string, string>>): Promise<ServerProcess> {
  const file = "bare-worker.js";
  await copyFile(join(import.meta.dirname, file), join(stack.folder, file));
  const { compatibilityDate, compatibilityFlags } = SETTINGS;
  return start(
    stack,
    stack.folder,
    { name: "bare", modules: [{ file, kind: "esModule" }], compatibilityDate, compatibilityFlags },
    {
      ...values,
      COLDPATH_REDIS_REST_URL: stack.redisRestUrl,
      COLDPATH_REDIS_REST_TOKEN: stack.secrets.COLDPATH_REDIS_REST_TOKEN,
    },
    "/memory",
  );
}

/** The stack's own bundle, Redis and secrets, with some settings changed. */
export async function startEdgeWorker(
  stack: Stack,
  name: string,
  changes: Readonly<Record<string, string>>,
): Promise<ServerProcess> {
  const folder = join(stack.folder, "edge");
  const entry = `${SETTINGS.main.replace(/^.*\//, "").replace(/\.ts$/, "")}.js`;
  const files = (await readdir(folder)).filter((file) => file.endsWith(".lua"));
  const modules: BundleModule[] = [{ file: entry, kind: "esModule" }];
  for (const file of files) modules.push({ file, kind: "text" });
  return start(
    stack,
    folder,
    { ...SETTINGS, name, modules },
    {
      ...stack.secrets,
      COLDPATH_ORIGIN_URL: stack.originUrl,
      COLDPATH_REDIS_REST_URL: stack.redisRestUrl,
      ...changes,
    },
    "/readyz",
  );
}

interface Program {
  readonly name: string;
  readonly modules: readonly BundleModule[];
  readonly compatibilityDate: string;
  readonly compatibilityFlags: readonly string[];
}

async function start(
  stack: Stack,
  folder: string,
  { name, ...program }: Program,
  settings: Readonly<Record<string, string | undefined>>,
  readyPath: string,
): Promise<ServerProcess> {
  const port = await findFreePort();
  const env = { ...process.env, ...settings };
  const path = join(folder, `${name}.capnp`);
  await writeFile(
    path,
    workerdConfig({
      ...program,
      host: "127.0.0.1",
      port,
      bindings: [...settingNames(env), ...Object.keys(env).filter((binding) => binding.startsWith("BENCH_"))],
    }),
  );
  return startServer({
    name,
    folder: stack.folder,
    command: workerdProgram(),
    args: ["serve", path],
    env,
    port,
    readyPath,
    timeoutMs: 10_000,
  });
}
