/** The environment's proxies (HTTPS_PROXY, HTTP_PROXY, NO_PROXY, also in lower case), which `fetch` ignores by default. */
import { setGlobalProxyFromEnv } from "node:http";
import { ImportError } from "../../manifest/import-error.ts";

/**
 * Sends every request of this process through the environment's proxies, if there are any. Uses Node's own setting for the
 * whole process: an agent of `undici` would have to be the version that is inside Node.
 *
 * @throws {ImportError} `download-failed` for a malformed proxy URL
 */
export function useProxies(env: Readonly<Record<string, string | undefined>>): void {
  try {
    setGlobalProxyFromEnv(env);
  } catch (cause) {
    throw new ImportError("download-failed", "HTTPS_PROXY or HTTP_PROXY is not a valid http URL", { cause });
  }
}
