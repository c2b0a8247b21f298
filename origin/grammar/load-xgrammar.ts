/**
 * Loads `@mlc-ai/web-xgrammar`, XGrammar compiled to WebAssembly, in a thread of its own. The package is a script that
 * wants CommonJS names as globals, writes what is wrong with a grammar to the console and aborts for good: so it is given
 * a console of ours and its memory is watched. Call once, in a thread that runs nothing else.
 */
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import type * as XGrammar from "@mlc-ai/web-xgrammar";

export interface LoadedXGrammar {
  readonly xgrammar: typeof XGrammar;
  /** What it last wrote of an error. */
  lastError(): string;
  /** Bytes of its memory, which never shrinks. */
  bytes(): number;
}

/** The little of it that is used here; Node's types have none. */
interface WebAssemblyApi {
  readonly Memory: new (...options: never) => { readonly buffer: ArrayBuffer };
  instantiate(
    code: unknown,
    imports: unknown,
  ): Promise<{ readonly instance: { readonly exports: Readonly<Record<string, unknown>> } }>;
}

const PACKAGE = "@mlc-ai/web-xgrammar";

export async function loadXGrammar(): Promise<LoadedXGrammar> {
  let lastError = "";
  let memory: { readonly buffer: ArrayBuffer } | undefined;
  const filename = fileURLToPath(import.meta.resolve(PACKAGE));
  const keep = (line: unknown) => {
    // The abort that follows says nothing.
    if (String(line).startsWith("[FATAL]")) lastError = String(line);
  };
  const { WebAssembly: platform } = globalThis as unknown as { readonly WebAssembly: WebAssemblyApi };
  const instantiate = platform.instantiate.bind(platform);
  Object.assign(globalThis, {
    require: createRequire(filename),
    __filename: filename,
    console: { ...console, log: keep, warn: keep, error: keep },
  });
  platform.instantiate = async (code, imports) => {
    const made = await instantiate(code, imports);
    memory = Object.values(made.instance.exports).find((value) => value instanceof platform.Memory);
    return made;
  };
  await import(PACKAGE);
  const { xgrammar } = globalThis as unknown as { readonly xgrammar: typeof XGrammar };
  return { xgrammar, lastError: () => lastError, bytes: () => memory?.buffer.byteLength ?? 0 };
}
