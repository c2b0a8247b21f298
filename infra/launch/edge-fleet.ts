/**
 * The edge alone on a machine of its own, one process for each core, on either of its self-hosted platforms. Knows no
 * origin and no Redis: their addresses are settings like all others.
 */
import { mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { workerdProgram } from "../workerd-config.ts";
import { bundleEdge } from "./bundle-edge.ts";
import { settingNames } from "./environments.ts";
import { LaunchFailure } from "./failure.ts";
import { type Fleet, startFleet } from "./fleet.ts";
import type { Guard } from "./guard.ts";
import { type Part, startPart } from "./part.ts";
import { findFreePort, requireFreePort } from "./ports.ts";
import { openSharedSocket } from "./shared-socket.ts";
import { waitUntilReady } from "./wait-until-ready.ts";

const ROOT = resolve(import.meta.dirname, "../..");

/** What the edge runs on: Node with a direct Redis connection, or workerd with redis-rest. */
export type EdgePlatform = "node" | "workerd";

export interface EdgeFleetOptions {
  readonly platform: EdgePlatform;
  readonly processes: number;
  readonly host: string;
  readonly port: number;
  /** The edge's settings and secrets. */
  readonly env: NodeJS.ProcessEnv;
  /** For the bundle and wrangler's log. */
  readonly folder: string;
  /** The processes' log lines go into files of the folder, or to this process' own output. */
  readonly output: "files" | "inherit";
  readonly graceMs: number;
  readonly startTimeoutMs: number;
  readonly say: (line: string) => void;
  readonly guard: Guard;
  readonly signal: AbortSignal;
}

/**
 * Starts the processes and waits until the port answers.
 *
 * @throws {LaunchFailure} one sentence about what failed; nothing is left running
 */
export async function startEdgeFleet(options: EdgeFleetOptions): Promise<Fleet> {
  const { host, port, processes, graceMs, say, signal } = options;
  await requireFreePort({ host, port, portKnob: "COLDPATH_EDGE_PORT", hostKnob: "COLDPATH_EDGE_HOST" });
  mkdirSync(options.folder, { recursive: true, mode: 0o700 });
  const ownPorts = await findOwnPorts(processes);
  const siblings = ownPorts.map((ownPort) => `http://${OWN_HOST}:${ownPort}`).join(",");
  const fleetOptions = { ...options, ownPorts, env: { ...options.env, COLDPATH_EDGE_SIBLINGS: siblings } };
  const start = options.platform === "node" ? nodeProcess(fleetOptions) : await workerdProcess(fleetOptions);
  const fleet = await startFleet({ size: processes, start, say, graceMs });
  try {
    const [first] = fleet.parts;
    if (first === undefined) throw new LaunchFailure("the edge ended at once; its log says why");
    const url = `http://${urlHost(host)}:${port}/healthz`;
    await waitUntilReady({ part: first, url, timeoutMs: options.startTimeoutMs, signal });
    return fleet;
  } catch (error) {
    await fleet.stop();
    throw error;
  }
}

type StartProcess = (place: number) => Promise<Part>;

interface SharingOptions extends EdgeFleetOptions {
  /** By place: where each process answers alone. */
  readonly ownPorts: readonly number[];
}

const OWN_HOST = "127.0.0.1";

/** One each; a process that is started again has its place's. */
async function findOwnPorts(processes: number): Promise<readonly number[]> {
  const ports = new Set<number>();
  while (ports.size < processes) ports.add(await findFreePort(OWN_HOST));
  return [...ports];
}

/** It opens its own socket on the shared port. */
function nodeProcess(options: SharingOptions): StartProcess {
  const { host, port } = options;
  return (place) =>
    startPart({
      name: `edge ${place}`,
      command: process.execPath,
      args: [join(ROOT, "edge/entries/node/main.ts")],
      env: {
        ...options.env,
        COLDPATH_EDGE_HOST: host,
        COLDPATH_EDGE_PORT: String(port),
        COLDPATH_EDGE_OWN_PORT: String(options.ownPorts[place]),
      },
      output: outputOf(options, place),
      guard: options.guard,
    });
}

/** It can't share a port by itself, but takes a socket that does. */
async function workerdProcess(options: SharingOptions): Promise<StartProcess> {
  const { host, port, env, folder, guard, signal } = options;
  const bindings = settingNames(env);
  // The bundler needs no setting, and above all no secret.
  const bare = Object.fromEntries(Object.entries(env).filter(([name]) => !bindings.includes(name)));
  const bundle = { root: ROOT, folder, host, port, hasOwnSocket: true, bindings, env: bare, guard, signal };
  const config = await bundleEdge(bundle);
  return async (place) => {
    const socket = await openSharedSocket({ host, port });
    try {
      return await startPart({
        name: `edge ${place}`,
        command: workerdProgram(),
        args: ["serve", config, "--socket-fd=http=3", `--socket-addr=own=${OWN_HOST}:${options.ownPorts[place]}`],
        env,
        descriptor: socket.descriptor,
        output: outputOf(options, place),
        guard,
      });
    } finally {
      socket.close();
    }
  };
}

function outputOf({ output, folder }: EdgeFleetOptions, place: number): { readonly file: string } | "inherit" {
  return output === "inherit" ? output : { file: join(folder, `edge-${place}.log`) };
}

/** An address to listen on as one to connect to. */
export function urlHost(host: string): string {
  if (host === "0.0.0.0") return "127.0.0.1";
  if (host === "::") return "[::1]";
  return host.includes(":") ? `[${host}]` : host;
}
