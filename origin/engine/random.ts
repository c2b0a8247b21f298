/**
 * The random numbers of one sequence. Each row owns its generator, so what it draws depends on its seed and on how
 * often it drew, never on the rows beside it.
 *
 * Source: Chris Doty-Humphrey's sfc32 (PractRand), 128 bits of state; chosen because it is short and passes BigCrush.
 */

/** Draws a number in [0, 1) with 32 bits of resolution. */
export type Random = () => number;

/** Draws after seeding that are thrown away, until the seed has reached every bit of the state. */
const WARM_UP_DRAWS = 12;

/** A generator from a seed: any integer, of which the low 64 bits count. */
export function createRandom(seed: number): Random {
  const bits = BigInt.asUintN(64, BigInt(seed));
  let a = 0x9e3779b9;
  let b = Number(bits & 0xffffffffn) | 0;
  let c = Number(bits >> 32n) | 0;
  let counter = 1;

  const draw: Random = () => {
    const out = (((a + b) | 0) + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (((c << 21) | (c >>> 11)) + out) | 0;
    return (out >>> 0) / 0x1_0000_0000;
  };
  for (let i = 0; i < WARM_UP_DRAWS; i++) draw();
  return draw;
}
