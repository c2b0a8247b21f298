/** Reading safetensors: the right values of a valid checkpoint in one file or several, and one sentence for any other. */
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

/** Values that are exact in every dtype. */
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

/** Writes two files and their index. */
function writeShards(edit: (weightMap: Record<string, string>) => unknown = (map) => map): void {
  const [first, second] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
  write(TENSORS.slice(0, 2), {}, first);
  write(TENSORS.slice(2), {}, second);
  const map = Object.fromEntries(TENSORS.map(({ name }, i) => [name, i < 2 ? first : second]));
  writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify({ weight_map: edit(map) }));
}

/** The error, which must be an ImportError with one line that names the folder. */
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
  test("one file, given by its folder or its path, and the files beside it", () => {
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

  test("several files, given by their folder, their index or any of them", () => {
    writeShards();
    for (const name of ["", "model.safetensors.index.json", "model-00002-of-00002.safetensors"]) {
      using file = openSafetensors(join(folder, name));
      expect([...file.shapes.keys()].toSorted()).toEqual(TENSORS.map((tensor) => tensor.name).toSorted());
      for (const tensor of ["model.embed_tokens.weight", "lm_head.weight"]) {
        expect(file.readTensor(tensor)).toEqual(counted(24));
      }
    }
  });

  test("links into a store, as in Hugging Face's cache", () => {
    write(TENSORS, {}, "blob");
    symlinkSync(join(folder, "blob"), join(folder, "model.safetensors"));
    using file = openSafetensors(folder);
    expect(file.readTensor("model.norm.weight")).toEqual(counted(4));
  });

  test("a file with another name if it is the only one", () => {
    write(TENSORS, {}, "weights.safetensors");
    using file = openSafetensors(folder);
    expect(file.shapes.size).toBe(3);
  });

  test("rows that exist, and no others", () => {
    write();
    using file = openSafetensors(folder);
    expect(file.readRows("model.norm.weight", 0, 1)).toEqual(counted(4));
    expect(() => file.readRows("lm_head.weight", 5, 7)).toThrow(RangeError);
    expect(() => file.readRows("lm_head.bias", 0, 1)).toThrow(ImportError);
  });
});

describe("refuses", () => {
  test("a file truncated at any byte", () => {
    const bytes = safetensorsFile(TENSORS);
    for (let cut = 0; cut < bytes.length; cut++) {
      writeFileSync(join(folder, "model.safetensors"), bytes.subarray(0, cut));
      expect(failure().code, `cut at ${cut}`).toBe("truncated-file");
    }
  });

  test("a file that becomes shorter while it is open", () => {
    write();
    using file = openSafetensors(folder);
    truncateSync(join(folder, "model.safetensors"), safetensorsFile(TENSORS).length - 1);
    expect(() => file.readTensor("lm_head.weight")).toThrow(/was truncated while it was read/);
  });
});

function entryAt(offsets: string): string {
  return `{"a":{"dtype":"F32","shape":[1],"data_offsets":${offsets}}}`;
}

describe("refuses a header with", () => {
  const [embedding, norm, head] = TENSORS as [FakeTensor, FakeTensor, FakeTensor];
  const cases: readonly (readonly [string, readonly FakeTensor[], FakeFileOptions, RegExp])[] = [
    ["a length beyond the limit", TENSORS, { headerLength: 2n ** 60n }, /claims a header of 1152921504606846976 bytes/],
    ["a length of 0", TENSORS, { headerLength: 0n }, /not JSON/],
    ["invalid JSON", TENSORS, { editHeader: (json) => json.replace("{", "[") }, /not JSON/],
    ["a list", [], { editHeader: () => "[]" }, /not a JSON object/],
    ["null", [], { editHeader: () => "null" }, /not a JSON object/],
    ["null for a tensor", [], { editHeader: () => '{"a":null}' }, /describes a without dtype/],
    [
      "an unknown field of a tensor",
      [],
      { editHeader: () => '{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4],"x":1}}' },
      /or with other fields/,
    ],
    ["negative offsets", [], { editHeader: () => entryAt("[-4,0]") }, /describes a without dtype/],
    ["fractional offsets", [], { editHeader: () => entryAt("[0.5,4.5]") }, /describes a without dtype/],
    ["offsets beyond safe integers", [], { editHeader: () => entryAt("[0,1e300]") }, /describes a without dtype/],
    ["an end before the beginning", [], { editHeader: () => entryAt("[8,4]") }, /gives a -4 bytes/],
    ["an offset inside another tensor", [embedding, { ...norm, offsets: [40, 56] }, head], {}, /inside another tensor/],
    ["an offset that leaves a gap", [embedding, { ...norm, offsets: [52, 68] }], {}, /has 4 unused bytes before/],
    [
      "an offset behind the end of the file",
      [{ ...norm, offsets: [2 ** 50, 2 ** 50 + 16] }],
      {},
      /has 1125899906842624 unused bytes/,
    ],
    ["two tensors in one place", [norm, { ...norm, name: "other", offsets: [0, 16] }], {}, /inside another tensor/],
    ["bytes that do not fit the shape", [{ ...norm, shape: [5] }], {}, /16 bytes, which does not fit \[5\] of F32/],
    ["a shape that overflows", [{ ...norm, shape: [2 ** 40, 2 ** 40] }], {}, /does not fit \[/],
    ["a shape that overflows although it is empty", [{ ...norm, shape: [2 ** 32, 2 ** 32, 0] }], {}, /does not fit/],
    ["an unknown element type", [{ ...norm, dtype: "F31" }], {}, /F31, which is not a type of the format/],
    [
      "a duplicate tensor",
      [norm],
      { editHeader: (json) => json.replace('"model.norm', '"model.norm.weight":null,"model.norm') },
      /duplicate key "model\.norm\.weight"/,
    ],
    [
      "a duplicate tensor, once written with escapes",
      [norm],
      { editHeader: (json) => json.replace('"model.norm', '"\\u006dodel.norm.weight":null,"model.norm') },
      /duplicate key/,
    ],
    [
      "a duplicate dtype",
      [norm],
      { editHeader: (json) => json.replace('"dtype"', '"dtype":"F16","dtype"') },
      /duplicate/,
    ],
    ["characters behind the JSON", [], { editHeader: () => "{}{}" }, /not JSON/],
  ];
  test.each(cases)("%s", (_, tensors, options, message) => {
    write(tensors, options);
    const error = failure();
    expect(error.message).toMatch(message);
    expect(error.code).toBe("invalid-file");
  });

  test("bytes that are not UTF-8", () => {
    const bytes = safetensorsFile(TENSORS);
    bytes[12] = 0xff;
    writeFileSync(join(folder, "model.safetensors"), bytes);
    expect(failure().message).toMatch(/not JSON: .*utf-8/);
  });

  test("unused bytes behind the last tensor", () => {
    writeFileSync(join(folder, "model.safetensors"), Buffer.concat([safetensorsFile(TENSORS), Buffer.alloc(3)]));
    expect(failure().message).toMatch(/3 unused bytes behind its last tensor/);
  });

  test("no error if a tensor's name is a property of every object", () => {
    write([
      { ...norm, name: "__proto__" },
      { ...norm, name: "constructor" },
    ]);
    using file = openSafetensors(folder);
    expect([...file.shapes.keys()]).toEqual(["__proto__", "constructor"]);
  });
});

test.each(["F32", "F16", "BF16"] as const)("refuses infinite and NaN weights in %s", (dtype) => {
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
    const values = counted(24);
    values[23] = bad;
    write([fakeTensor("lm_head.weight", [6, 4], values, dtype)]);
    using file = openSafetensors(folder);
    expect(file.readRows("lm_head.weight", 0, 5)).toEqual(counted(24).slice(0, 20));
    expect(() => file.readRows("lm_head.weight", 5, 6)).toThrow(/has infinite or NaN weights in lm_head\.weight/);
    expect(() => file.readTensor("lm_head.weight")).toThrow(ImportError);
  }
});

