import { availableParallelism } from "node:os";
import { cloudflareTest } from "@cloudflare/vitest-plugin";
import { defineConfig } from "vitest/config";

/** For the tests of the worker's own entry; every other test makes its edges itself. Nobody listens on port 9. */
const EDGE_BINDINGS = {
  COLDPATH_ORIGIN_URL: "http://127.0.0.1:9",
  COLDPATH_ORIGIN_SECRET: "an origin secret of more than 32 bytes",
  COLDPATH_CACHE_SECRET: "a cache secret of more than 32 bytes",
  COLDPATH_JWT_SECRET: "a token secret of more than 32 bytes",
  COLDPATH_STORE: "memory",
};

export default defineConfig({
  test: {
    // Vitest leaves one core to itself by default, which on a machine of two halves the speed.
    maxWorkers: availableParallelism(),
    projects: [
      {
        test: {
          name: "node",
          include: ["test/*.test.ts", "test/{shared,origin,infra,edge/{platform,entries}/node}/**/*.test.ts"],
          globalSetup: ["test/setup/redis.ts", "test/setup/model.ts"],
          testTimeout: 120_000,
        },
      },
      {
        plugins: [
          cloudflareTest({ wrangler: { configPath: "./wrangler.toml" }, miniflare: { bindings: EDGE_BINDINGS } }),
        ],
        test: {
          name: "edge",
          include: ["test/edge/**/*.test.ts"],
          exclude: ["test/edge/{platform,entries}/node/**"],
          globalSetup: ["test/setup/redis.ts"],
          testTimeout: 30_000,
        },
      },
      {
        test: {
          name: "system",
          include: ["test/system/**/*.test.ts"],
          globalSetup: ["test/setup/redis.ts", "test/setup/model.ts"],
          fileParallelism: false,
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      },
    ],
  },
});
