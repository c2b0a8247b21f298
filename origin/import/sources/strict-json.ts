/**
 * JSON in which an object has no key twice. `JSON.parse` keeps the last of two, other parsers the first: a file that means
 * one thing to them and another to us is refused instead.
 */

/**
 * Parses a text.
 *
 * @throws {SyntaxError} whose message says what is wrong
 */
export function parseStrictJson(text: string): unknown {
  const value: unknown = JSON.parse(text);
  const key = duplicateKey(text);
  if (key === undefined) return value;
  throw new SyntaxError(`the key ${JSON.stringify(key)} is there twice`);
}

/** Of a text that is JSON: a key that some object has twice. */
function duplicateKey(text: string): string | undefined {
  // The keys of each object that is open; `undefined` for a list.
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

/** The place behind the string that begins at `at`. */
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
