/**
 * A grammar's thread: compiles grammars, and for every open channel takes the row's tokens and gives the masks. Whatever
 * is wrong in here ends the thread, and the main thread closes its channels. Knows no requests.
 */
import { parentPort, workerData } from "node:worker_threads";
import type { CompiledGrammar, GrammarMatcher } from "@mlc-ai/web-xgrammar";
import { closeMaskChannel, MaskWriter } from "../engine/mask-channel.ts";
import { loadXGrammar } from "./load-xgrammar.ts";
import type { FromGrammarThread, GrammarSpec, GrammarThreadOptions, ToGrammarThread } from "./messages.ts";

if (parentPort === null) throw new Error("grammar/thread.ts runs as a worker thread only");
const port = parentPort;
const { vocabulary, vocabSize, endTokens, bell } = workerData as GrammarThreadOptions;

const engine = await loadXGrammar();
const { GrammarCompiler, GrammarMatcher: Matcher, TokenizerInfo } = engine.xgrammar;
const info = await TokenizerInfo.createTokenizerInfo([...vocabulary], "byte_level", false, vocabSize, [...endTokens]);
const compiler = await GrammarCompiler.createGrammarCompiler(info, false);

/** What a client is told of a refusal at most: the engine may quote the whole schema. */
const REASON_CHARS = 300;

const grammars = new Map<string, CompiledGrammar>();
const open = new Map<
  number,
  { readonly matcher: GrammarMatcher; readonly writer: MaskWriter; readonly channel: SharedArrayBuffer }
>();
const rings = new Int32Array(bell);

// One thing after the other: a message waits for the one before it.
let turn = Promise.resolve();
port.on("message", (message: ToGrammarThread) => {
  turn = turn.then(() => obey(message));
});
void listen();

/** Serves the channels whenever the bell rings; a throw in here ends the thread. */
async function listen(): Promise<never> {
  for (;;) {
    const heard = Atomics.load(rings, 0);
    await serve();
    const wait = Atomics.waitAsync(rings, 0, heard);
    if (wait.async) await wait.value;
  }
}

async function serve(): Promise<void> {
  for (const { matcher, writer, channel } of open.values()) {
    const token = writer.asked();
    if (token === undefined) continue;
    if (token >= 0 && !matcher.acceptToken(token)) closeMaskChannel(channel);
    else writer.give(await matcher.getNextTokenBitmask());
  }
}

async function obey(message: ToGrammarThread): Promise<void> {
  switch (message.type) {
    case "compile":
      return answer(message.key, await compile(message));
    case "forget":
      grammars.get(message.key)?.dispose();
      grammars.delete(message.key);
      return;
    case "open":
      return begin(message);
    case "close":
      open.get(message.id)?.matcher.dispose();
      open.delete(message.id);
  }
}

async function begin({ id, key, channel }: ToGrammarThread & { readonly type: "open" }): Promise<void> {
  const grammar = grammars.get(key);
  if (grammar === undefined) return closeMaskChannel(channel);
  open.set(id, { matcher: await Matcher.createGrammarMatcher(grammar), writer: new MaskWriter(channel), channel });
  await serve();
}

/** Why it can't be compiled, or nothing. */
async function compile({
  key,
  spec,
}: ToGrammarThread & { readonly type: "compile" }): Promise<Pick<FromGrammarThread, "refusal" | "broken">> {
  try {
    const grammar = await compileSpec(spec);
    const matcher = await Matcher.createGrammarMatcher(grammar);
    const mask = await matcher.getNextTokenBitmask();
    matcher.dispose();
    grammars.set(key, grammar);
    if (mask.some((word) => word !== 0)) return { refusal: undefined, broken: false };
    return { refusal: "no answer can satisfy it", broken: false };
  } catch {
    // The engine has aborted, or run out of its stack: nothing in it can be trusted any more.
    return { refusal: reasonOf(engine.lastError()), broken: true };
  }
}

function compileSpec(spec: GrammarSpec): Promise<CompiledGrammar> {
  if (spec.type === "structural_tag") return compiler.compileStructuralTag(spec.tag);
  // Python's `json.dumps` layout, which models know best. Free whitespace lets a small model go on with spaces for ever.
  return compiler.compileJSONSchema(spec.schema, false, -1, [", ", ": "], spec.closed);
}

/** `[FATAL] file:line: Check failed: (code) is false: reason`; nothing where it ran out of its stack. */
function reasonOf(line: string): string {
  const reason = /^\[FATAL\] \S+ (?:Check failed: .* is (?:false|true): )?(.*)/s.exec(line)?.[1]?.trim() ?? "";
  return reason === "" ? "it is too deep, too large or contradicts itself" : reason.slice(0, REASON_CHARS);
}

function answer(key: string, result: Pick<FromGrammarThread, "refusal" | "broken">): void {
  port.postMessage({ key, ...result, bytes: engine.bytes() } satisfies FromGrammarThread);
}
