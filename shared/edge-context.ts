/**
 * What an edge tells the origin about a question, beside the question itself, and what the origin tells back: the names
 * of the headers, and the one place where their values are written and read. Every one that is sent is a signed
 * component (`signature.ts`), so the origin may act on it. Knows no tenant's name and no cache.
 */
import { ColdpathError } from "./errors.ts";
import { type Normalization, NORMALIZATIONS } from "./normalize.ts";

/** Who goes first when there is no room for everybody: a token's claim, `normal` where it says nothing. */
export const PRIORITIES = ["high", "normal", "low"] as const;
export type Priority = (typeof PRIORITIES)[number];

export interface EdgeContext {
  /**
   * Names the question, its tenant and its model (`edge/question/identify.ts`): whoever sends the same at the same time may get
   * the same answer. `undefined`: this one is generated for itself. Opaque: 16 to 128 of base64url's letters, padded or not.
   */
  readonly digest?: string | undefined;
  /** Names the tenant without telling who it is: nothing is shared across it. Same letters; default: the empty name. */
  readonly tenant?: string | undefined;
  /** Default: `normal`. */
  readonly priority?: Priority | undefined;
  /** Which spellings of the question have the same digest. Default: `off`. */
  readonly normalize?: Normalization | undefined;
  /** How long the edge will wait for the whole answer, in milliseconds, 1 to a day; `undefined`: it did not say. */
  readonly timeoutMs?: number | undefined;
}

/** An {@link EdgeContext} as the origin has read it. */
export interface ReadEdgeContext {
  readonly digest: string | undefined;
  /** Empty where the edge named none. */
  readonly tenant: string;
  readonly priority: Priority;
  readonly normalize: Normalization;
  readonly timeoutMs: number | undefined;
}

/** Longest `coldpath-timeout-ms`: nobody waits longer for one answer. */
const TIMEOUT_MS_MAX = 86_400_000;

const HEADERS = {
  digest: "coldpath-digest",
  tenant: "coldpath-tenant",
  priority: "coldpath-priority",
  normalize: "coldpath-normalize",
  timeoutMs: "coldpath-timeout-ms",
} as const satisfies Record<keyof EdgeContext, string>;

/** The request headers, in the order in which they are signed. */
export const CONTEXT_HEADERS: readonly string[] = Object.values(HEADERS);

/**
 * The origin's response headers. `digest` is the question's, as it was sent; `modelDigest` says which model answered: an
 * answer is filed under that model or not at all; `coalesced` is `1` where the answer is being made for another request.
 */
export const ANSWER_HEADERS = {
  digest: "coldpath-digest",
  modelDigest: "coldpath-model-digest",
  coalesced: "coldpath-coalesced",
} as const;

/** The context as request headers; what is not said is not sent. */
export function writeEdgeContext(context: EdgeContext): Record<string, string> {
  const fields = Object.keys(HEADERS) as (keyof EdgeContext)[];
  return Object.fromEntries(
    fields.flatMap((field) => (context[field] === undefined ? [] : [[HEADERS[field], String(context[field])]])),
  );
}

/**
 * Reads the context from headers whose signature holds.
 *
 * @throws {ColdpathError} `invalid_signature` for a value that no edge writes: a fault between edge and origin, not the
 * client's
 */
export function readEdgeContext(headers: Headers): ReadEdgeContext {
  const timeoutMs = read(headers, HEADERS.timeoutMs, (text) =>
    /^[1-9]\d{0,8}$/.test(text) && Number(text) <= TIMEOUT_MS_MAX ? Number(text) : undefined,
  );
  return {
    digest: read(headers, HEADERS.digest, readName),
    tenant: read(headers, HEADERS.tenant, readName) ?? "",
    priority: read(headers, HEADERS.priority, (text) => PRIORITIES.find((known) => known === text)) ?? "normal",
    normalize: read(headers, HEADERS.normalize, (text) => NORMALIZATIONS.find((known) => known === text)) ?? "off",
    timeoutMs,
  };
}

function readName(text: string): string | undefined {
  return /^[\w-]{16,128}={0,2}$/.test(text) ? text : undefined;
}

/** `parse` gives `undefined` for what can't be; a header that came twice has a comma in it and can't be either. */
function read<Value>(headers: Headers, name: string, parse: (text: string) => Value | undefined): Value | undefined {
  const text = headers.get(name);
  if (text === null) return undefined;
  const value = parse(text);
  if (value === undefined) throw new ColdpathError("invalid_signature", `the signed header ${name} can't be read`);
  return value;
}
