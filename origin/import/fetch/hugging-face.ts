/**
 * Lists a repository on Hugging Face, or on any server that speaks its interface (COLDPATH_HUB_ENDPOINT): the commit that
 * a branch stands for, and each file's size and digest. Large files have a SHA-256; small ones only git's own name of
 * their content, which is checked as well.
 *
 * `@huggingface/hub` lists too, and hands the token to whatever host a page's `Link` names: a mirror's pages name the
 * original.
 */
import { z } from "zod";
import { ImportError } from "../../manifest/import-error.ts";
import type { Listing, RemoteFile } from "./listing.ts";
import { type QuestionOptions, readJson } from "./read-json.ts";
import type { Target } from "./request.ts";

export interface HubOptions extends Omit<QuestionOptions, "target"> {
  readonly endpoint: string;
  /** Sent to the endpoint's host only. */
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

/** Pages of a list; a page has a thousand files or so. */
const PAGES_MAX = 20;

/** @throws {ImportError} `download-failed` */
export async function listHuggingFace(
  { repository, revision = "main" }: { readonly repository: string; readonly revision?: string | undefined },
  options: HubOptions,
): Promise<Listing> {
  const api = `${options.endpoint}/api/models/${repository}`;
  const answer = await readJson({
    ...options,
    target: target(`${api}/revision/${encodeURIComponent(revision)}`, options),
  });
  const described = revisionSchema.safeParse(answer.body);
  if (!described.success) throw misunderstood(options.endpoint, "the description of a revision", described.error);
  const { sha, lastModified } = described.data;

  const files: RemoteFile[] = [];
  let page: string | undefined = `${api}/tree/${sha}?recursive=true`;
  for (let count = 0; page !== undefined; count++) {
    if (count === PAGES_MAX) throw new ImportError("download-failed", `${repository} has too many files to list`);
    const { body, headers }: Awaited<ReturnType<typeof readJson>> = await readJson({
      ...options,
      target: target(page, options),
    });
    const tree = treeSchema.safeParse(body);
    if (!tree.success) throw misunderstood(options.endpoint, "a list of files", tree.error);
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

/** One file of a repository, by its address. */
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

/** The next page's address; a mirror passes on the original's, so only what comes after the host is taken. */
function nextPage(link: string | null, endpoint: string): string | undefined {
  const next = /<([^>]+)>;\s*rel="next"/.exec(link ?? "")?.[1];
  const url = next === undefined ? null : URL.parse(next, endpoint);
  return url === null ? undefined : new URL(`${url.pathname}${url.search}`, endpoint).href;
}

/** Encoded, except for the slashes. */
export function encodePath(path: string): string {
  return path.split("/").map(encodeURIComponent).join("/");
}

function misunderstood(endpoint: string, what: string, cause: unknown): ImportError {
  return new ImportError("download-failed", `${new URL(endpoint).host} sent something that is not ${what}`, { cause });
}
