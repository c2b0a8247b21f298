/**
 * The configuration with which workerd serves the edge's bundle outside Cloudflare. Values are not in it: every binding
 * is read from workerd's own environment, so the file holds no secret and need not change with one.
 *
 * Source: workerd/workerd.capnp of the npm package.
 */
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);

/** The path of workerd's binary for this machine, which is all that the npm package exports. */
export function workerdProgram(): string {
  return (require("workerd") as { readonly default: string }).default;
}

/** One file of the bundle, its path relative to the configuration. */
export interface BundleModule {
  readonly file: string;
  readonly kind: "esModule" | "text" | "wasm";
}

export interface WorkerdConfigOptions {
  /** The entry first. */
  readonly modules: readonly BundleModule[];
  readonly host: string;
  readonly port: number;
  /** Has a second socket named `own`, for which `--socket-addr=own=` gives each process an address. */
  readonly hasOwnSocket?: boolean;
  /** As in wrangler.toml. */
  readonly compatibilityDate: string;
  readonly compatibilityFlags: readonly string[];
  /** Environment variables that become text bindings. */
  readonly bindings: readonly string[];
}

/** Writes the configuration, in Cap'n Proto's text form. */
export function workerdConfig(options: WorkerdConfigOptions): string {
  const address = options.host.includes(":") ? `[${options.host}]:${options.port}` : `${options.host}:${options.port}`;
  const modules = options.modules.map(({ file, kind }) => `(name = ${quote(file)}, ${kind} = embed ${quote(file)})`);
  const bindings = options.bindings.map((name) => `(name = ${quote(name)}, fromEnvironment = ${quote(name)})`);
  const socketOf = (name: string, at: string) =>
    `(name = ${quote(name)}, address = ${quote(at)}, http = (), service = "edge")`;
  const sockets = [
    socketOf("http", address),
    ...(options.hasOwnSocket === true ? [socketOf("own", "127.0.0.1:0")] : []),
  ];
  // A young generation of 1 MB: V8's default pauses for its collection, which took p99 from 33 ms to over 100 ms.
  // "private" and "local", because the origin and redis-rest are there; workerd allows only "public" by default.
  return `using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    (name = "edge", worker = .edge),
    (name = "network", network = (
      allow = ["public", "private", "local"],
      tlsOptions = (trustBrowserCas = true),
    )),
  ],
  sockets = [
    ${sockets.join(",\n    ")},
  ],
  v8Flags = ["--max-semi-space-size=1"],
);

const edge :Workerd.Worker = (
  modules = [
    ${modules.join(",\n    ")},
  ],
  bindings = [
    ${bindings.join(",\n    ")},
  ],
  compatibilityDate = ${quote(options.compatibilityDate)},
  compatibilityFlags = [${options.compatibilityFlags.map(quote).join(", ")}],
  globalOutbound = "network",
);
`;
}

/** Cap'n Proto's text strings escape as JSON's do for everything a name or a path holds. */
function quote(text: string): string {
  return JSON.stringify(text);
}
