/** The deployed entry itself, with the bindings of vitest.config.ts: no origin listens there. */
import { exports } from "cloudflare:workers";
import { describe, expect, it } from "vitest";
import { errorOf, token } from "../stack.ts";

const edge = (exports as unknown as { readonly default: Fetcher }).default;

describe("the worker as it is deployed", () => {
  it("is up", async () => {
    const response = await edge.fetch("http://edge.test/healthz");
    expect(await response.json()).toEqual({ status: "ok" });
  });

  it("knows its callers, and says in an envelope that no origin is there", async () => {
    const headers = { "content-type": "application/json", authorization: `Bearer ${await token({ sub: "alice" })}` };
    const body = JSON.stringify({ prompt: "hello" });
    const response = await edge.fetch("http://edge.test/generate", { method: "POST", headers, body });
    expect(response.status).toBe(503);
    expect((await errorOf(response)).code).toBe("origin_unavailable");
  });
});
