/**
 * Model references: names of models that can be fetched. A reference is a preset, a repository on a hub, a plain URL, or an
 * object in S3-compatible storage. Parses names only: fetches nothing and does not look at local files.
 *
 * ```
 * smollm2-135m-instruct                                 a preset
 * Qwen/Qwen3-0.6B                                       Hugging Face, or COLDPATH_HUB_ENDPOINT: the safetensors checkpoint
 * Qwen/Qwen3-0.6B-GGUF:Q8_0                             the GGUF file with that quantization
 * hf:Qwen/Qwen3-0.6B-GGUF:qwen3-0.6b-q8_0.gguf@main     that file of that branch, tag or commit
 * ms:Qwen/Qwen3-0.6B                                    ModelScope
 * https://example.org/m.gguf#sha256=<hex>               one file; the digest is optional
 * https://example.org/checkpoint/                       a folder with config.json, model.safetensors, …
 * s3://bucket/m.gguf  s3://bucket/checkpoint/           the same in object storage
 * ```
 */
import { createHash } from "node:crypto";
import { ImportError } from "../../manifest/import-error.ts";
import { wholeGgufName } from "../sources/gguf-parts.ts";
import { findPreset, type Preset } from "./presets.ts";

interface RepositoryReference {
  readonly kind: "hugging-face" | "modelscope";
  /** `owner/name`. */
  readonly repository: string;
  /** A path in the repository or the name of a quantization. Undefined: the checkpoint. */
  readonly choice: string | undefined;
  /** A branch, tag or commit. Undefined: the hub's main branch. */
  readonly revision: string | undefined;
}

/** One file, or a folder if the path ends with a slash. */
export interface UrlReference {
  readonly kind: "url" | "s3";
  /** The URL without user, password and fragment. */
  readonly url: string;
  /** Digest that the reference demands, hex. */
  readonly sha256: string | undefined;
}

export type ModelReference = { readonly kind: "preset"; readonly preset: Preset } | RepositoryReference | UrlReference;

/** `owner/name`, then `:choice`, then `@revision`. The characters of each part are checked separately. */
const REPOSITORY = /^(?:(hf|ms):)?([^/:@]+\/[^/:@]+)(?::([^:@]+))?(?:@([^:@]+))?$/;
const PART = /^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$/;
const REVISION = /^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$/;

/**
 * Parses a name.
 *
 * @returns undefined if the name can only be a local one
 * @throws {ImportError} `unknown-model` for a malformed reference
 */
export function parseReference(name: string): ModelReference | undefined {
  const preset = findPreset(name);
  if (preset !== undefined) return { kind: "preset", preset };
  if (/^(https?|s3):\/\//i.test(name)) return parseUrl(name);
  const match = REPOSITORY.exec(name);
  if (match === null) {
    if (/^(hf|ms):/.test(name)) throw malformed(name, "expected hf:owner/name[:file-or-quantization][@revision]");
    return undefined;
  }
  const [, hub, repository = "", choice, revision] = match;
  const isValid =
    repository.split("/").every((part) => PART.test(part) && !part.includes("..")) &&
    (revision === undefined || (REVISION.test(revision) && !revision.includes("..")));
  if (!isValid && hub === undefined) return undefined;
  if (!isValid)
    throw malformed(name, "expected owner/name[@revision] of letters, digits, dots, dashes and underscores");
  return { kind: hub === "ms" ? "modelscope" : "hugging-face", repository, choice, revision };
}

/** The name that a download is stored under: the same for every spelling of a reference, and without secrets. */
export function referenceName(reference: ModelReference): string {
  switch (reference.kind) {
    case "preset":
      return reference.preset.name;
    case "hugging-face":
    case "modelscope": {
      const { kind, repository, choice, revision } = reference;
      const prefix = kind === "modelscope" ? "ms:" : "hf:";
      return `${prefix}${repository}${choice === undefined ? "" : `:${choice}`}${revision === undefined ? "" : `@${revision}`}`;
    }
    case "url":
    case "s3":
      return `${withoutSecrets(reference.url)}${reference.sha256 === undefined ? "" : `#sha256=${reference.sha256}`}`;
    default:
      return reference satisfies never;
  }
}

/** The default name of the imported model. */
export function referencedModelName(reference: ModelReference): string {
  return wholeGgufName(shortName(reference))
    .replace(/\.(gguf|safetensors)$/i, "")
    .toLowerCase()
    .replaceAll(/[^a-z0-9._-]+/g, "-")
    .replace(/^[^a-z0-9]+/, "")
    .slice(0, 100);
}

function shortName(reference: ModelReference): string {
  switch (reference.kind) {
    case "preset":
      return reference.preset.name;
    case "hugging-face":
    case "modelscope":
      return [lastPart(reference.repository), reference.choice, reference.revision]
        .filter((part) => part !== undefined)
        .join("-");
    case "url":
    case "s3":
      return lastPart(withoutQuery(reference.url));
    default:
      return reference satisfies never;
  }
}

function parseUrl(name: string): UrlReference {
  const url = URL.parse(name);
  if (url === null || url.hostname === "") throw malformed(name, "it is not a valid URL");
  const pinned = /^#sha256=([0-9a-f]{64})$/i.exec(url.hash)?.[1]?.toLowerCase();
  if (url.hash !== "" && pinned === undefined)
    throw malformed(withoutQuery(name), "the fragment must be #sha256= and 64 hex digits");
  if (url.username !== "" || url.password !== "") {
    throw new ImportError(
      "unknown-model",
      "a model's URL must not contain a user or password, because the URL is stored",
    );
  }
  url.hash = "";
  if (pinned !== undefined && url.pathname.endsWith("/")) throw malformed(name, "a folder has no digest");
  return { kind: url.protocol === "s3:" ? "s3" : "url", url: url.href, sha256: pinned };
}

/** Replaces the query, which may be a signature, by its digest: different queries still give different names. */
function withoutSecrets(url: string): string {
  const { search } = new URL(url);
  const digest = createHash("sha256").update(search).digest("hex").slice(0, 12);
  return search === "" ? url : `${withoutQuery(url)}?${digest}`;
}

function withoutQuery(url: string): string {
  return url.replace(/[?#].*$/s, "");
}

function lastPart(path: string): string {
  return path.replace(/\/+$/, "").split("/").at(-1) ?? "";
}

function malformed(name: string, reason: string): ImportError {
  return new ImportError("unknown-model", `"${withoutQuery(name)}" can't be fetched: ${reason}`);
}
