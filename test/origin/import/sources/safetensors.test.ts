/** Reading safetensors: right values from a sound checkpoint in one file or several, one clear sentence from any other. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { ImportError } from "../../../../origin/manifest/import-error.ts";
import { openSafetensors } from "../../../../origin/import/sources/safetensors.ts";
import { type FakeFileOptions, type FakeTensor, fakeTensor, safetensorsFile } from "../../../fakes/safetensors-file.ts";

let folder = "";
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "coldpath-safetensors-"));
  writeFileSync(join(folder, "config.json"), '{"model_type":"llama","hidden_size":4}');
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** Values that every dtype can hold exactly. */
function counted(length: number): Float32Array {
  return Float32Array.from({ length }, (_, i) => (i - 3) / 4);
}

const TENSORS: readonly FakeTensor[] = [
  fakeTensor("model.embed_tokens.weight", [6, 4], counted(24), "BF16"),
  fakeTensor("model.norm.weight", [4], counted(4), "F32"),
  fakeTensor("lm_head.weight", [6, 4], counted(24), "F16"),
];

function write(
  tensors: readonly FakeTensor[] = TENSORS,
  options: FakeFileOptions = {},
  name = "model.safetensors",
): void {
  writeFileSync(join(folder, name), safetensorsFile(tensors, options));
}

/** Two files and their index. */
function writeShards(edit: (weightMap: Record<string, string>) => unknown = (map) => map): void {
  const [first, second] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
  write(TENSORS.slice(0, 2), {}, first);
  write(TENSORS.slice(2), {}, second);
  const map = Object.fromEntries(TENSORS.map(({ name }, i) => [name, i < 2 ? first : second]));
  writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify({ weight_map: edit(map) }));
}

/** The failure, which must be an expected one of one line that names the folder. */
function failure(path = folder): ImportError {
  let error: unknown;
  try {
    using file = openSafetensors(path);
    for (const name of file.shapes.keys()) file.readTensor(name);
  } catch (thrown) {
    error = thrown;
  }
  expect(error).toBeInstanceOf(ImportError);
  const { message } = error as ImportError;
  expect(message).toContain(folder);
  expect(message).not.toContain("\n");
  return error as ImportError;
}

describe("reads", () => {
  test("one file, by its folder or its own path, with what lies beside it", () => {
    write();
    writeFileSync(join(folder, "generation_config.json"), "{}");
    for (const path of [folder, join(folder, "model.safetensors")]) {
      using file = openSafetensors(path);
      expect(file).toMatchObject({ format: "safetensors", path: folder });
      expect(file.metadata).toEqual({ model_type: "llama", hidden_size: 4 });
      expect(Object.fromEntries(file.shapes)).toEqual({
        "model.embed_tokens.weight": [6, 4],
        "model.norm.weight": [4],
        "lm_head.weight": [6, 4],
      });
      for (const name of ["model.embed_tokens.weight", "lm_head.weight"]) {
        expect(file.readTensor(name)).toEqual(counted(24));
        expect(file.readRows(name, 2, 5)).toEqual(counted(24).slice(8, 20));
      }
      expect(file.readTensor("model.norm.weight")).toEqual(counted(4));
      expect(file.readText("generation_config.json")).toBe("{}");
      expect(file.readText("tokenizer.json")).toBeUndefined();
    }
  });

  test("several files, by their folder, their index or any of them", () => {
    writeShards();
    for (const name of ["", "model.safetensors.index.json", "model-00002-of-00002.safetensors"]) {
      using file = openSafetensors(join(folder, name));
      expect([...file.shapes.keys()].toSorted()).toEqual(TENSORS.map((tensor) => tensor.name).toSorted());
      for (const tensor of ["model.embed_tokens.weight", "lm_head.weight"]) {
        expect(file.readTensor(tensor)).toEqual(counted(24));
      }
    }
  });

  test("a snapshot of links into a store, as Hugging Face's cache keeps them", () => {
    write(TENSORS, {}, "blob");
    symlinkSync(join(folder, "blob"), join(folder, "model.safetensors"));
    using file = openSafetensors(folder);
    expect(file.readTensor("model.norm.weight")).toEqual(counted(4));
  });

  test("a file of another name, where it is the only one", () => {
    write(TENSORS, {}, "weights.safetensors");
    using file = openSafetensors(folder);
    expect(file.shapes.size).toBe(3);
  });

  test("rows that are there, and no others", () => {
    write();
    using file = openSafetensors(folder);
    expect(file.readRows("model.norm.weight", 0, 1)).toEqual(counted(4));
    expect(() => file.readRows("lm_head.weight", 5, 7)).toThrow(RangeError);
    expect(() => file.readRows("lm_head.bias", 0, 1)).toThrow(ImportError);
  });
});

