/**
 * SentencePiece's unigram model: of all ways to cut a piece into tokens, the one whose scores add up to the most. Own
 * code, because the library's takes letters that no token has for unknown ones even where the model falls back to bytes.
 *
 * Source: Kudo, "Subword Regularization" (2018), section 3.2; huggingface/tokenizers, tokenizers/src/models/unigram.
 */

/** A letter that no token has is so much less likely than the least likely token. */
const UNKNOWN_PENALTY = 10;

export interface UnigramOptions {
  /** Text and score by id; `undefined` where an id stands for no text. */
  readonly pieces: readonly ([text: string, score: number] | undefined)[];
  /** Of all pieces, those that stand for no text too. */
  readonly leastScore: number;
  /** The token of what no other one can spell. */
  readonly unknown: number | undefined;
  /** Of each byte, where such letters are spelled in bytes. */
  readonly byteTokens: readonly number[] | undefined;
}

/** The best way to where a token ends. */
interface Way {
  readonly score: number;
  /** Where its last token begins, in UTF-16 units. */
  readonly start: number;
  /** `undefined` for a letter that no token has. */
  readonly id: number | undefined;
}

export class Unigram {
  readonly #ids: ReadonlyMap<string, number>;
  readonly #scores: readonly number[];
  /** UTF-16 units of the longest token that begins with a letter. */
  readonly #lengths: ReadonlyMap<string, number>;
  readonly #unknown: number | undefined;
  readonly #unknownScore: number;
  readonly #byteTokens: readonly number[] | undefined;
  readonly #encoder = new TextEncoder();

  constructor({ pieces, leastScore, unknown, byteTokens }: UnigramOptions) {
    const ids = new Map<string, number>();
    const lengths = new Map<string, number>();
    for (const [id, piece] of pieces.entries()) {
      if (piece === undefined || piece[0] === "") continue;
      const [text] = piece;
      ids.set(text, id);
      const letter = firstLetter(text, 0);
      lengths.set(letter, Math.max(lengths.get(letter) ?? 0, text.length));
    }
    this.#ids = ids;
    this.#lengths = lengths;
    this.#scores = pieces.map((piece) => piece?.[1] ?? -Infinity);
    this.#unknown = unknown;
    this.#unknownScore = leastScore - UNKNOWN_PENALTY;
    this.#byteTokens = byteTokens;
  }

  /** @returns nothing for letters that the model can't spell in any way */
  encode(piece: string): readonly number[] {
    const ids: number[] = [];
    let unspelled = "";
    for (const { text, id } of this.#cut(piece)) {
      if (id === undefined) {
        unspelled += text;
        continue;
      }
      this.#spellUnknown(unspelled, ids);
      unspelled = "";
      ids.push(id);
    }
    this.#spellUnknown(unspelled, ids);
    return ids;
  }

  /** A run of unknown letters: their bytes, or one token for all. */
  #spellUnknown(text: string, ids: number[]): void {
    if (text === "") return;
    const byteTokens = this.#byteTokens;
    if (byteTokens !== undefined) for (const byte of this.#encoder.encode(text)) ids.push(byteTokens[byte] ?? -1);
    else if (this.#unknown !== undefined) ids.push(this.#unknown);
  }

  #cut(piece: string): readonly { readonly text: string; readonly id: number | undefined }[] {
    const ways = this.#findWays(piece);
    const cut: { text: string; id: number | undefined }[] = [];
    for (let end = piece.length; end > 0;) {
      const way = ways[end];
      if (way === undefined) break;
      cut.push({ text: piece.slice(way.start, end), id: way.id });
      end = way.start;
    }
    return cut.toReversed();
  }

  /** By where they end. Of equal ones the first found, which has the longest last token. */
  #findWays(piece: string): readonly (Way | undefined)[] {
    const ways: (Way | undefined)[] = [{ score: 0, start: 0, id: undefined }];
    const offer = (end: number, way: Way) => {
      const known = ways[end];
      if (known === undefined || way.score > known.score) ways[end] = way;
    };
    for (let start = 0; start < piece.length;) {
      const { score: before } = ways[start] ?? { score: 0 };
      const letter = firstLetter(piece, start);
      const longest = Math.min(this.#lengths.get(letter) ?? 0, piece.length - start);
      let isSpelled = false;
      for (let length = letter.length; length <= longest; length++) {
        const id = this.#ids.get(piece.slice(start, start + length));
        if (id === undefined) continue;
        isSpelled ||= length === letter.length;
        offer(start + length, { score: before + (this.#scores[id] ?? 0), start, id });
      }
      if (!isSpelled) offer(start + letter.length, { score: before + this.#unknownScore, start, id: undefined });
      start += letter.length;
    }
    return ways;
  }
}

function firstLetter(text: string, at: number): string {
  return String.fromCodePoint(text.codePointAt(at) ?? 0);
}
