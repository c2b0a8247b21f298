/**
 * The knobs of the launcher, `npm start`, and of `npm run token`. Every other `COLDPATH_*` variable is handed on to the
 * part that knows it: redis-rest/config.ts, edge/config.ts, origin/config.ts.
 */
import { choiceKnob, integerKnob, textKnob } from "../shared/knobs.ts";
import { DEFAULT_AUDIENCE, DEFAULT_ISSUER } from "../shared/token-claims.ts";
import { REDIS_REST_KNOBS, redisUrlKnob } from "./redis-rest/config.ts";

/** What a token must say so that the edge takes it, where its secret is, and where the edge. */
export const TOKEN_KNOBS = {
  stateDir: textKnob({
    env: "COLDPATH_STATE_DIR",
    help: "Folder for local secrets, logs and the edge's bundle. Relative to the project. Two stacks may share it.",
    fallback: ".coldpath",
  }),
  edgeHost: textKnob({
    env: "COLDPATH_EDGE_HOST",
    help: "Address the edge listens on. Anything but loopback should have TLS in front.",
    fallback: "127.0.0.1",
  }),
  edgePort: integerKnob({
    env: "COLDPATH_EDGE_PORT",
    help: "TCP port the edge listens on.",
    fallback: 8787,
    min: 1,
    max: 65_535,
  }),
  issuer: textKnob({
    env: "COLDPATH_JWT_ISSUER",
    help: "The tokens' iss, the same as the edge's.",
    fallback: DEFAULT_ISSUER,
  }),
  audience: textKnob({
    env: "COLDPATH_JWT_AUDIENCE",
    help: "The tokens' aud, the same as the edge's.",
    fallback: DEFAULT_AUDIENCE,
  }),
} as const;

/** `npm run edge:node` and `npm run edge:workerd`. */
export const EDGE_FLEET_KNOBS = {
  stateDir: TOKEN_KNOBS.stateDir,
  edgeProcesses: integerKnob({
    env: "COLDPATH_EDGE_PROCESSES",
    help: "Processes of npm run edge:node and edge:workerd, which share the port; 0 takes one for each core.",
    fallback: 0,
    max: 1_024,
  }),
  edgeHost: TOKEN_KNOBS.edgeHost,
  edgePort: TOKEN_KNOBS.edgePort,
  startTimeoutMs: integerKnob({
    env: "COLDPATH_START_TIMEOUT_MS",
    help: "Milliseconds each part may take to become ready (the import of a model not counted).",
    fallback: 120_000,
    min: 1_000,
  }),
  stopGraceMs: integerKnob({
    env: "COLDPATH_STOP_GRACE_MS",
    help: "Milliseconds each part may take to stop before it is killed: running answers are finished in it.",
    fallback: 10_000,
    min: 0,
  }),
} as const;

export const LAUNCH_KNOBS = {
  ...TOKEN_KNOBS,
  ...EDGE_FLEET_KNOBS,
  edge: choiceKnob({
    env: "COLDPATH_EDGE",
    help: "What npm start runs the edge on: workerd, as deployed to Cloudflare, or node, which is faster on one's own server.",
    fallback: "workerd",
    choices: ["workerd", "node"],
  }),
  originPort: integerKnob({
    env: "COLDPATH_ORIGIN_PORT",
    help: "TCP port the origin listens on, on loopback.",
    fallback: 8900,
    min: 1,
    max: 65_535,
  }),
  redisRestHost: REDIS_REST_KNOBS.host,
  redisRestPort: integerKnob({ ...REDIS_REST_KNOBS.port, min: 1 }),
  redisUrl: redisUrlKnob(undefined),
  redisMemoryBytes: integerKnob({
    env: "COLDPATH_REDIS_MEMORY_BYTES",
    help: "Memory of the private Redis that npm start runs when COLDPATH_REDIS_URL is unset. Beyond it the answers longest unused go.",
    fallback: 256 * 1024 * 1024,
    min: 8 * 1024 * 1024,
  }),
  store: choiceKnob({
    env: "COLDPATH_STORE",
    help: "redis, or memory: nothing is shared between processes then and no Redis is started. auto takes Redis where it can be had.",
    fallback: "auto",
    choices: ["auto", "redis", "memory"],
  }),
} as const;
