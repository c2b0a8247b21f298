/**
 * What a model's name asks to be fetched: a preset, a repository on a hub, a plain URL, or an object in S3-compatible
 * storage. Reads names, fetches nothing, and knows no local file.
 *
 * ```
 * smollm2-135m-instruct                                 a preset
 * Qwen/Qwen3-0.6B                                       Hugging Face, or COLDPATH_HUB_ENDPOINT: the safetensors checkpoint
 * Qwen/Qwen3-0.6B-GGUF:Q8_0                             the one GGUF of that quantization
 * hf:Qwen/Qwen3-0.6B-GGUF:qwen3-0.6b-q8_0.gguf@main     that file of that branch, tag or commit
 * ms:Qwen/Qwen3-0.6B                                    ModelScope
 * https://example.org/m.gguf#sha256=<hex>               one file; the digest is optional
 * https://example.org/checkpoint/                       a folder of config.json, model.safetensors, …
 * s3://bucket/m.gguf  s3://bucket/checkpoint/           the same in object storage
 * ```
 */
import { createHash } from "node:crypto";
import { ImportError } from "../../manifest/import-error.ts";
import { wholeGgufName } from "../sources/gguf-parts.ts";
import { findPreset, type Preset } from "./presets.ts";

interface Repository {
  readonly kind: "hugging-face" | "modelscope";
  /** `owner/name`. */
  readonly repository: string;
  /** A path in the repository, or a quantization's name; without one the checkpoint. */
  readonly choice: string | undefined;
  /** A branch, tag or commit; without one the hub's main branch. */
  readonly revision: string | undefined;
}

/** One file, or, with a slash at its end, a folder. */
export interface Location {
  readonly kind: "url" | "s3";
  /** Without user, password, fragment. */
  readonly url: string;
  /** Hex. */
  readonly sha256: string | undefined;
}

export type Wanted = { readonly kind: "preset"; readonly preset: Preset } | Repository | Location;

/** `owner/name`, then `:choice`, then `@revision`; what each may hold is checked apart. */
const REPOSITORY = /^(?:(hf|ms):)?([^/:@]+\/[^/:@]+)(?::([^:@]+))?(?:@([^:@]+))?$/;
const PART = /^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$/;
const REVISION = /^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$/;

/**
 * What a name asks for; `undefined` where it can only be something local.
 *
 * @throws {ImportError} `unknown-model` for a name that has the form of one to fetch and can't be one
 */
export function parseWanted(name: string): Wanted | undefined {
  const preset = findPreset(name);
  if (preset !== undefined) return { kind: "preset", preset };
  if (/^(https?|s3):\/\//i.test(name)) return parseLocation(name);
  const match = REPOSITORY.exec(name);
  if (match === null) {
    if (/^(hf|ms):/.test(name)) throw unknown(name, "it should be hf:owner/name[:file-or-quantization][@revision]");
    return undefined;
  }
  const [, hub, repository = "", choice, revision] = match;
  const isSound =
    repository.split("/").every((part) => PART.test(part) && !part.includes("..")) &&
    (revision === undefined || (REVISION.test(revision) && !revision.includes("..")));
  if (!isSound && hub === undefined) return undefined;
  if (!isSound) throw unknown(name, "a repository is owner/name, of letters, digits, dots, dashes, underscores");
  return { kind: hub === "ms" ? "modelscope" : "hugging-face", repository, choice, revision };
}

/** The name under which what was fetched is kept: the same for every spelling, and without secrets. */
export function wantedName(wanted: Wanted): string {
  switch (wanted.kind) {
    case "preset":
      return wanted.preset.name;
    case "hugging-face":
    case "modelscope": {
      const { kind, repository, choice, revision } = wanted;
      const prefix = kind === "modelscope" ? "ms:" : "hf:";
      return `${prefix}${repository}${choice === undefined ? "" : `:${choice}`}${revision === undefined ? "" : `@${revision}`}`;
    }
    case "url":
    case "s3":
      return `${withoutSecrets(wanted.url)}${wanted.sha256 === undefined ? "" : `#sha256=${wanted.sha256}`}`;
    default:
      return wanted satisfies never;
  }
}

/** What the imported model is called, where nobody says. */
export function wantedModelName(wanted: Wanted): string {
  return wholeGgufName(describe(wanted))
    .replace(/\.(gguf|safetensors)$/i, "")
    .toLowerCase()
    .replaceAll(/[^a-z0-9._-]+/g, "-")
    .replace(/^[^a-z0-9]+/, "")
    .slice(0, 100);
}

function describe(wanted: Wanted): string {
  switch (wanted.kind) {
    case "preset":
      return wanted.preset.name;
    case "hugging-face":
    case "modelscope":
      return [lastPart(wanted.repository), wanted.choice, wanted.revision]
        .filter((part) => part !== undefined)
        .join("-");
    case "url":
    case "s3":
      return lastPart(withoutQuery(wanted.url));
    default:
      return wanted satisfies never;
  }
}

function parseLocation(name: string): Location {
  const url = URL.parse(name);
  if (url === null || url.hostname === "") throw unknown(name, "it is no URL");
  const pinned = /^#sha256=([0-9a-f]{64})$/i.exec(url.hash)?.[1]?.toLowerCase();
  if (url.hash !== "" && pinned === undefined)
    throw unknown(withoutQuery(name), "after # comes sha256= and 64 hex digits");
  if (url.username !== "" || url.password !== "") {
    throw new ImportError(
      "unknown-model",
      "a URL of a model can't hold a user or a password: it would be written down",
    );
  }
  url.hash = "";
  if (pinned !== undefined && url.pathname.endsWith("/")) throw unknown(name, "a folder has no digest of its own");
  return { kind: url.protocol === "s3:" ? "s3" : "url", url: url.href, sha256: pinned };
}

/** A query may be a signature, so only its digest is kept: another query is another name all the same. */
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

function unknown(name: string, reason: string): ImportError {
  return new ImportError("unknown-model", `"${withoutQuery(name)}" can't be fetched: ${reason}`);
}
