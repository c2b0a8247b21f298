/**
 * GPT-2's byte-level alphabet: printable Latin-1 stands for itself, the other 68 bytes for U+0100 and up.
 * Source: `bytes_to_unicode` in openai/gpt-2, encoder.py.
 */
const PRINTABLE: readonly (readonly [from: number, to: number])[] = [
  [0x21, 0x7e],
  [0xa1, 0xac],
  [0xae, 0xff],
];
const OTHER_BYTES = Array.from({ length: 256 }, (_, byte) => byte).filter(
  (byte) => !PRINTABLE.some(([from, to]) => byte >= from && byte <= to),
);
const LETTERS = Array.from({ length: 256 }, (_, byte) => {
  const other = OTHER_BYTES.indexOf(byte);
  return String.fromCodePoint(other < 0 ? byte : 0x100 + other);
});

/** One letter for each byte. */
export function toByteLevel(bytes: Uint8Array): string {
  let letters = "";
  for (const byte of bytes) letters += LETTERS[byte] ?? "";
  return letters;
}

/** The bytes of such letters; a letter that stands for none becomes `?`. */
export function fromByteLevel(letters: string): Uint8Array {
  return Uint8Array.from(letters, (letter) => {
    const code = letter.codePointAt(0) ?? 0;
    return code < 0x100 ? code : (OTHER_BYTES[code - 0x100] ?? 0x3f);
  });
}
