/** Which format is written, and what is said about it. */
import { describe, expect, test } from "vitest";
import { chooseFormat, usualFormat } from "../../../../origin/import/quantize/choose-format.ts";
import { lacksVnni } from "../../../../origin/import/quantize/processor.ts";
import { GOLDEN_CONFIG } from "../../../../origin/runtime/self-test/golden-model.ts";

const rotatable = GOLDEN_CONFIG;
const unrotatable = { ...GOLDEN_CONFIG, postNorms: true };
const ROTATED = ["int8-rotated", "int8-rows"] as const;

/** The line that Linux shows, shortened. */
function x64(...flags: string[]) {
  const cpuinfo = `processor\t: 0\nmodel name\t: some\nflags\t\t: fpu sse4_2 ${flags.join(" ")} ht\nbugs\t\t: avx512_vnni\n`;
  return { arch: "x64", cpuinfo };
}

describe("the usual format", () => {
  const zen3 = x64("avx", "avx2", "fma");

  test("is whole rows on an x64 processor without VNNI, which computes blocks slowly", () => {
    expect(lacksVnni(zen3)).toBe(true);
    expect(usualFormat({ provider: "cpu", processor: zen3 })).toBe("int8-rows");
  });

  test.each([
    ["with AVX-512 VNNI", x64("avx2", "avx512f", "avx512_vnni")],
    ["with AVX-VNNI", x64("avx2", "avx_vnni")],
    ["too old for either", x64("avx")],
    ["of another kind", { arch: "arm64", cpuinfo: "Features\t: fp asimd i8mm\n" }],
    ["of which nothing is known", { arch: "x64", cpuinfo: "" }],
  ])("is blocks on a processor %s", (_, processor) => {
    expect(usualFormat({ provider: "cpu", processor })).toBe("int8-rotated");
  });

  test.each(["cuda", "webgpu"] as const)("is blocks where %s computes", (provider) => {
    expect(usualFormat({ provider, processor: zen3 })).toBe("int8-rotated");
  });
});

describe("a model that can be rotated", () => {
  test.each(ROTATED)("is, as %s where that is usual, unless another format is asked for", (usual) => {
    expect(chooseFormat(rotatable, undefined, usual)).toEqual({ format: usual });
    expect(chooseFormat(rotatable, "int8-rotated", usual)).toEqual({ format: "int8-rotated" });
    expect(chooseFormat(rotatable, "int4", usual)).toEqual({ format: "int4" });
  });
});

describe("a model with norms behind its parts", () => {
  test.each(ROTATED)("gets int8 where %s is usual, and the reason is said", (usual) => {
    const { format, because } = chooseFormat(unrotatable, undefined, usual);
    expect(format).toBe("int8");
    expect(because).toMatch(/norms behind/);
  });

  test("can have every format that is not rotated, without remark", () => {
    expect(chooseFormat(unrotatable, "int4-asymmetric", "int8-rotated")).toEqual({ format: "int4-asymmetric" });
  });

  test.each(ROTATED)("is refused %s, and told what it can have", (format) => {
    const choose = () => chooseFormat(unrotatable, format, "int8-rotated");
    expect(choose).toThrow(new RegExp(`can't be imported as ${format}, but as int8: `));
  });
});
