/** The proxies of the environment (HTTPS_PROXY, HTTP_PROXY, NO_PROXY, in small letters too), which `fetch` ignores by itself. */
import { setGlobalProxyFromEnv } from "node:http";
import { ImportError } from "../../manifest/import-error.ts";

/**
 * Sends every request of this process through the proxies that its environment names, if it names any. Node's own way,
 * for the whole process: `undici`'s agent would have to be the same version as Node's `fetch` inside.
 *
 * @throws {ImportError} `download-failed` for a proxy that is no URL
 */
export function useProxies(env: Readonly<Record<string, string | undefined>>): void {
  try {
    setGlobalProxyFromEnv(env);
  } catch (cause) {
    throw new ImportError("download-failed", "HTTPS_PROXY or HTTP_PROXY is not the http URL of a proxy", { cause });
  }
}
