/** Why the stack can't run, in words for the person at the terminal: what happened and what to do about it. */

interface LaunchFailureDetail {
  readonly logTail?: string | undefined;
  readonly alreadyExplained?: boolean;
  readonly cause?: unknown;
}

/** The message is one sentence; `logTail`, where there is one, is what the failing part said last. */
export class LaunchFailure extends Error {
  override readonly name = "LaunchFailure";
  readonly logTail: string | undefined;
  /** The failing part has already said it in the terminal. */
  readonly alreadyExplained: boolean;

  constructor(message: string, detail: LaunchFailureDetail = {}) {
    super(message, { cause: detail.cause });
    this.logTail = detail.logTail;
    this.alreadyExplained = detail.alreadyExplained ?? false;
  }
}
