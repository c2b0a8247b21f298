/**
 * A model's chat template, rendered as the `transformers` library does. Templates are programs that come with a model:
 * this one's steps and the length of what it makes are bounded, by the length of what it is given, so that one which
 * loops for ever or doubles a text for ever is an error and holds up nobody. Knows no tokens.
 *
 * Source: huggingface/transformers, utils/chat_template_utils.py.
 */
import * as jinja from "@huggingface/jinja";
import { pythonText, type RuntimeValue } from "./python-text.ts";
import { strftime } from "./strftime.ts";

export interface ChatTemplateOptions {
  readonly source: string;
  /** What templates call control tokens, by name: `bos_token`, `eos_token`, … */
  readonly names: Readonly<Record<string, string>>;
  readonly now: () => Date;
}

export interface Conversation {
  readonly messages: readonly object[];
  readonly tools: readonly object[];
}

/** The scope of a template's names. */
interface Environment {
  set(name: string, value: unknown): RuntimeValue;
}

/** What is used of the engine: its own types are lost, because they name files without their endings. */
interface Engine {
  tokenize(source: string, options: { readonly lstrip_blocks: boolean; readonly trim_blocks: boolean }): object;
  parse(tokens: object): object;
  readonly Environment: new () => Environment;
  readonly Interpreter: new (environment: Environment) => {
    run(program: object): RuntimeValue;
    evaluate(node: object | undefined, environment: Environment): RuntimeValue;
  };
}
const engine = jinja as unknown as Engine;

/** Real ones have up to 20,000 characters. */
const SOURCE_CHARS_MAX = 1 << 20;
/**
 * A step is one node of the template's syntax. Published templates take up to 150 for a message, which has 30 characters
 * at least; these take a tenth of a second.
 */
const STEPS_MIN = 100_000;
const STEPS_PER_CHARACTER = 20;
/** Of one text or list, so that no single step is long. */
const LENGTH_MIN = 1_000_000;
const LENGTH_PER_CHARACTER = 16;
/** Of nodes within nodes, where macros that call themselves go on counting; published templates have up to 20. */
const DEPTH_MAX = 1000;

export class ChatTemplate {
  readonly #program: object;
  readonly #names: Readonly<Record<string, string>>;
  readonly #now: () => Date;
  readonly #iterables: ReadonlySet<unknown>;
  readonly #printed: ReadonlySet<unknown>;

