/**
 * Builds an ONNX graph node by node and turns it into the bytes of a model file; reads a model file's weight list back.
 * Knows ONNX's format, no architecture and no operator's meaning.
 *
 * Source: the ONNX specification, onnx/onnx.proto and docs/IR.md (IR version 10).
 */
import { readFileSync } from "node:fs";
import protobuf from "protobufjs";

/** `TensorProto.DataType`'s numbers, of the types used here. */
export const ELEMENT_TYPES = { float32: 1, uint8: 2, int8: 3, int32: 6, int64: 7, float16: 10 } as const;
export type ElementType = keyof typeof ELEMENT_TYPES;

/** A dimension is a number, or a name where it varies from run to run. */
export type Dimension = number | string;

/** A weight that lies in a file beside the model. */
export interface ExternalTensor {
  readonly name: string;
  readonly type: ElementType;
  readonly shape: readonly number[];
  readonly location: { readonly file: string; readonly offset: number; readonly length: number };
}

export interface NodeOptions {
  /** Whole numbers become `INT` attributes, lists of them `INTS`, `{ float }` becomes `FLOAT`. */
  readonly attributes?: Readonly<Record<string, number | readonly number[] | { readonly float: number }>>;
  /** `""` is ONNX itself, `"com.microsoft"` ONNX Runtime's own operators. Default `""`. */
  readonly domain?: string;
  /** How many outputs the node has, or their names; `""` leaves an optional one out. Default 1. */
  readonly outputs?: number | readonly string[];
}

/** A graph under construction. Values are known by their names. */
export class OnnxGraph {
  readonly #name: string;
  readonly #inputs: object[] = [];
  readonly #outputs: object[] = [];
  readonly #nodes: object[] = [];
  readonly #initializers = new Map<string, object>();
  readonly #shared = new Map<string, string>();

  /** @param name - of the graph, for people; default `decoder` */
  constructor(name = "decoder") {
    this.#name = name;
  }

  /** Declares a graph input and returns its name. */
  input(name: string, type: ElementType, shape: readonly Dimension[]): string {
    this.#inputs.push({ name, type: tensorType(type, shape) });
    return name;
  }

  /** Declares a value that some node makes as a graph output. */
  output(name: string, type: ElementType, shape: readonly Dimension[]): void {
    this.#outputs.push({ name, type: tensorType(type, shape) });
  }

  /** Adds a weight kept in another file, once however often it is named, and returns its name. */
  external(tensor: ExternalTensor): string {
    const { name, type, shape, location } = tensor;
    this.#initializers.set(name, {
      name,
      dataType: ELEMENT_TYPES[type],
      dims: shape,
      dataLocation: 1,
      externalData: [
        { key: "location", value: location.file },
        { key: "offset", value: String(location.offset) },
        { key: "length", value: String(location.length) },
      ],
    });
    return name;
  }

  /** Adds a small constant list of whole numbers, `int64`, and returns its name. */
  constant(name: string, values: readonly number[]): string {
    const rawData = new Uint8Array(BigInt64Array.from(values, BigInt).buffer);
    this.#initializers.set(name, { name, dataType: ELEMENT_TYPES.int64, dims: [values.length], rawData });
    return name;
  }

  /** Adds one constant number and returns its name. */
  scalar(name: string, value: number, type: "float32" | "uint8" = "float32"): string {
    const rawData = type === "uint8" ? Uint8Array.of(value) : new Uint8Array(Float32Array.of(value).buffer);
    this.#initializers.set(name, { name, dataType: ELEMENT_TYPES[type], dims: [], rawData });
    return name;
  }

  /**
   * Adds a node. Its name, and the names of the outputs that are only counted, come from `name`.
   *
   * @param inputs - value names; `""` leaves an optional input out
   * @returns the names of its outputs
   */
  node(opType: string, name: string, inputs: readonly string[], options: NodeOptions = {}): readonly string[] {
    const { attributes = {}, domain = "", outputs = 1 } = options;
    const output =
      typeof outputs === "number"
        ? Array.from({ length: outputs }, (_, index) => (index === 0 ? name : `${name}.${index}`))
        : outputs;
    const attribute = Object.entries(attributes).map(([key, value]) => encodeAttribute(key, value));
    this.#nodes.push({ opType, name, domain, input: inputs, output, attribute });
    return output;
  }

  /** A value that several nodes read: built the first time it is asked for. */
  once(key: string, build: () => string): string {
    const known = this.#shared.get(key);
    if (known !== undefined) return known;
    const built = build();
    this.#shared.set(key, built);
    return built;
  }

  /** The model file's bytes. */
  encode(): Uint8Array {
    const model = {
      irVersion: 10,
      producerName: "coldpath",
      opsetImport: [
        { domain: "", version: 21 },
        { domain: "com.microsoft", version: 1 },
      ],
      graph: {
        name: this.#name,
        node: this.#nodes,
        initializer: [...this.#initializers.values()],
        input: this.#inputs,
        output: this.#outputs,
      },
    };
    const type = modelType();
    return type.encode(type.fromObject(model)).finish();
  }
}

/**
 * Reads the weights that a model file keeps in other files.
 *
 * @param bytes - an ONNX model file
 * @throws an Error when the bytes are not a model, or a weight's entry can't be read
 */
export function readExternalTensors(bytes: Uint8Array): readonly ExternalTensor[] {
  const model = modelType().toObject(modelType().decode(bytes), { longs: Number, arrays: true }) as {
    readonly graph?: { readonly initializer: readonly DecodedTensor[] };
  };
  if (model.graph === undefined) throw new Error("not an ONNX model: it has no graph");
  return model.graph.initializer.filter((tensor) => tensor.dataLocation === 1).map(externalTensor);
}

interface DecodedTensor {
  readonly name: string;
  readonly dims: readonly number[];
  readonly dataType: number;
  readonly dataLocation?: number;
  readonly externalData: readonly { readonly key: string; readonly value: string }[];
}

function externalTensor({ name, dims, dataType, externalData }: DecodedTensor): ExternalTensor {
  const fields = new Map(externalData.map(({ key, value }) => [key, value]));
  const type = (Object.keys(ELEMENT_TYPES) as ElementType[]).find((key) => ELEMENT_TYPES[key] === dataType);
  const file = fields.get("location");
  const [offset, length] = [Number(fields.get("offset")), Number(fields.get("length"))];
  if (type === undefined || file === undefined || !Number.isSafeInteger(offset) || !Number.isSafeInteger(length)) {
    throw new Error(`the weight ${name} of the ONNX model can't be read`);
  }
  return { name, type, shape: dims, location: { file, offset, length } };
}

function encodeAttribute(name: string, value: number | readonly number[] | { readonly float: number }): object {
  if (typeof value === "number") return { name, type: 2, i: value };
  return "float" in value ? { name, type: 1, f: value.float } : { name, type: 7, ints: value };
}

function tensorType(type: ElementType, shape: readonly Dimension[]): object {
  const dim = shape.map((size) => (typeof size === "number" ? { dimValue: size } : { dimParam: size }));
  return { tensorType: { elemType: ELEMENT_TYPES[type], shape: { dim } } };
}

function modelType(): protobuf.Type {
  const schema = readFileSync(new URL("onnx.proto", import.meta.url), "utf8");
  return protobuf.parse(schema).root.lookupType("onnx.ModelProto");
}
