/**
 * How Python writes a value, which is what a Jinja template prints: `True`, `None`, `['a', 1]`. The engine's own way is
 * JavaScript's. Numbers are the engine's, which keeps whole ones and fractions apart.
 *
 * Source: the Python reference, `str` and `repr`.
 */

/** A value of the template engine's. */
export interface RuntimeValue {
  readonly type: string;
  readonly value: unknown;
  toString(): string;
}

/** Python's `str(value)`; what is not defined is no text. */
export function pythonText(value: RuntimeValue): string {
  if (value.type === "UndefinedValue") return "";
  return value.type === "StringValue" ? String(value.value) : pythonLiteral(value);
}

/** Python's `repr(value)`. */
function pythonLiteral(value: RuntimeValue): string {
  switch (value.type) {
    case "StringValue":
      return quote(String(value.value));
    case "BooleanValue":
      return value.value === true ? "True" : "False";
    case "NullValue":
      return "None";
    case "UndefinedValue":
      return "Undefined";
    case "ArrayValue":
      return `[${elements(value).map(pythonLiteral).join(", ")}]`;
    case "TupleValue": {
      const written = elements(value).map(pythonLiteral);
      return written.length === 1 ? `(${written[0]},)` : `(${written.join(", ")})`;
    }
    case "ObjectValue": {
      const entries = [...(value.value as ReadonlyMap<string, RuntimeValue>)];
      return `{${entries.map(([key, each]) => `${quote(key)}: ${pythonLiteral(each)}`).join(", ")}}`;
    }
    default:
      // A number's own text tells 1 from 1.0; functions and namespaces have none that anybody wants.
      return String(value);
  }
}

function elements(value: RuntimeValue): readonly RuntimeValue[] {
  return value.value as readonly RuntimeValue[];
}

const ESCAPES: Readonly<Record<string, string>> = { "\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\" };

/** In single quotes, unless only double ones need no escape; what can't be seen as a number. */
function quote(text: string): string {
  const mark = text.includes("'") && !text.includes('"') ? '"' : "'";
  const escaped = text.replaceAll(/[\\'"\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/gu, (letter) => {
    if (letter === "'" || letter === '"') return letter === mark ? `\\${letter}` : letter;
    return ESCAPES[letter] ?? escapeCode(letter.codePointAt(0) ?? 0);
  });
  return mark + escaped + mark;
}

function escapeCode(code: number): string {
  const hex = code.toString(16);
  if (code < 0x100) return `\\x${hex.padStart(2, "0")}`;
  return code < 0x10000 ? `\\u${hex.padStart(4, "0")}` : `\\U${hex.padStart(8, "0")}`;
}
