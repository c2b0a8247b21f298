/**
 * Parses JSON without duplicate keys. `JSON.parse` keeps the last of two equal keys, other parsers the first, so such a file
 * is ambiguous and refused.
 */

/**
 * Parses a text.
 *
 * @throws {SyntaxError} with the reason
 */
export function parseStrictJson(text: string): unknown {
  const value: unknown = JSON.parse(text);
  const key = duplicateKey(text);
  if (key === undefined) return value;
  throw new SyntaxError(`duplicate key ${JSON.stringify(key)}`);
}

/** Finds a duplicate key in valid JSON. */
function duplicateKey(text: string): string | undefined {
  // The keys of each enclosing object; undefined for a list.
  const open: (Set<string> | undefined)[] = [];
  for (let at = 0; at < text.length; at++) {
    const char = text[at];
    if (char === "{") open.push(new Set());
    else if (char === "[") open.push(undefined);
    else if (char === "}" || char === "]") open.pop();
    else if (char === '"') {
      const end = endOfString(text, at);
      const keys = open.at(-1);
      if (keys !== undefined && isKey(text, end)) {
        const key = JSON.parse(text.slice(at, end)) as string;
        if (keys.has(key)) return key;
        keys.add(key);
      }
      at = end - 1;
    }
  }
  return undefined;
}

/** The position behind the string that begins at `at`. */
function endOfString(text: string, at: number): number {
  let end = at + 1;
  while (text[end] !== '"') end += text[end] === "\\" ? 2 : 1;
  return end + 1;
}

function isKey(text: string, at: number): boolean {
  let next = at;
  while (" \t\n\r".includes(text[next] ?? "-")) next++;
  return text[next] === ":";
}