test("refuses an unsupported type only when the tensor is read, because a model may not need it", () => {
  write([...TENSORS, { name: "position_ids", dtype: "I64", shape: [1], data: new Uint8Array(8) }]);
  using file = openSafetensors(folder);
  expect(file.readTensor("model.norm.weight")).toEqual(counted(4));
  expect(() => file.readTensor("position_ids")).toThrow(/stores position_ids as I64, which is not supported/);
});

describe("refuses a folder", () => {
  test("without weights, or with several files but no index", () => {
    expect(failure().message).toMatch(/has no safetensors file/);
    write(TENSORS, {}, "a.safetensors");
    write(TENSORS, {}, "b.safetensors");
    expect(failure().message).toMatch(/has 2 safetensors files but no model\.safetensors\.index\.json/);
  });

  test("that does not exist", () => {
    expect(failure(join(folder, "missing")).code).toBe("unreadable-file");
    expect(failure(join(folder, "missing.safetensors")).code).toBe("unreadable-file");
  });

  test("without a config, or with an invalid one", () => {
    write();
    for (const text of ["", "[]", "null", '{"a":1', '{"a":1,"a":2}']) {
      writeFileSync(join(folder, "config.json"), text);
      expect(failure().message).toMatch(/config\.json is not/);
    }
    rmSync(join(folder, "config.json"));
    expect(failure().message).toMatch(/has no config\.json/);
  });

  test("that is already quantized", () => {
    write();
    writeFileSync(join(folder, "config.json"), '{"quantization_config":{"quant_method":"gptq"}}');
    expect(failure()).toMatchObject({ code: "unsupported-model", message: expect.stringMatching(/by 'gptq'/) });
  });

  test("with a folder in the place of a file", () => {
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
      /not a safetensors file beside/,
    ],
    [
      "with a file of another type",
      (map) => ({ ...map, "lm_head.weight": "pytorch_model.bin" }),
      /names 'pytorch_model\.bin'/,
    ],
    ["with a missing file", (map) => ({ ...map, "lm_head.weight": "gone.safetensors" }), /there is no such file/],
    ["with a missing tensor", (map) => ({ ...map, "lm_head.bias": second }), /lacks the tensor lm_head\.bias/],
    ["with a tensor in another file", (map) => ({ ...map, "model.norm.weight": second }), /says it is in model-00002/],
    [
      "without a tensor of a file",
      (map) => ({ ...map, "lm_head.weight": undefined, x: second }),
      /says it is in no file/,
    ],
    ["without tensors", () => ({}), /names no tensors/],
    ["without a map", () => 1, /no weight_map/],
    [
      "with too many files",
      () => Object.fromEntries(Array.from({ length: 501 }, (_, i) => [`${i}`, `${i}.safetensors`])),
      /501 files/,
    ],
  ];
  test.each(cases)("%s", (_, edit, message) => {
    writeShards(edit);
    expect(failure().message).toMatch(message);
  });

  test("truncated at any byte", () => {
    writeShards();
    const path = join(folder, "model.safetensors.index.json");
    const bytes = readFileSync(path);
    for (let cut = 0; cut < bytes.length; cut++) {
      writeFileSync(path, bytes.subarray(0, cut));
      expect(failure().code).toBe("invalid-file");
    }
  });
});
