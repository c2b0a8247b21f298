/** The knobs of an edge on Node beside those of every edge (edge/config.ts): where it listens, and its Redis. */
import { integerKnob, type Knob, KnobError, textKnob } from "../../../shared/knobs.ts";

const redisUrl: Knob<string> = {
  env: "COLDPATH_REDIS_URL",
  help: "redis:// or rediss:// URL of the regional Redis (6.2 or newer) or Valkey, with user, password and database.",
  fallback: "redis://127.0.0.1:6379",
  parse: (text) => {
    const protocol = URL.parse(text)?.protocol;
    // The text may hold a password, so it is not repeated.
    if (protocol === "redis:" || protocol === "rediss:") return text;
    throw new KnobError("COLDPATH_REDIS_URL must look like redis://:password@host:6379/0, or rediss:// for TLS");
  },
};

export const NODE_KNOBS = {
  host: textKnob({
    env: "COLDPATH_EDGE_HOST",
    help: "Address the edge listens on. Anything but loopback should have TLS in front.",
    fallback: "127.0.0.1",
  }),
  port: integerKnob({
    env: "COLDPATH_EDGE_PORT",
    help: "TCP port the edge listens on.",
    fallback: 8787,
    max: 65_535,
  }),
  ownPort: integerKnob({
    env: "COLDPATH_EDGE_OWN_PORT",
    help: "TCP port on loopback where this process of several answers alone, see COLDPATH_EDGE_SIBLINGS; 0: there is none.",
    fallback: 0,
    max: 65_535,
  }),
  redisUrl,
  drainMs: integerKnob({
    env: "COLDPATH_EDGE_DRAIN_MS",
    help: "Milliseconds that running answers get to finish after SIGTERM; then they are cut.",
    fallback: 30_000,
  }),
} as const;
