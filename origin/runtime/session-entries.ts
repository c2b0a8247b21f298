/** ONNX Runtime's session settings that differ from its defaults, for both back ends, each with what it bought. */
export const SESSION_ENTRIES: readonly (readonly [key: string, value: string])[] = [
  // Work is dealt out in shrinking blocks, so that a core that is taken away for a moment doesn't hold up the rest.
  ["session.dynamic_block_base", "4"],
];
