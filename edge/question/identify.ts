/**
 * Which answer is asked for: one canonical text of everything that can change it, and a keyed digest of that text for
 * one tenant and one model. The canonical text is also what the origin gets, so a duplicate key, a `null` or a field's
 * order can't mean one thing to the cache and another to the model; only where the operator lets spellings share an
 * answer is the digest that of another text (see shared/normalize.ts). Knows neither store nor limits.
 *
 * Decisions: `null` at the top level means absent, as in OpenAI's API, and is left out. A default that is written out
 * is another question than one that is not: the engine may change its defaults. `/generate` shares the chat's answers.
 *
 * Source: RFC 8785 (JSON Canonicalization Scheme).
 */
import canonicalize from "canonicalize";
import type { Question } from "../../shared/completion-request.ts";
import { ColdpathError } from "../../shared/errors.ts";
import { type Normalization, normalizeQuestion } from "../../shared/normalize.ts";
import type { Mac } from "../platform/platform.ts";

/** The only fields that can't change the answer; every other one, known or not, is part of its identity. */
const WITHOUT_INFLUENCE: ReadonlySet<string> = new Set(["stream", "stream_options", "user", "metadata"]);

/** A change here makes every stored answer a miss. */
const IDENTITY_VERSION = 2;

/**
 * JSON Schemas in here are for a model: it writes an object's fields in the order in which they are named, and reads
 * them in that order in its prompt. So their order can change the answer, is kept, and is part of the identity.
 */
const ORDERED: ReadonlySet<string> = new Set(["response_format", "tools"]);

/** 48 bits of the model's digest: two models of one region never share them. */
const MODEL_PREFIX_CHARS = 12;

export interface Identity {
  /** Letters of base64url; tells nothing of the question without the key. */
  readonly digest: string;
  /** The client's own question in canonical JSON, an object with at least a model: what the origin is asked. */
  readonly canonical: string;
}

/** Within what a digest names an answer. */
export interface IdentityScope {
  readonly tenant: string;
  readonly modelDigest: string;
  readonly normalize: Normalization;
}

/** @throws {ColdpathError} `invalid_request` where a text is not Unicode (a lone surrogate), which RFC 8785 excludes */
export function canonicalQuestion({ request }: Question): string {
  const influence = Object.entries(request).filter(
    ([field, value]) => value !== null && value !== undefined && !WITHOUT_INFLUENCE.has(field),
  );
  try {
    // RFC 8785 sorts by UTF-16 code units, which is what `<` compares; a value of JSON never canonicalizes to undefined.
    const members = influence
      .toSorted(([a], [b]) => (a < b ? -1 : 1))
      .map(([field, value]) => `${canonicalize(field)}:${ORDERED.has(field) ? ordered(value) : canonicalize(value)}`);
    return `{${members.join(",")}}`;
  } catch (cause) {
    throw new ColdpathError("invalid_request", "the request holds text that is not valid Unicode", { cause });
  }
}

/** The JSON of a value, its fields as they came. Throws on a lone surrogate, as `canonicalize` does. */
function ordered(value: unknown): string {
  canonicalize(value);
  return JSON.stringify(value);
}

/**
 * Names one tenant's answer to one question by one model.
 *
 * @param modelDigest - of the model that would answer now; another model's answer is another identity
 * @param normalize - which spellings share an answer; edges that differ in it share none
 */
export async function identify(
  mac: Mac,
  question: Question,
  { tenant, modelDigest, normalize }: IdentityScope,
): Promise<Identity> {
  const canonical = canonicalQuestion(question);
  const compared = normalize === "off" ? canonical : canonicalQuestion(normalizeQuestion(question, normalize));
  // The first line is JSON without a raw line break, so no tenant's name can run into the question.
  const scope = [IDENTITY_VERSION, tenant, question.path, modelDigest, ...(normalize === "off" ? [] : [normalize])];
  return { digest: modelPrefix(modelDigest) + (await mac(`${JSON.stringify(scope)}\n${compared}`)), canonical };
}

/** What the digests of one model's answers begin with, so that they can be purged together. */
export function modelPrefix(modelDigest: string): string {
  return `${modelDigest.replaceAll(/\W/g, "_").slice(0, MODEL_PREFIX_CHARS)}-`;
}

/**
 * Names a tenant to the origin, which is to keep tenants apart and not to know them: no question's text begins like
 * this, so the tag is no answer's digest.
 */
export async function tagTenant(mac: Mac, tenant: string): Promise<string> {
  return mac(`tenant ${tenant}`);
}
