/**
 * How long a step will take, learned from the steps that were: a weighted least-squares fit over what a step computes.
 * Old steps fade, so that it follows a machine that gets busy or hot. Knows nothing of who is in a step.
 *
 * - Errors count relative to the time measured: a chunk of half a second must not drown the decode steps of milliseconds
 *   that the choice of a chunk is about.
 * - Every coefficient is tied loosely to a guess that is scaled by the first step. When all steps are alike (one row,
 *   nothing else, for an hour) the data say nothing about the rest, and a plain fit would drift there.
 * - A step that took much longer than expected (the process was not given a core, the clock jumped) counts as a bit
 *   longer: one hiccup must not shrink the next hundred chunks.
 */

/** What a step computes. */
export interface StepLoad {
  /** Running rows, one token each. */
  readonly rows: number;
  /** Tokens that those rows attend to, all together. */
  readonly context: number;
  /** Tokens of the chunk; 0 without one. */
  readonly chunk: number;
  /** Guessed tokens that are computed behind one of the rows; 0 without a guess, and beside a chunk. */
  readonly guessed: number;
  /** Tokens that the slot of the chunk or the guess holds already. */
  readonly past: number;
}

/** Milliseconds of a small model on a small machine: only the proportions matter. */
const GUESS = [
  6, // a step
  1.5, // a row
  1.5, // a token of a chunk
  1.5, // rows and a chunk in one run
  0.5, // 1024 tokens that rows attend to
  1, // a chunk of 64 that attends to 1024
  5, // 1024 tokens that a chunk attends to, of whatever length: they are read once for all of it
  2, // a guessed token
  8, // several: another graph, which always computes the most there may be
  0.5, // a guessed token that attends to 1024
];
const SIZE = GUESS.length;

/** Relative error of a measurement that is believed. */
const NOISE = 0.15;
/** What a step's weight is multiplied by with each later one of its kind: the last fifty or so count. */
const FADING = 0.98;
/** A measurement counts as at most so many times what was expected. */
const SURPRISE_MAX = 2;
/** Steps until surprises are cut: at first everything is one. */
const CREDULOUS_STEPS = 10;
/** No coefficient falls below this part of its guess: nothing is free. */
const FLOOR = 0.02;

export class StepTimeModel {
  #guess: readonly number[] | undefined;
  #steps = 0;
  /** Kept apart, so that a thousand steps of one kind don't fade what is known of the others. */
  readonly #kinds = { plain: new NormalEquations(), chunked: new NormalEquations(), guessing: new NormalEquations() };
  #coefficients: readonly number[] | undefined;

  /** Steps observed. */
  get steps(): number {
    return this.#steps;
  }

  /** @param ms - how long it took; what is not a positive number is ignored */
  observe(load: StepLoad, ms: number): void {
    if (!(ms > 0 && ms < Infinity)) return;
    const x = features(load);
    this.#guess ??= GUESS.map((guess) => (guess * ms) / dot(GUESS, x));
    const believed = this.#steps < CREDULOUS_STEPS ? ms : Math.min(ms, SURPRISE_MAX * this.predict(load));
    this.#kinds[load.chunk > 0 ? "chunked" : load.guessed > 0 ? "guessing" : "plain"].add(x, believed);
    this.#steps += 1;
    this.#coefficients = undefined;
  }

  /** Milliseconds; before the first observation those of a small model. */
  predict(load: StepLoad): number {
    this.#coefficients ??= this.#fit();
    return dot(this.#coefficients, features(load));
  }

  /** The most tokens of a chunk beside these rows, at most `max`, that a step of `ms` has time for; may be 0. */
  chunkWithin(ms: number, { max, ...beside }: Omit<StepLoad, "chunk" | "guessed"> & { readonly max: number }): number {
    const load = { ...beside, guessed: 0 };
    let fits = 0;
    let tooLong = max + 1;
    while (tooLong - fits > 1) {
      const chunk = (fits + tooLong) >> 1;
      if (this.predict({ ...load, chunk }) <= ms) fits = chunk;
      else tooLong = chunk;
    }
    return fits;
  }

  #fit(): readonly number[] {
    const guess = this.#guess ?? GUESS;
    const kinds = Object.values(this.#kinds);
    const all = (i: number, j: number) => kinds.reduce((sum, kind) => sum + kind.matrix(i, j), 0);
    const matrix = GUESS.map((_row, i) =>
      Float64Array.from(GUESS, (_column, j) => all(i, j) + (i === j ? tie(guess[i]) : 0)),
    );
    const vector = Float64Array.from(
      GUESS,
      (_, i) => kinds.reduce((sum, kind) => sum + kind.vector(i), 0) + tie(guess[i]) * (guess[i] ?? 0),
    );
    return solve(matrix, vector).map((value, i) => Math.max(value, FLOOR * (guess[i] ?? 0)));
  }
}

/** The faded, weighted steps of a kind: `matrix * coefficients = vector` is their least-squares fit. */
class NormalEquations {
  readonly #matrix = new Float64Array(SIZE * SIZE);
  readonly #vector = new Float64Array(SIZE);

  matrix(i: number, j: number): number {
    return this.#matrix[i * SIZE + j] ?? 0;
  }

  vector(i: number): number {
    return this.#vector[i] ?? 0;
  }

  add(x: readonly number[], ms: number): void {
    const weight = 1 / (NOISE * ms) ** 2;
    for (let i = 0; i < SIZE; i++) {
      const xi = (x[i] ?? 0) * weight;
      for (let j = 0; j < SIZE; j++) this.#matrix[i * SIZE + j] = this.matrix(i, j) * FADING + xi * (x[j] ?? 0);
      this.#vector[i] = this.vector(i) * FADING + xi * ms;
    }
  }
}

/** The weight of a guess that may well be wrong by as much as itself. */
function tie(guess = 1): number {
  return 1 / guess ** 2;
}

function features({ rows, context, chunk, guessed, past }: StepLoad): number[] {
  const attended = (chunk * (past + chunk / 2)) / (64 * 1024);
  return [
    1,
    rows,
    chunk,
    rows > 0 && chunk > 0 ? 1 : 0,
    context / 1024,
    attended,
    chunk > 0 ? past / 1024 : 0,
    guessed === 1 ? 1 : 0,
    guessed > 1 ? 1 : 0,
    (guessed * past) / 1024,
  ];
}

function dot(a: readonly number[], b: readonly number[]): number {
  return a.reduce((sum, value, i) => sum + value * (b[i] ?? 0), 0);
}

/** Gaussian elimination; the matrix is positive definite, so no pivot is ever zero. Both are overwritten. */
function solve(matrix: Float64Array[], vector: Float64Array): number[] {
  const at = (i: number, j: number) => matrix[i]?.[j] ?? 0;
  for (let pivot = 0; pivot < SIZE; pivot++) {
    for (let i = pivot + 1; i < SIZE; i++) {
      const factor = at(i, pivot) / at(pivot, pivot);
      const row = matrix[i];
      if (row === undefined) continue;
      for (let j = pivot; j < SIZE; j++) row[j] = at(i, j) - factor * at(pivot, j);
      vector[i] = (vector[i] ?? 0) - factor * (vector[pivot] ?? 0);
    }
  }
  const solution = Array.from({ length: SIZE }, () => 0);
  for (let i = SIZE - 1; i >= 0; i--) {
    let rest = vector[i] ?? 0;
    for (let j = i + 1; j < SIZE; j++) rest -= at(i, j) * (solution[j] ?? 0);
    solution[i] = rest / at(i, i);
  }
  return solution;
}
