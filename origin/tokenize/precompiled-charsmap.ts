/**
 * SentencePiece's compiled normalization: a map from letters to their replacements as a double-array trie, which is how
 * `tokenizer.json` and GGUF carry it. The JavaScript library has NFKC in its place, which differs in hundreds of letters.
 * Knows nothing of tokens.
 *
 * Source: sentencepiece, src/normalizer.cc (the layout); huggingface/spm_precompiled, src/lib.rs (what is looked up:
 * whole graphemes of fewer than 6 bytes first, and of the matches the shortest); darts-clone, include/darts.h (a unit).
 */

/** A grapheme of so many bytes is looked up letter by letter only. */
const GRAPHEME_BYTES_MAX = 6;

export class PrecompiledCharsmap {
  readonly #units: Uint32Array;
  /** The replacements, each ended by NUL. */
  readonly #texts: Uint8Array;
  readonly #graphemes = new Intl.Segmenter("und", { granularity: "grapheme" });
  readonly #encoder = new TextEncoder();
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });

  /**
   * @param blob - the trie's length in bytes as a little-endian 32-bit number, the trie, the replacements
   * @throws an Error when the lengths contradict each other
   */
  constructor(blob: Uint8Array) {
    const view = new DataView(blob.buffer, blob.byteOffset, blob.byteLength);
    const trieBytes = blob.byteLength < 4 ? -1 : view.getUint32(0, true);
    if (trieBytes < 4 || trieBytes % 4 !== 0 || 4 + trieBytes > blob.byteLength) {
      throw new Error("the precompiled normalization is damaged");
    }
    this.#units = Uint32Array.from({ length: trieBytes / 4 }, (_, i) => view.getUint32(4 + 4 * i, true));
    this.#texts = blob.subarray(4 + trieBytes);
  }

  normalize(text: string): string {
    let normalized = "";
    for (const { segment } of this.#graphemes.segment(text)) {
      const bytes = this.#encoder.encode(segment);
      const whole = bytes.length < GRAPHEME_BYTES_MAX ? this.#replace(bytes) : undefined;
      normalized += whole ?? this.#replaceLetters(segment);
    }
    return normalized;
  }

  #replaceLetters(grapheme: string): string {
    let replaced = "";
    for (const letter of grapheme) replaced += this.#replace(this.#encoder.encode(letter)) ?? letter;
    return replaced;
  }

  /** The replacement of the shortest beginning that has one; `undefined` where none has. */
  #replace(bytes: Uint8Array): string | undefined {
    let unit = this.#units[0] ?? 0;
    let at = offsetOf(unit);
    for (const byte of bytes) {
      at ^= byte;
      unit = this.#units[at] ?? 0;
      if (labelOf(unit) !== byte) return undefined;
      at ^= offsetOf(unit);
      if (hasLeaf(unit)) return this.#textAt((this.#units[at] ?? 0) & 0x7fff_ffff);
    }
    return undefined;
  }

  #textAt(start: number): string {
    const end = this.#texts.indexOf(0, start);
    return this.#decoder.decode(this.#texts.subarray(start, end < 0 ? undefined : end));
  }
}

function hasLeaf(unit: number): boolean {
  return ((unit >>> 8) & 1) === 1;
}

/** With the top bit, by which a leaf is no label of anything. */
function labelOf(unit: number): number {
  return (unit & 0x8000_00ff) >>> 0;
}

function offsetOf(unit: number): number {
  return (unit >>> 10) << ((unit & 0x200) >>> 6);
}
