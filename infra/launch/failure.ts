/** Why the stack can't run, in words for the person at the terminal: what happened and what to do about it. */

/** The message is one sentence; `logTail`, where there is one, is what the failing part said last. */
export class LaunchFailure extends Error {
  override readonly name = "LaunchFailure";
  readonly logTail: string | undefined;

  constructor(message: string, detail: { readonly logTail?: string | undefined; readonly cause?: unknown } = {}) {
    super(message, { cause: detail.cause });
    this.logTail = detail.logTail;
  }
}