describe("refuses a file that is not all there", () => {
  test("cut at any byte", () => {
    const bytes = safetensorsFile(TENSORS);
    for (let cut = 0; cut < bytes.length; cut++) {
      writeFileSync(join(folder, "model.safetensors"), bytes.subarray(0, cut));
      expect(failure().code, `cut at ${cut}`).toBe("truncated-file");
    }
  });

  test("a file that shrinks while it is open", () => {
    write();
    using file = openSafetensors(folder);
    truncateSync(join(folder, "model.safetensors"), safetensorsFile(TENSORS).length - 1);
    expect(() => file.readTensor("lm_head.weight")).toThrow(/became shorter/);
  });
});

function entryAt(offsets: string): string {
  return `{"a":{"dtype":"F32","shape":[1],"data_offsets":${offsets}}}`;
}

describe("refuses a header that lies:", () => {
  const [embedding, norm, head] = TENSORS as [FakeTensor, FakeTensor, FakeTensor];
  const cases: readonly (readonly [string, readonly FakeTensor[], FakeFileOptions, RegExp])[] = [
    ["a length past the limit", TENSORS, { headerLength: 2n ** 60n }, /claims a header of 1152921504606846976 bytes/],
    ["a length of nothing", TENSORS, { headerLength: 0n }, /not JSON/],
    ["no JSON", TENSORS, { editHeader: (json) => json.replace("{", "[") }, /not JSON/],
    ["a list", [], { editHeader: () => "[]" }, /no JSON object/],
    ["null", [], { editHeader: () => "null" }, /no JSON object/],
    ["no entry", [], { editHeader: () => '{"a":null}' }, /describes a by something other/],
    [
      "an entry too many",
      [],
      { editHeader: () => '{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4],"x":1}}' },
      /other/,
    ],
    ["offsets below zero", [], { editHeader: () => entryAt("[-4,0]") }, /describes a by something other/],
    ["offsets between bytes", [], { editHeader: () => entryAt("[0.5,4.5]") }, /describes a by something other/],
    [
      "offsets past what can be counted",
      [],
      { editHeader: () => entryAt("[0,1e300]") },
      /describes a by something other/,
    ],
    ["an end before the beginning", [], { editHeader: () => entryAt("[8,4]") }, /and -4 bytes/],
    ["an offset inside another tensor", [embedding, { ...norm, offsets: [40, 56] }, head], {}, /begin inside another/],
    ["an offset that leaves a hole", [embedding, { ...norm, offsets: [52, 68] }], {}, /leaves 4 bytes before/],
    ["an offset behind the file", [{ ...norm, offsets: [2 ** 50, 2 ** 50 + 16] }], {}, /leaves 1125899906842624 bytes/],
    ["two tensors in one place", [norm, { ...norm, name: "other", offsets: [0, 16] }], {}, /begin inside another/],
    ["another number of bytes than the shape has", [{ ...norm, shape: [5] }], {}, /shape \[5\] of F32 and 16 bytes/],
    ["a shape that overflows", [{ ...norm, shape: [2 ** 40, 2 ** 40] }], {}, /the shape \[/],
    ["a shape that overflows to nothing", [{ ...norm, shape: [2 ** 32, 2 ** 32, 0] }], {}, /shape/],
    ["an unknown element type", [{ ...norm, dtype: "F31" }], {}, /F31, which the format does not have/],
    [
      "a tensor twice",
      [norm],
      { editHeader: (json) => json.replace('"model.norm', '"model.norm.weight":null,"model.norm') },
      /the key "model\.norm\.weight" is there twice/,
    ],
    [
      "a tensor twice, once in escapes",
      [norm],
      { editHeader: (json) => json.replace('"model.norm', '"\\u006dodel.norm.weight":null,"model.norm') },
      /is there twice/,
    ],
    ["a dtype twice", [norm], { editHeader: (json) => json.replace('"dtype"', '"dtype":"F16","dtype"') }, /twice/],
    ["something behind the JSON", [], { editHeader: () => "{}{}" }, /not JSON/],
  ];
  test.each(cases)("%s", (_, tensors, options, message) => {
    write(tensors, options);
    const error = failure();
    expect(error.message).toMatch(message);
    expect(error.code).toBe("invalid-file");
  });

  test("bytes that are no UTF-8", () => {
    const bytes = safetensorsFile(TENSORS);
    bytes[12] = 0xff;
    writeFileSync(join(folder, "model.safetensors"), bytes);
    expect(failure().message).toMatch(/not JSON: .*utf-8/);
  });

  test("bytes behind the last tensor", () => {
    writeFileSync(join(folder, "model.safetensors"), Buffer.concat([safetensorsFile(TENSORS), Buffer.alloc(3)]));
    expect(failure().message).toMatch(/3 bytes behind its last tensor/);
  });

  test("a name that is a property of every object is just a name", () => {
    write([
      { ...norm, name: "__proto__" },
      { ...norm, name: "constructor" },
    ]);
    using file = openSafetensors(folder);
    expect([...file.shapes.keys()]).toEqual(["__proto__", "constructor"]);
  });
});

test.each(["F32", "F16", "BF16"] as const)("weights in %s that are infinite or no numbers are refused", (dtype) => {
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
    const values = counted(24);
    values[23] = bad;
    write([fakeTensor("lm_head.weight", [6, 4], values, dtype)]);
    using file = openSafetensors(folder);
    expect(file.readRows("lm_head.weight", 0, 5)).toEqual(counted(24).slice(0, 20));
    expect(() => file.readRows("lm_head.weight", 5, 6)).toThrow(/has weights in lm_head\.weight that are infinite/);
    expect(() => file.readTensor("lm_head.weight")).toThrow(ImportError);
  }
});

