/** Lists a repository on ModelScope, which has the SHA-256 of every file. */
import { z } from "zod";
import { ImportError } from "../../manifest/import-error.ts";
import { encodePath } from "./hugging-face.ts";
import type { Listing } from "./listing.ts";
import { readJson, type ReadJsonOptions } from "./read-json.ts";
import type { Target } from "./request.ts";

export interface ModelScopeOptions extends Omit<ReadJsonOptions, "target"> {
  readonly endpoint: string;
}

const filesSchema = z.object({
  Data: z.object({
    Files: z.array(
      z.object({
        Type: z.string(),
        Path: z.string(),
        Size: z.number(),
        Sha256: z.string().optional(),
        /** Time of the commit, Unix seconds. */
        CommittedDate: z.number().optional(),
      }),
    ),
  }),
});

/** @throws {ImportError} `download-failed` */
export async function listModelScope(
  { repository, revision = "master" }: { readonly repository: string; readonly revision?: string | undefined },
  options: ModelScopeOptions,
): Promise<Listing> {
  const query = new URLSearchParams({ Revision: revision, Recursive: "true" });
  const url = `${options.endpoint}/api/v1/models/${repository}/repo/files?${query.toString()}`;
  const { body } = await readJson({ ...options, target: { url } });
  const parsed = filesSchema.safeParse(body);
  if (!parsed.success) {
    const { host } = new URL(options.endpoint);
    throw new ImportError("download-failed", `${host} sent a response that is not a list of files`, {
      cause: parsed.error,
    });
  }
  const files = parsed.data.Data.Files.filter(({ Type }) => Type === "blob");
  const newest = Math.max(...files.map(({ CommittedDate }) => CommittedDate ?? 0));
  return {
    location: repository,
    revision,
    modified: newest > 0 ? new Date(newest * 1000).toISOString() : undefined,
    files: files.map(({ Path: path, Size: bytes, Sha256: sha256 }) => ({
      path,
      bytes,
      sha256: sha256?.toLowerCase() || undefined,
      from: modelScopeFile({ repository, revision, path }, options),
    })),
  };
}

/** The address of one file of a repository. */
export function modelScopeFile(
  {
    repository,
    revision = "master",
    path,
  }: { readonly repository: string; readonly revision?: string; readonly path: string },
  { endpoint }: Pick<ModelScopeOptions, "endpoint">,
): Target {
  return { url: `${endpoint}/models/${repository}/resolve/${encodeURIComponent(revision)}/${encodePath(path)}` };
}
