/**
 * Lists a repository on Hugging Face, or on any server with the same API (COLDPATH_HUB_ENDPOINT): the commit of a branch, and
 * each file's size and digest. Large files have a SHA-256. Small files only have git's blob id, which is checked as well.
 *
 * The package `@huggingface/hub` is not used, because it sends the token to any host in a page's `Link` header, and a mirror's
 * pages link to the original host.
 */
import { z } from "zod";
import { ImportError } from "../../manifest/import-error.ts";
import type { Listing, RemoteFile } from "./listing.ts";
import { readJson, type ReadJsonOptions } from "./read-json.ts";
import type { Target } from "./request.ts";

export interface HubOptions extends Omit<ReadJsonOptions, "target"> {
  readonly endpoint: string;
  /** Access token. Sent only to the endpoint's host. */
  readonly token: string | undefined;
}

const revisionSchema = z.object({ sha: z.string().regex(/^[0-9a-f]{40}$/), lastModified: z.iso.datetime().optional() });
const treeSchema = z.array(
  z.object({
    type: z.string(),
    path: z.string(),
    size: z.number(),
    oid: z.string().optional(),
    lfs: z.object({ oid: z.string(), size: z.number() }).optional(),
  }),
);

/** Upper bound of pages in a list. A page has about a thousand files. */
const PAGES_MAX = 20;

/** @throws {ImportError} `download-failed` */
export async function listHuggingFace(
  { repository, revision = "main" }: { readonly repository: string; readonly revision?: string | undefined },
  options: HubOptions,
): Promise<Listing> {
  const api = `${options.endpoint}/api/models/${repository}`;
  const revisionUrl = `${api}/revision/${encodeURIComponent(revision)}`;
  const { body: description } = await readJson({ ...options, target: target(revisionUrl, options) });
  const parsed = revisionSchema.safeParse(description);
  if (!parsed.success) throw unexpected(options.endpoint, "the description of a revision", parsed.error);
  const { sha, lastModified } = parsed.data;

  const files: RemoteFile[] = [];
  let page: string | undefined = `${api}/tree/${sha}?recursive=true`;
  for (let count = 0; page !== undefined; count++) {
    if (count === PAGES_MAX) throw new ImportError("download-failed", `${repository} has too many files to list`);
    const { body, headers }: Awaited<ReturnType<typeof readJson>> = await readJson({
      ...options,
      target: target(page, options),
    });
    const tree = treeSchema.safeParse(body);
    if (!tree.success) throw unexpected(options.endpoint, "a list of files", tree.error);
    for (const entry of tree.data) {
      if (entry.type !== "file") continue;
      const address = `${options.endpoint}/${repository}/resolve/${sha}/${encodePath(entry.path)}`;
      files.push({
        path: entry.path,
        bytes: entry.lfs?.size ?? entry.size,
        from: target(address, options),
        ...(entry.lfs === undefined ? { gitBlob: entry.oid } : { sha256: entry.lfs.oid }),
      });
    }
    page = nextPage(headers.get("link"), options.endpoint);
  }
  return { location: repository, revision: sha, modified: lastModified && new Date(lastModified).toISOString(), files };
}

/** The address of one file of a repository. */
export function huggingFaceFile(
  {
    repository,
    revision = "main",
    path,
  }: { readonly repository: string; readonly revision?: string; readonly path: string },
  options: Pick<HubOptions, "endpoint" | "token">,
): Target {
  return target(
    `${options.endpoint}/${repository}/resolve/${encodeURIComponent(revision)}/${encodePath(path)}`,
    options,
  );
}

function target(url: string, { token }: Pick<HubOptions, "token">): Target {
  return { url, credentials: () => Promise.resolve(token === undefined ? {} : { authorization: `Bearer ${token}` }) };
}

/** The address of the next page. A mirror may pass on the original host's link, so only path and query are used. */
function nextPage(link: string | null, endpoint: string): string | undefined {
  const next = /<([^>]+)>;\s*rel="next"/.exec(link ?? "")?.[1];
  const url = next === undefined ? null : URL.parse(next, endpoint);
  return url === null ? undefined : new URL(`${url.pathname}${url.search}`, endpoint).href;
}

/** Encodes a path, except for its slashes. */
export function encodePath(path: string): string {
  return path.split("/").map(encodeURIComponent).join("/");
}

function unexpected(endpoint: string, what: string, cause: unknown): ImportError {
  return new ImportError("download-failed", `${new URL(endpoint).host} sent a response that is not ${what}`, { cause });
}
