/**
 * For tests that start the real command again and again: what Node compiled once is kept, so that a process starts in a
 * third of the time. Keyed by the sources' content, so a change of them is seen.
 */
import { fileURLToPath } from "node:url";

export const COMPILE_CACHE = {
  NODE_COMPILE_CACHE: fileURLToPath(new URL("../../node_modules/.cache/node-compile", import.meta.url)),
};
