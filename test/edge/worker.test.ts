import { describe, expect, it } from "vitest";
import { ask, chat, createStack, STORES } from "./stack.ts";

describe.each(STORES)("a cold prompt and the same again, on %s", (store) => {
  it("misses, then hits without the origin, byte-equal in text", async () => {
    const stack = createStack({ store });
    const first = await ask(stack, chat("hello"));
    expect(first.status).toBe(200);
    expect(first.headers.get("x-cache")).toBe("MISS");
    const firstBody = await first.json();

    const second = await ask(stack, chat("hello"));
    expect(second.headers.get("x-cache")).toBe("HIT");
    expect(second.headers.get("x-cache-tier")).toBe("regional");
    expect(await second.json()).toEqual(firstBody);
    expect(stack.origin.asked).toHaveLength(1);
  });
});
