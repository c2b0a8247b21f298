/**
 * Which JSON Schemas may reach the grammar engine. It overlooks what it does not know, so a keyword that it would not keep
 * to is refused here rather than promised; and it dies of deep ones, so they end here with a reason. Compiles nothing.
 *
 * Source: JSON Schema 2020-12, the keywords that assert something.
 */
import { ColdpathError } from "../../shared/errors.ts";

type Schema = Readonly<Record<string, unknown>>;

/** The engine's stack takes some fifty levels of objects. */
const DEPTH_MAX = 32;

/** Keywords that restrict and that the engine does not enforce. */
const NOT_ENFORCED: ReadonlySet<string> = new Set(
  (
    "not if then else multipleOf uniqueItems contains minContains maxContains patternProperties propertyNames " +
    "minProperties maxProperties dependentRequired dependentSchemas dependencies unevaluatedItems " +
    "unevaluatedProperties $dynamicRef $recursiveRef"
  ).split(" "),
);

/** Keywords whose value is a schema, a list of them, or schemas by name. */
const ONE = ["items", "additionalProperties"] as const;
const LISTS = ["prefixItems", "anyOf", "oneOf", "allOf"] as const;
const MAPS = ["properties", "$defs", "definitions"] as const;

/**
 * @param schema - as the client sent it
 * @param param - the field it came in
 * @throws {ColdpathError} `invalid_request` for one that is too large, too deep or no schema, `unsupported_parameter` for
 * one with a keyword that would not be kept to
 */
export function checkSchema(
  schema: unknown,
  { param, bytesMax }: { readonly param: string; readonly bytesMax: number },
): void {
  const bytes = measure(schema, param);
  if (bytes > bytesMax) {
    throw new ColdpathError("invalid_request", `${param}: the schema has ${bytes} bytes, ${bytesMax} are allowed`, {
      param,
    });
  }
  // Not recursive: the depth is what is being checked.
  const waiting: { readonly schema: unknown; readonly depth: number }[] = [{ schema, depth: 0 }];
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    if (typeof next.schema === "boolean") continue;
    if (next.depth > DEPTH_MAX) {
      throw new ColdpathError("invalid_request", `${param}: the schema is deeper than ${DEPTH_MAX} levels`, { param });
    }
    if (!isObject(next.schema))
      throw new ColdpathError("invalid_request", `${param}: holds what is no schema`, { param });
    checkKeywords(next.schema, param);
    for (const inner of innerSchemas(next.schema)) waiting.push({ schema: inner, depth: next.depth + 1 });
  }
}

function measure(schema: unknown, param: string): number {
  try {
    return Buffer.byteLength(JSON.stringify(schema));
  } catch (cause) {
    // A RangeError: what lies under unknown keywords is deeper than the stack.
    throw new ColdpathError("invalid_request", `${param}: is nested too deeply`, { param, cause });
  }
}

function checkKeywords(schema: Schema, param: string): void {
  const several = Array.isArray(schema["allOf"]) && schema["allOf"].length > 1;
  const keyword = several ? "allOf" : Object.keys(schema).find((name) => NOT_ENFORCED.has(name));
  if (keyword !== undefined) {
    const message = `${param}: the schema's keyword "${keyword}" can't be enforced here`;
    throw new ColdpathError("unsupported_parameter", message, { param });
  }
  const reference = schema["$ref"];
  if (reference === undefined || (typeof reference === "string" && reference.startsWith("#"))) return;
  throw new ColdpathError("unsupported_parameter", `${param}: the schema may refer to its own parts only`, { param });
}

function innerSchemas(schema: Schema): readonly unknown[] {
  const one = ONE.map((name) => schema[name]).filter((inner) => inner !== undefined);
  const lists = LISTS.flatMap((name) => (Array.isArray(schema[name]) ? (schema[name] as unknown[]) : []));
  const maps = MAPS.flatMap((name) => (isObject(schema[name]) ? Object.values(schema[name]) : []));
  return [...one, ...lists, ...maps];
}

function isObject(value: unknown): value is Schema {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
