/**
 * Reads `COLDPATH_*` settings. A folder's `config.ts` declares its knobs as one table, which is its manual:
 * name, unit, default and consequence. Knows no knob itself.
 */

/** One setting: how its text is read, what it is without one, and what it does. */
export interface Knob<T> {
  /** The environment variable, `COLDPATH_` first. */
  readonly env: string;
  /** One sentence for the operator: what it sets, in which unit, and the consequence of moving it. */
  readonly help: string;
  /** The value when the variable is unset or empty; `undefined` where the knob is optional. */
  readonly fallback: T;
  /** Turns the text into a value; throws a `KnobError` that names the variable. */
  readonly parse: (text: string) => T;
}

/** Names to knobs: a folder's settings. */
// The parameter of `parse` makes Knob invariant in nothing, so `unknown` is enough here.
export type KnobTable = Readonly<Record<string, Knob<unknown>>>;

/** The values of a table. */
export type KnobValues<Table extends KnobTable> = {
  readonly [Name in keyof Table]: Table[Name] extends Knob<infer T> ? T : never;
};

/** A setting that can't be used; its message says which variable and what it should be. */
export class KnobError extends Error {
  override readonly name = "KnobError";
}

/**
 * Reads every knob of a table.
 *
 * @param env - the environment: `process.env`, or a worker's bindings
 * @returns frozen values, defaults filled in
 * @throws {KnobError} at the first value that can't be used
 */
export function readKnobs<Table extends KnobTable>(
  table: Table,
  env: Readonly<Record<string, unknown>>,
): KnobValues<Table> {
  const values = Object.entries(table).map(([name, knob]) => {
    const text = env[knob.env];
    if (text === undefined || text === "") return [name, knob.fallback];
    if (typeof text !== "string") throw new KnobError(`${knob.env} must be text`);
    return [name, knob.parse(text)];
  });
  return Object.freeze(Object.fromEntries(values)) as KnobValues<Table>;
}

/** A whole number within bounds. */
export function integerKnob(knob: {
  readonly env: string;
  readonly help: string;
  readonly fallback: number;
  readonly min?: number;
  readonly max?: number;
}): Knob<number> {
  const { min = 0, max = Number.MAX_SAFE_INTEGER } = knob;
  return {
    ...knob,
    parse: (text) => {
      const value = Number(text);
      if (!Number.isInteger(value) || value < min || value > max) {
        throw new KnobError(`${knob.env} must be a whole number from ${min} to ${max}, not "${text}"`);
      }
      return value;
    },
  };
}

/** Free text: a path, a name, a URL. The fallback may be `undefined`. */
export function textKnob<T extends string | undefined>(knob: {
  readonly env: string;
  readonly help: string;
  readonly fallback: T;
}): Knob<string | T> {
  return { ...knob, parse: (text) => text };
}

/** Names with commas between them; blanks around one don't count. At least one, none of them empty. */
export function namesKnob(knob: {
  readonly env: string;
  readonly help: string;
  readonly fallback: readonly [string, ...string[]];
}): Knob<readonly [string, ...string[]]> {
  return {
    ...knob,
    parse: (text) => {
      const [first = "", ...others] = text.split(",").map((name) => name.trim());
      // A name that was to come from elsewhere and did not must not be missed in silence.
      if (first !== "" && !others.includes("")) return [first, ...others];
      throw new KnobError(`${knob.env} has an empty name before, behind or between its commas: "${text}"`);
    },
  };
}

/** An absolute http(s) URL, kept without its trailing slash. */
export function urlKnob<T extends string | undefined>(knob: {
  readonly env: string;
  readonly help: string;
  readonly fallback: T;
}): Knob<string | T> {
  return {
    ...knob,
    parse: (text) => {
      const url = URL.parse(text);
      if (url === null || !/^https?:$/.test(url.protocol)) {
        throw new KnobError(`${knob.env} must be an http or https URL, not "${text}"`);
      }
      return text.replace(/\/+$/, "");
    },
  };
}

/** A shared secret of at least 32 bytes; it is never printed, not even when it is refused. */
export function secretKnob(knob: { readonly env: string; readonly help: string }): Knob<string | undefined> {
  return {
    ...knob,
    fallback: undefined,
    parse: (text) => {
      if (new TextEncoder().encode(text).length < 32) throw new KnobError(`${knob.env} must be at least 32 bytes long`);
      return text;
    },
  };
}

/** One of a few words. */
export function choiceKnob<const Choice extends string>(knob: {
  readonly env: string;
  readonly help: string;
  readonly fallback: NoInfer<Choice>;
  readonly choices: readonly Choice[];
}): Knob<Choice> {
  return {
    ...knob,
    parse: (text) => {
      const choice = knob.choices.find((word) => word === text);
      if (choice === undefined)
        throw new KnobError(`${knob.env} must be one of ${knob.choices.join(", ")}, not "${text}"`);
      return choice;
    },
  };
}
