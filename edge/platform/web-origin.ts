/** The way to the origin by the Web's `fetch`, for Workers and workerd. */
import type { BodyReader } from "../../shared/read-body.ts";
import type { AskOrigin, Platform } from "./platform.ts";

/** @param url - without a slash at its end */
export function openWebOrigin({ fetch }: Pick<Platform, "fetch">, url: string): AskOrigin {
  return async ({ method, path, headers, body, signal }) => {
    const init = { method, headers, signal, redirect: "manual", ...(body === undefined ? {} : { body }) } as const;
    const response = await fetch(url + path, init);
    return {
      status: response.status,
      header: (name) => response.headers.get(name),
      body: response.body?.getReader() ?? NO_BODY,
    };
  };
}

const NO_BODY: BodyReader = { read: async () => ({ done: true }), cancel: async () => {} };
