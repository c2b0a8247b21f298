/** Which format is written, and what is said about it. */
import { describe, expect, test } from "vitest";
import { chooseFormat } from "../../../origin/import/choose-format.ts";
import { GOLDEN_CONFIG } from "../../../origin/runtime/self-test/golden-model.ts";

const rotatable = GOLDEN_CONFIG;
const unrotatable = { ...GOLDEN_CONFIG, postNorms: true };

describe("a model that can be rotated", () => {
  test("is, unless another format is asked for", () => {
    expect(chooseFormat(rotatable, undefined)).toEqual({ format: "int8-rotated" });
    expect(chooseFormat(rotatable, "int8-rotated")).toEqual({ format: "int8-rotated" });
    expect(chooseFormat(rotatable, "int4")).toEqual({ format: "int4" });
  });
});

describe("a model with norms behind its parts", () => {
  test("gets int8, and the reason is said", () => {
    const { format, because } = chooseFormat(unrotatable, undefined);
    expect(format).toBe("int8");
    expect(because).toMatch(/norms behind/);
  });

  test("can have every format that is not rotated, without remark", () => {
    expect(chooseFormat(unrotatable, "int4-asymmetric")).toEqual({ format: "int4-asymmetric" });
  });

  test("is refused a rotated one, and told what it can have", () => {
    expect(() => chooseFormat(unrotatable, "int8-rotated")).toThrow(/can't be imported as int8-rotated, but as int8: /);
  });
});
