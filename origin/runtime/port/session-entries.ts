/** ONNX Runtime's session settings that differ from its defaults, for both back ends, each with what it bought. */

/**
 * Beside another model's threads on the same cores: spinning for as long as ONNX Runtime does keeps a core from who has
 * work. Measured on two cores with a decoder and an encoder, both asked at once: 1.3 times the tokens and 1.1 times the
 * texts, and 0.96 to 1.2 of either alone. Sleeping at once gave 0.9 to 1.2 times that together; a row alone took 1.2 times
 * as long.
 */
const SHARED_SPIN_MICROS = 50;

export interface Waiting {
  /** Whether threads wait for their next piece of a run without sleeping. */
  readonly spinning: boolean;
  /** Whether another model's threads want the same cores. */
  readonly shared: boolean;
}

export function sessionEntries({ spinning, shared }: Waiting): readonly (readonly [key: string, value: string])[] {
  return [
    // Work is dealt out in shrinking blocks, so that a core that is taken away for a moment doesn't hold up the rest.
    ["session.dynamic_block_base", "4"],
    // Each session has threads of its own, which go on spinning after a run in wait for the next. Those of one graph then
    // take the cores from the other: a decode step behind a mixed one took 20 ms instead of 12. Stopping them at the end
    // of a run costs nothing measurable, and leaves the cores to JavaScript between steps.
    ["session.force_spinning_stop", "1"],
    // Not spinning during a run makes a step of one row half as slow again on two cores; the calibration looks whether
    // this machine is another one.
    ["session.intra_op.allow_spinning", spinning ? "1" : "0"],
    ...(shared ? [["session.intra_op.spin_duration_us", String(SHARED_SPIN_MICROS)] as const] : []),
  ];
}