test("a type that can't be read is refused when it is asked for, not before: a model may not need it", () => {
  write([...TENSORS, { name: "position_ids", dtype: "I64", shape: [1], data: new Uint8Array(8) }]);
  using file = openSafetensors(folder);
  expect(file.readTensor("model.norm.weight")).toEqual(counted(4));
  expect(() => file.readTensor("position_ids")).toThrow(/stores position_ids as I64, which can't be read/);
});

describe("refuses a folder", () => {
  test("without weights, or with several and no index", () => {
    expect(failure().message).toMatch(/has no safetensors file/);
    write(TENSORS, {}, "a.safetensors");
    write(TENSORS, {}, "b.safetensors");
    expect(failure().message).toMatch(/has 2 safetensors files and no model\.safetensors\.index\.json/);
  });

  test("that is not there", () => {
    expect(failure(join(folder, "missing")).code).toBe("unreadable-file");
    expect(failure(join(folder, "missing.safetensors")).code).toBe("unreadable-file");
  });

  test("without a config, or with one that is none", () => {
    write();
    for (const text of ["", "[]", "null", '{"a":1', '{"a":1,"a":2}']) {
      writeFileSync(join(folder, "config.json"), text);
      expect(failure().message).toMatch(/config\.json is no/);
    }
    rmSync(join(folder, "config.json"));
    expect(failure().message).toMatch(/has no config\.json/);
  });

  test("that is quantized already", () => {
    write();
    writeFileSync(join(folder, "config.json"), '{"quantization_config":{"quant_method":"gptq"}}');
    expect(failure()).toMatchObject({ code: "unsupported-model", message: expect.stringMatching(/by 'gptq'/) });
  });

  test("where a file is a folder", () => {
    mkdirSync(join(folder, "model.safetensors"));
    expect(failure().message).toMatch(/is not a file/);
  });
});

describe("refuses an index", () => {
  const second = "model-00002-of-00002.safetensors";
  const cases: readonly (readonly [string, (map: Record<string, string>) => unknown, RegExp])[] = [
    ["that leads out of its folder", (map) => ({ ...map, "lm_head.weight": "../other.safetensors" }), /names '\.\.\//],
    [
      "that leads to the root",
      (map) => ({ ...map, "lm_head.weight": "/other.safetensors" }),
      /no safetensors file beside/,
    ],
    ["of other files", (map) => ({ ...map, "lm_head.weight": "pytorch_model.bin" }), /names 'pytorch_model\.bin'/],
    ["of a file that is missing", (map) => ({ ...map, "lm_head.weight": "gone.safetensors" }), /there is no such file/],
    ["of a tensor that is missing", (map) => ({ ...map, "lm_head.bias": second }), /lacks the tensor lm_head\.bias/],
    [
      "with a tensor in another file",
      (map) => ({ ...map, "model.norm.weight": second }),
      /which .* has in model-00002/,
    ],
    ["without a tensor that is there", (map) => ({ ...map, "lm_head.weight": undefined, x: second }), /has in no file/],
    ["of nothing", () => ({}), /names no tensor/],
    ["without a map", () => 1, /no weight_map/],
    [
      "of more files than can be open",
      () => Object.fromEntries(Array.from({ length: 501 }, (_, i) => [`${i}`, `${i}.safetensors`])),
      /501 files/,
    ],
  ];
  test.each(cases)("%s", (_, edit, message) => {
    writeShards(edit);
    expect(failure().message).toMatch(message);
  });

  test("that is cut", () => {
    writeShards();
    const path = join(folder, "model.safetensors.index.json");
    const bytes = readFileSync(path);
    for (let cut = 0; cut < bytes.length; cut++) {
      writeFileSync(path, bytes.subarray(0, cut));
      expect(failure().code).toBe("invalid-file");
    }
  });
});
