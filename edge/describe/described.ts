/**
 * The interface's description in both forms, each made when it is first asked for and then kept: anybody may ask, and
 * making them takes longer than a hundred hits.
 */
import { DOCS_HEADERS, renderDocs } from "./docs-page.ts";
import { describeInterface } from "./openapi.ts";

/** A page of another site may read it, too: it says nothing of anybody. */
export const DOCUMENT_HEADERS = { "content-type": "application/json" } as const;

export class Described {
  #document: string | undefined;
  #page: string | undefined;

  /** JSON. */
  get document(): string {
    this.#document ??= JSON.stringify(describeInterface());
    return this.#document;
  }

  async showPage(): Promise<Response> {
    // The text is kept, not its promise: on Workers a promise belongs to the request that made it.
    this.#page ??= await renderDocs(describeInterface());
    return new Response(this.#page, { headers: DOCS_HEADERS });
  }
}
