/**
 * Finds the calls of tools in a model's text as it comes: text goes on as text, a call becomes its name and then its
 * arguments, piece by piece. What only looks like a call stays text. Knows neither tokens nor the wire.
 */
import type { ToolCallDelta } from "../../shared/completion-response.ts";
import { overlap } from "./stop-strings.ts";
import type { TextEvent } from "./text-reader.ts";
import type { ToolSyntax } from "../tokenize/tool-syntax.ts";

/** `call`: a call begins, the first, second, … from 0. `arguments`: more of its JSON. */
export type CallPiece =
  | { readonly type: "text"; readonly text: string }
  | { readonly type: "call"; readonly call: number; readonly name: string }
  | { readonly type: "arguments"; readonly call: number; readonly text: string };

/** The events of one choice's text, with the calls in it taken out and told of. */
export class ToolEvents {
  readonly #reader: ToolCallReader;
  readonly #nameCall: (index: number) => string;

  /** @param nameCall - the id of the choice's call */
  constructor(reader: ToolCallReader, nameCall: (index: number) => string) {
    this.#reader = reader;
    this.#nameCall = nameCall;
  }

  read(event: TextEvent): readonly TextEvent[] {
    const { generated } = event;
    if (event.type === "text") return this.#tell(this.#reader.push(event.text), generated);
    const rest = this.#tell(this.#reader.flush(), generated);
    const called = this.#reader.calls > 0 && event.reason === "stop";
    return [...rest, called ? { ...event, reason: "tool_calls" } : event];
  }

  #tell(pieces: readonly CallPiece[], generated: number): readonly TextEvent[] {
    return pieces.map((piece) => {
      if (piece.type === "text") return { type: "text", text: piece.text, tokens: undefined, generated };
      return { type: "text", text: "", tokens: undefined, calls: [this.#delta(piece)], generated };
    });
  }

  #delta(piece: Exclude<CallPiece, { readonly type: "text" }>): ToolCallDelta {
    if (piece.type === "arguments") return { index: piece.call, function: { arguments: piece.text } };
    const called = { name: piece.name, arguments: "" };
    return { index: piece.call, id: this.#nameCall(piece.call), type: "function", function: called };
  }
}

export class ToolCallReader {
  readonly #syntax: ToolSyntax;
  readonly #names: readonly string[];
  /** `text` → `beginning` → `arguments` → `ending` → `text`. */
  #state: "text" | "beginning" | "arguments" | "ending" = "text";
  /** What has come and is not decided yet. */
  #held = "";
  #json = new JsonEnd();
  #calls = 0;

  constructor(syntax: ToolSyntax, names: readonly string[]) {
    this.#syntax = syntax;
    this.#names = names;
  }

  /** Calls that have begun. */
  get calls(): number {
    return this.#calls;
  }

  push(piece: string): readonly CallPiece[] {
    this.#held += piece;
    const pieces: CallPiece[] = [];
    for (let before = -1; before !== this.#held.length && this.#held !== "";) {
      before = this.#held.length;
      const state = this.#state;
      const found = this.#advance();
      if (found !== undefined) pieces.push(found);
      if (state !== this.#state) before = -1;
    }
    return pieces;
  }

  /** The text has ended: what was held back. A call that was cut off keeps the arguments it had. */
  flush(): readonly CallPiece[] {
    const text = this.#held;
    this.#held = "";
    const isRest = this.#state === "text" || this.#state === "beginning";
    // Blank lines around calls are layout.
    return isRest && text !== "" && (this.#calls === 0 || text.trim() !== "") ? [{ type: "text", text }] : [];
  }

  #advance(): CallPiece | undefined {
    switch (this.#state) {
      case "text":
        return this.#readText();
      case "beginning":
        return this.#readBeginning();
      case "arguments":
        return this.#readArguments();
      case "ending":
        this.#readEnding();
        return undefined;
      default:
        return this.#state satisfies never;
    }
  }

  #readText(): CallPiece | undefined {
    const { trigger } = this.#syntax;
    const at = this.#held.indexOf(trigger);
    if (at >= 0) this.#state = "beginning";
    const undecided = at >= 0 ? at : this.#held.length - overlap(this.#held, trigger);
    // Spaces before a call belong to it.
    const text = this.#held.slice(0, undecided).trimEnd();
    const isCertain = text !== "";
    this.#held = this.#held.slice(at >= 0 ? at : text.length);
    return isCertain ? { type: "text", text } : undefined;
  }

  #readBeginning(): CallPiece | undefined {
    const begun = this.#names.find((name) => this.#held.startsWith(this.#syntax.begin(name)));
    if (begun !== undefined) {
      this.#held = this.#held.slice(this.#syntax.begin(begun).length);
      this.#state = "arguments";
      this.#json = new JsonEnd();
      this.#calls += 1;
      return { type: "call", call: this.#calls - 1, name: begun };
    }
    if (this.#names.some((name) => this.#syntax.begin(name).startsWith(this.#held))) return undefined;
    // It is no call: the trigger is text, and what follows it is looked at again.
    const { trigger } = this.#syntax;
    this.#held = this.#held.slice(trigger.length);
    this.#state = "text";
    return { type: "text", text: trigger };
  }

  #readArguments(): CallPiece {
    const length = this.#json.find(this.#held);
    const text = this.#held.slice(0, length);
    this.#held = this.#held.slice(text.length);
    if (length !== undefined) this.#state = "ending";
    return { type: "arguments", call: this.#calls - 1, text };
  }

  #readEnding(): void {
    const { end } = this.#syntax;
    if (this.#held.length < end.length && end.startsWith(this.#held)) return;
    if (this.#held.startsWith(end)) this.#held = this.#held.slice(end.length);
    this.#state = "text";
  }
}

/** Finds where a JSON object ends that comes in pieces. */
class JsonEnd {
  #depth = 0;
  #inString = false;
  #escaped = false;

  /** Length of the piece up to the end of the object; `undefined` while it goes on. */
  find(piece: string): number | undefined {
    for (let at = 0; at < piece.length; at++) {
      if (this.#ends(piece[at] ?? "")) return at + 1;
    }
    return undefined;
  }

  #ends(letter: string): boolean {
    if (this.#escaped) this.#escaped = false;
    else if (letter === "\\") this.#escaped = this.#inString;
    else if (letter === '"') this.#inString = !this.#inString;
    else if (this.#inString) return false;
    else if (letter === "{" || letter === "[") this.#depth += 1;
    else if (letter === "}" || letter === "]") {
      this.#depth -= 1;
      return this.#depth <= 0;
    }
    return false;
  }
}
