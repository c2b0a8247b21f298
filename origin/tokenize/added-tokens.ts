/**
 * Tokens that are found in a text before it is cut in any other way: control tokens, and words that were added to a
 * vocabulary. Of several at one place the longest counts.
 *
 * Source: huggingface/tokenizers, tokenizers/src/tokenizer/added_vocabulary.rs.
 */
import { z } from "zod";

export const addedTokenSchema = z.looseObject({
  id: z.int().min(0),
  content: z.string().min(1),
  special: z.boolean().default(false),
  /** Counts only where no word goes on to its left or right. */
  single_word: z.boolean().default(false),
  /** Spaces before it belong to it. */
  lstrip: z.boolean().default(false),
  /** Spaces behind it belong to it. */
  rstrip: z.boolean().default(false),
  /** Looked for in the normalized text. */
  normalized: z.boolean().optional(),
});
export type AddedToken = z.infer<typeof addedTokenSchema>;

/** By UTF-16 units. */
interface TrieNode {
  readonly next: Map<number, TrieNode>;
  token: AddedToken | undefined;
}

const ENDS_IN_WORD = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]$/u;
const BEGINS_WITH_WORD = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u;

export class AddedTokens {
  readonly #root: TrieNode = { next: new Map(), token: undefined };

  /** @param spelling - how a token's text stands in the texts that are searched; default as it is */
  constructor(tokens: readonly AddedToken[], spelling: (content: string) => string = (content) => content) {
    for (const token of tokens) this.#add(spelling(token.content), token);
  }

  /** The text in its order: what lies between the tokens, and the tokens. */
  split(text: string): readonly (string | AddedToken)[] {
    const parts: (string | AddedToken)[] = [];
    let end = 0;
    for (let at = 0; at < text.length;) {
      const found = this.#longestAt(text, at);
      if (found === undefined || !stands(text, at, found)) {
        at += found?.length ?? 1;
        continue;
      }
      const { token, length } = found;
      const before = text.slice(end, at);
      const kept = token.lstrip ? before.replace(/\p{White_Space}+$/u, "") : before;
      if (kept !== "") parts.push(kept);
      parts.push(token);
      end = at + length;
      if (token.rstrip) end += /^\p{White_Space}*/u.exec(text.slice(end))?.[0].length ?? 0;
      at = end;
    }
    if (end < text.length) parts.push(text.slice(end));
    return parts;
  }

  /** The text with a mark inside every token in it, wherever one begins, so that none is whole any more. */
  seal(text: string, mark: string): string {
    let sealed = "";
    let end = 0;
    for (let at = 0; at < text.length; at++) {
      if (this.#longestAt(text, at) === undefined) continue;
      sealed += text.slice(end, at + 1) + mark;
      end = at + 1;
    }
    return sealed + text.slice(end);
  }

  #add(content: string, token: AddedToken): void {
    let node = this.#root;
    for (let i = 0; i < content.length; i++) {
      const unit = content.charCodeAt(i);
      let next = node.next.get(unit);
      if (next === undefined) node.next.set(unit, (next = { next: new Map(), token: undefined }));
      node = next;
    }
    node.token = token;
  }

  #longestAt(text: string, at: number): { readonly token: AddedToken; readonly length: number } | undefined {
    let node: TrieNode | undefined = this.#root;
    let found: { readonly token: AddedToken; readonly length: number } | undefined;
    for (let end = at; end < text.length; end++) {
      node = node.next.get(text.charCodeAt(end));
      if (node === undefined) break;
      if (node.token !== undefined) found = { token: node.token, length: end + 1 - at };
    }
    return found;
  }
}

function stands(text: string, at: number, { token, length }: { token: AddedToken; length: number }): boolean {
  if (!token.single_word) return true;
  // Two units reach over a surrogate pair.
  const before = text.slice(Math.max(0, at - 2), at);
  return !ENDS_IN_WORD.test(before) && !BEGINS_WITH_WORD.test(text.slice(at + length, at + length + 2));
}
