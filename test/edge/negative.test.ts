/** What is never an answer out of the cache: failures, refusals, and what is too old for the one who asks. */
import { describe, expect, it } from "vitest";
import { ask, chat, createStack, errorOf, STORES } from "./stack.ts";

const ONLY = { headers: { "cache-control": "only-if-cached" } };

describe.each(STORES)("with its store in %s", (store) => {
  it.each(["cut", "reset", "garbage", "no-usage", "error-event"] as const)(
    "an answer that breaks (%s) is kept by neither tier, in neither form, and is asked for again",
    async (how) => {
      const stack = createStack({ store });
      stack.origin.script.breaks = { how, after: 2 };
      for (const form of [{}, { stream: true }, {}]) await (await ask(stack, chat("hello", form))).text();
      await stack.settled();
      expect(stack.origin.asked).toHaveLength(3);
      for (const form of [{}, { stream: true }]) {
        expect((await errorOf(await ask(stack, chat("hello", form), ONLY))).code).toBe("not_cached");
      }
      stack.origin.script.breaks = undefined;
      expect((await ask(stack, chat("hello"))).headers.get("x-cache")).toBe("MISS");
      expect((await ask(stack, chat("hello"), ONLY)).headers.get("x-cache")).toBe("HIT");
    },
  );

  it.each([400, 404, 429, 500, 503])("a refusal with status %d is asked for again", async (status) => {
    const stack = createStack({ store });
    const error = {
      message: "no",
      type: "t",
      code: status === 429 ? "queue_full" : "context_length_exceeded",
      param: null,
    };
    stack.origin.script.refusal = () => Response.json({ error }, { status });
    for (const form of [{}, { stream: true }]) expect((await ask(stack, chat("hello", form))).ok).toBe(false);
    expect(stack.origin.asked).toHaveLength(2);
    expect((await ask(stack, chat("hello"), ONLY)).status).toBe(504);
    stack.origin.script.refusal = undefined;
    expect((await ask(stack, chat("hello"))).headers.get("x-cache")).toBe("MISS");
  });

  it("only-if-cached asks no origin, refreshes nothing, and gets what is as fresh as the operator allows", async () => {
    const bindings = {
      COLDPATH_CACHE_TTL_SECONDS: "10",
      COLDPATH_CACHE_STALE_SECONDS: "15",
      COLDPATH_CACHE_ERROR_SECONDS: "60",
      COLDPATH_ISOLATE_ANSWER_BYTES_MAX: "0",
      COLDPATH_PERMIT_MS: "0",
    };
    const keptAt = async (secondsAgo: number) => {
      const stack = createStack({ store, bindings });
      stack.clock.offsetMs = -secondsAgo * 1000;
      await (await ask(stack, chat("hello"))).text();
      await stack.settled();
      stack.clock.offsetMs = 0;
      const response = await ask(stack, chat("hello"), ONLY);
      await stack.settled();
      expect(stack.origin.asked).toHaveLength(1);
      return [response.status, response.headers.get("x-cache")];
    };
    expect(await keptAt(3)).toEqual([200, "HIT"]);
    expect(await keptAt(18)).toEqual([200, "STALE"]);
    // Kept for the case that no origin answers, and nobody has asked one.
    expect(await keptAt(40)).toEqual([504, null]);
  });
});
