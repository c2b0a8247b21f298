/** The headers between edge and origin: what is written is read, and nothing else is. */
import { assert, constantFrom, integer, option, property, record, stringMatching } from "fast-check";
import { expect, test } from "vitest";
import { PRIORITIES, readEdgeContext, writeEdgeContext } from "../../shared/edge-context.ts";
import { NORMALIZATIONS } from "../../shared/normalize.ts";

test("what is written is read", () => {
  const maybe = { nil: undefined };
  const name = stringMatching(/^[\w-]{16,128}$/);
  const context = record({
    digest: option(name, maybe),
    tenant: option(name, maybe),
    priority: option(constantFrom(...PRIORITIES), maybe),
    normalize: option(constantFrom(...NORMALIZATIONS), maybe),
    timeoutMs: option(integer({ min: 1, max: 86_400_000 }), maybe),
  });
  assert(
    property(context, (written) => {
      const read = readEdgeContext(new Headers(writeEdgeContext(written)));
      const { tenant = "", priority = "normal", normalize = "off" } = written;
      expect(read).toEqual({ ...written, tenant, priority, normalize });
    }),
  );
});

test.each([
  ["coldpath-digest", ["", "short", "x".repeat(129), "with spaces in it and more", "a/b+c=".repeat(6), "é".repeat(20)]],
  ["coldpath-tenant", ["", "acme", "x".repeat(129), `${"t".repeat(43)}, ${"t".repeat(43)}`]],
  ["coldpath-priority", ["", "urgent", "HIGH", "0", "high, low", "constructor"]],
  ["coldpath-normalize", ["", "on", "SPACE", "unicode, width", "constructor"]],
  ["coldpath-timeout-ms", ["", "0", "-1", "1.5", "1e3", "0x10", "86400001", "9".repeat(30), "01", "5, 5", "NaN"]],
])("%s is refused in any other form", (header, values) => {
  for (const value of values) {
    const headers = new Headers({ [header]: value });
    const expected = expect.objectContaining({ code: "invalid_signature", message: expect.stringContaining(header) });
    expect(() => readEdgeContext(headers), value).toThrow(expected);
  }
});
