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

/** By letter's code; 256 where a letter stands for none. */
const BYTES = Uint16Array.from({ length: 0x100 + OTHER_BYTES.length }, (_, code) => {
  const byte = LETTERS.indexOf(String.fromCodePoint(code));
  return byte < 0 ? 0x100 : byte;
});

/** The bytes of such letters; a letter that stands for none becomes `?`. */
export function fromByteLevel(letters: string): Uint8Array {
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) {
    const byte = BYTES[letters.charCodeAt(i)] ?? 0x100;
    bytes[i] = byte < 0x100 ? byte : 0x3f;
  }
  return bytes;
}