  /** @throws an Error when the template can't be parsed */
  constructor({ source, names, now }: ChatTemplateOptions) {
    if (source.length > SOURCE_CHARS_MAX) throw new Error(`it has more than ${SOURCE_CHARS_MAX} characters`);
    this.#program = engine.parse(engine.tokenize(source, { lstrip_blocks: true, trim_blocks: true }));
    this.#names = names;
    this.#now = now;
    const nodes = [...listNodes(this.#program)];
    nodes.forEach(mendSelectAttribute);
    this.#iterables = new Set(nodes.flatMap(iterablesOf));
    this.#printed = new Set(nodes.flatMap(printedOf));
  }

  /**
   * The conversation up to where the assistant is to speak.
   *
   * @throws an Error with the template's own words where it refuses, or says which bound it went over
   */
  render(conversation: Conversation): string {
    const characters = JSON.stringify(conversation).length;
    const bounds = {
      steps: STEPS_MIN + STEPS_PER_CHARACTER * characters,
      length: LENGTH_MIN + LENGTH_PER_CHARACTER * characters,
      iterables: this.#iterables,
      printed: this.#printed,
    };
    const environment = this.#createEnvironment(conversation, bounds.length);
    const text = new BoundedInterpreter(environment, bounds).run(this.#program).value;
    if (typeof text !== "string") throw new Error("it makes no text");
    return text;
  }

  /** What a template finds, beside the engine's own filters and tests. */
  #createEnvironment({ messages, tools }: Conversation, lengthMax: number): Environment {
    const values: Readonly<Record<string, unknown>> = {
      true: true,
      True: true,
      false: false,
      False: false,
      none: null,
      None: null,
      range: (...bounds: readonly number[]) => range(bounds, lengthMax),
      raise_exception: raiseException,
      strftime_now: (format: unknown) => strftime(this.#now(), String(format)),
      ...this.#names,
      messages,
      ...(tools.length === 0 ? {} : { tools }),
      add_generation_prompt: true,
    };
    const environment = new engine.Environment();
    for (const [name, value] of Object.entries(values)) environment.set(name, value);
    return environment;
  }
}

interface Bounds {
  readonly steps: number;
  readonly length: number;
  /** The nodes whose values are gone through, at the cost of a step for each element. */
  readonly iterables: ReadonlySet<unknown>;
  /** The nodes whose values are written as Python writes them. */
  readonly printed: ReadonlySet<unknown>;
}

class BoundedInterpreter extends engine.Interpreter {
  readonly #bounds: Bounds;
  #steps = 0;
  #depth = 0;

  constructor(environment: Environment, bounds: Bounds) {
    super(environment);
    this.#bounds = bounds;
  }

  /** @param node - `undefined` for what a slice leaves out */
  override evaluate(node: object | undefined, environment: Environment): RuntimeValue {
    this.#count(1);
    if (this.#depth === DEPTH_MAX) throw new Error("it nests too deeply");
    this.#depth += 1;
    try {
      const result = this.#evaluateWithin(node, environment);
      return this.#bounds.printed.has(node) && PRINTED_OTHERWISE.has(result.type) ? textValue(result) : result;
    } finally {
      // The engine's `break` and `continue` are thrown.
      this.#depth -= 1;
    }
  }

  #evaluateWithin(node: object | undefined, environment: Environment): RuntimeValue {
    const operand = operandOfString(node);
    if (operand !== undefined) return textValue(this.evaluate(operand, environment));
    const result = super.evaluate(node, environment);
    this.#check(result, node);
    return result;
  }

  #check({ value }: RuntimeValue, node: object | undefined): void {
    if (typeof value !== "string" && !Array.isArray(value)) return;
    if (value.length > this.#bounds.length) throw new Error("it makes far more text than it was given");
    if (this.#bounds.iterables.has(node)) this.#count(value.length);
  }

  #count(steps: number): void {
    this.#steps += steps;
    if (this.#steps > this.#bounds.steps) throw new Error(`it takes more than ${this.#bounds.steps} steps`);
  }
}

function raiseException(message: unknown): never {
  throw new Error(String(message));
}

function range([first = 0, second, step = 1]: readonly number[], lengthMax: number): readonly number[] {
  const [start, stop] = second === undefined ? [0, first] : [first, second];
  const length = Math.max(0, Math.ceil((stop - start) / step));
  if (!(length <= lengthMax)) throw new Error("it counts too far");
  return Array.from({ length }, (_, i) => start + i * step);
}

/** Every node below, itself too. */
function* listNodes(node: unknown): Generator<object> {
  if (typeof node !== "object" || node === null) return;
  yield node;
  const children = node instanceof Map ? [...node.keys(), ...node.values()] : Object.values(node);
  for (const child of children) yield* listNodes(child);
}

/** What the engine writes in JavaScript's way. */
const PRINTED_OTHERWISE: ReadonlySet<string> = new Set([
  "BooleanValue",
  "NullValue",
  "ArrayValue",
  "TupleValue",
  "ObjectValue",
]);

function textValue(value: RuntimeValue): RuntimeValue {
  return new engine.Environment().set("text", pythonText(value));
}

/** Of `x | string`: `x`. */
function operandOfString(node: object | undefined): object | undefined {
  const { type, filter, operand } = (node ?? {}) as {
    readonly type?: unknown;
    readonly filter?: Named;
    readonly operand?: object;
  };
  return type === "FilterExpression" && filter?.value === "string" ? operand : undefined;
}

/** Nodes of these types write no value of their own. */
const STATEMENTS: ReadonlySet<unknown> = new Set([
  "Program",
  "If",
  "For",
  "Break",
  "Continue",
  "Set",
  "Macro",
  "Comment",
  "FilterStatement",
  "CallStatement",
]);

/** The expressions among the lines of a block. */
function printedOf(node: object): readonly unknown[] {
  const { body, alternate, defaultBlock } = node as Readonly<Record<string, unknown>>;
  return [body, alternate, defaultBlock]
    .filter(Array.isArray)
    .flatMap((block: readonly { readonly type?: unknown }[]) => block.filter(({ type }) => !STATEMENTS.has(type)));
}

function iterablesOf(node: object): readonly unknown[] {
  if (!("type" in node && node.type === "For" && "iterable" in node)) return [];
  const { iterable } = node;
  // `for x in xs if …` goes through `xs`.
  return typeof iterable === "object" && iterable !== null && "lhs" in iterable ? [iterable.lhs] : [iterable];
}

/**
 * The engine's `selectattr(name, "undefined")` selects nothing, where Mistral's templates look for messages without
 * calls; `rejectattr(name, "defined")`, which means the same, it has right. And the other way round.
 */
function mendSelectAttribute(node: object): void {
  const { callee, args } = node as { readonly callee?: Named; readonly args?: readonly (Named | undefined)[] };
  const test = args?.[1];
  if (test?.value !== "undefined" || callee === undefined) return;
  if (callee.value !== "selectattr" && callee.value !== "rejectattr") return;
  callee.value = callee.value === "selectattr" ? "rejectattr" : "selectattr";
  test.value = "defined";
}

interface Named {
  value?: unknown;
}
