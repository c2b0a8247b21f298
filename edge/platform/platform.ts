/** What the edge needs from the place it runs in: passed in, so that tests can own time, chance and the network. */

export interface Platform {
  readonly fetch: (url: string, init: RequestInit) => Promise<Response>;
  /** Unix milliseconds. */
  readonly now: () => number;
  readonly randomBytes: (length: number) => Uint8Array<ArrayBuffer>;
  readonly randomId: () => string;
  /** Takes one finished log line. */
  readonly log: (line: string) => void;
}
