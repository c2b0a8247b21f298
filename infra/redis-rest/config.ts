/** The knobs of redis-rest: the whole manual of its process. */
import { type Knob, KnobError, integerKnob, secretKnob, textKnob } from "../../shared/knobs.ts";

/** Also read by the launcher, where it has no default: unset means "start a private Redis". */
export function redisUrlKnob<T extends string | undefined>(fallback: T): Knob<string | T> {
  return {
    env: "COLDPATH_REDIS_URL",
    help: "redis:// or rediss:// URL of the regional Redis (6.2 or newer) or Valkey, with user, password and database.",
    fallback,
    parse: (text) => {
      const protocol = URL.parse(text)?.protocol;
      // The text may hold a password, so it is not repeated.
      if (protocol !== "redis:" && protocol !== "rediss:") {
        throw new KnobError("COLDPATH_REDIS_URL must look like redis://:password@host:6379/0, or rediss:// for TLS");
      }
      return text;
    },
  };
}

export const REDIS_REST_KNOBS = {
  host: textKnob({
    env: "COLDPATH_REDIS_REST_HOST",
    help: "Address redis-rest listens on. Anything but loopback needs TLS in front: the token travels in clear.",
    fallback: "127.0.0.1",
  }),
  port: integerKnob({
    env: "COLDPATH_REDIS_REST_PORT",
    help: "TCP port redis-rest listens on; 0 takes a free one.",
    fallback: 8901,
    max: 65_535,
  }),
  token: secretKnob({
    env: "COLDPATH_REDIS_REST_TOKEN",
    help: "Bearer token that may run every command redis-rest lets through, at least 32 bytes.",
  }),
  readToken: secretKnob({
    env: "COLDPATH_REDIS_REST_READ_TOKEN",
    help: "Bearer token that may only read, at least 32 bytes. Unset: there is none.",
  }),
  redisUrl: redisUrlKnob("redis://127.0.0.1:6379"),
  timeoutMs: integerKnob({
    env: "COLDPATH_REDIS_REST_TIMEOUT_MS",
    help: "Milliseconds a request may wait for Redis before it is answered 504. Redis may still run its commands.",
    fallback: 5_000,
    min: 1,
    max: 600_000,
  }),
  bodyBytesMax: integerKnob({
    env: "COLDPATH_REDIS_REST_BODY_BYTES_MAX",
    help: "Bytes of the largest accepted request body; beyond it 413.",
    fallback: 4 * 1024 * 1024,
    min: 1,
  }),
  pipelineCommandsMax: integerKnob({
    env: "COLDPATH_REDIS_REST_PIPELINE_MAX",
    help: "Commands in one /pipeline or /multi-exec; beyond it 400.",
    fallback: 1_000,
    min: 1,
  }),
  pendingCommandsMax: integerKnob({
    env: "COLDPATH_REDIS_REST_PENDING_MAX",
    help: "Commands that may wait for Redis at once, all requests together; beyond it 503. Bounds memory when Redis is slow.",
    fallback: 10_000,
    min: 1,
  }),
} as const;
