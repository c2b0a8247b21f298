/**
 * `GET /docs`: the document of `openapi.ts` as one page to read. It fetches nothing, runs nothing and works where the
 * internet does not: the usual viewers are megabytes of script, mostly from somebody else's server.
 */
import { html } from "hono/html";
import type { JsonSchema, OpenApi, Operation } from "./openapi.ts";

/** What the page may do, for the browser: show itself. */
export const DOCS_HEADERS = {
  "content-type": "text/html; charset=utf-8",
  "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
} as const;

type Markup = ReturnType<typeof html>;

export async function renderDocs(document: OpenApi): Promise<string> {
  const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method: method.toUpperCase(), operation })),
  );
  const tags = [...new Set(operations.flatMap(({ operation }) => operation.tags))];
  const page = html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <title>${document.info.title}</title>
        <style>
          :root {
            color-scheme: light dark;
            --line: color-mix(in srgb, currentColor 18%, transparent);
            --soft: color-mix(in srgb, currentColor 6%, transparent);
          }
          body {
            font:
              16px/1.5 system-ui,
              sans-serif;
            max-width: 62rem;
            margin: 2rem auto;
            padding: 0 1rem;
          }
          h1 {
            margin-bottom: 0;
          }
          h2 {
            margin: 2.5rem 0 0.5rem;
            text-transform: capitalize;
          }
          code,
          pre {
            font:
              0.875em/1.5 ui-monospace,
              monospace;
          }
          pre {
            background: var(--soft);
            padding: 0.75rem 1rem;
            border-radius: 6px;
            overflow-x: auto;
          }
          details {
            border: 1px solid var(--line);
            border-radius: 6px;
            margin: 0.5rem 0;
            padding: 0 1rem;
          }
          summary {
            cursor: pointer;
            padding: 0.6rem 0;
          }
          summary code {
            font-weight: 600;
            margin-right: 0.75rem;
          }
          .scroll {
            overflow-x: auto;
          }
          table {
            border-collapse: collapse;
            width: 100%;
            margin: 0 0 1rem;
          }
          th,
          td {
            text-align: left;
            vertical-align: top;
            padding: 0.3rem 1rem 0.3rem 0;
            border-top: 1px solid var(--line);
          }
          h3 {
            font-size: 1rem;
            margin: 0.75rem 0 0.25rem;
          }
          .soft {
            opacity: 0.7;
          }
        </style>
      </head>
      <body>
        <h1>${document.info.title}</h1>
        <p>
          ${document.info.description} In a body, null counts as absent. For generators:
          <a href="/openapi.json">openapi.json</a>.
        </p>
        <pre>${EXAMPLE}</pre>
        ${tags.map(
          (tag) =>
            html`<h2>${tag}</h2>
              ${operations.filter(({ operation }) => operation.tags.includes(tag)).map(renderOperation)}`,
        )}
        <h2>Errors</h2>
        <p>Always <code>{"error": {"message", "type", "code", "param"}}</code>, except at <code>/token</code>.</p>
        ${renderErrors(operations[0]?.operation)}
      </body>
    </html>`;
  return String(await page);
}

/** Without the address it was met under: the page is the same for everybody. */
const EXAMPLE = `curl "$ADDRESS/v1/chat/completions" \\
  -H "authorization: Bearer $TOKEN" -H "content-type: application/json" \\
  -d '{"model": "…", "messages": [{"role": "user", "content": "Hello?"}]}'`;

function renderOperation({ path, method, operation }: { path: string; method: string; operation: Operation }): Markup {
  const [body] = Object.entries(operation.requestBody?.content ?? {});
  const ok = operation.responses["200"];
  const scope = operation.security.flatMap(({ token = [] }) => token).join(", ");
  return html`<details>
    <summary><code>${method} ${path}</code>${operation.summary}</summary>
    <p class="soft">
      ${scope === "" ? "Without a token." : html`A token of scope <code>${scope}</code>.`}
      ${operation.description ?? ""}
    </p>
    ${
      operation.parameters === undefined
        ? ""
        : renderTable(
            "Parameters",
            operation.parameters.map(({ name, in: where, required, schema, description }) => [
              name,
              `${describeType(schema)}, ${where}${required === true ? ", required" : ""}`,
              description,
            ]),
          )
    }
    ${body === undefined ? "" : renderTable(`Body, ${body[0]}`, fieldsOf(body[1].schema))}
    ${
      ok === undefined
        ? ""
        : renderTable(
            "Answer",
            Object.entries(ok.content ?? {}).map(([type, { schema }]) => [
              type,
              describeType(schema),
              descriptionOf(schema),
            ]),
          )
    }
    ${
      ok?.headers === undefined
        ? ""
        : renderTable(
            "Headers",
            Object.entries(ok.headers).map(([name, { schema, description }]) => [
              name,
              describeType(schema),
              description,
            ]),
          )
    }
  </details>`;
}

type Row = readonly [name: string, type: string, description: string];

function renderTable(title: string, rows: readonly Row[]): Markup {
  return html`<h3>${title}</h3>
    <div class="scroll">
      <table>
        ${rows.map(
          ([name, type, description]) =>
            html`<tr>
              <td><code>${name}</code></td>
              <td>${type}</td>
              <td>${description}</td>
            </tr>`,
        )}
      </table>
    </div>`;
}

function renderErrors(operation: Operation | undefined): Markup {
  const refusals = Object.entries(operation?.responses ?? {}).filter(([status]) => Number(status) >= 400);
  return html`<div class="scroll">
    <table>
      ${refusals.map(
        ([status, { description }]) =>
          html`<tr>
            <td><code>${status}</code></td>
            <td>${description}</td>
          </tr>`,
      )}
    </table>
  </div>`;
}

/** Required ones first. */
function fieldsOf(schema: JsonSchema): readonly Row[] {
  const alternatives = schema["anyOf"] as readonly JsonSchema[] | undefined;
  if (alternatives !== undefined) return alternatives.flatMap(fieldsOf);
  const required = new Set((schema["required"] as readonly string[] | undefined) ?? []);
  const fields = Object.entries((schema["properties"] as Readonly<Record<string, JsonSchema>> | undefined) ?? {});
  return fields
    .toSorted(([a], [b]) => Number(required.has(b)) - Number(required.has(a)))
    .map(([name, field]) => [
      name,
      `${describeType(field)}${required.has(name) ? ", required" : ""}`,
      descriptionOf(field),
    ]);
}

function descriptionOf({ description }: JsonSchema): string {
  return typeof description === "string" ? description : "";
}

/** A schema in a few words; its details are in the document. */
function describeType(schema: JsonSchema): string {
  const {
    $ref,
    anyOf,
    oneOf,
    enum: values,
    items,
    type,
  } = schema as {
    readonly $ref?: string;
    readonly anyOf?: readonly JsonSchema[];
    readonly oneOf?: readonly JsonSchema[];
    readonly enum?: readonly unknown[];
    readonly items?: JsonSchema;
    readonly type?: string | readonly string[];
  };
  if ($ref !== undefined) return $ref.replace(/^.*\//, "");
  if ("const" in schema) return JSON.stringify(schema["const"]);
  if (values !== undefined) return values.map((value) => JSON.stringify(value)).join(" | ");
  // That null counts as absent is said once, for all fields.
  const kinds = (anyOf ?? oneOf)?.filter((kind) => kind["type"] !== "null");
  if (kinds !== undefined) return [...new Set(kinds.map(describeType))].join(" or ");
  if (type === "array" && items !== undefined) return `list of ${describeType(items)}`;
  const named = [type ?? "anything"].flat().filter((name) => name !== "null");
  return [named.join(" or "), ...boundsOf(schema)].join(" ");
}

const BOUNDS = [
  ["minimum", "≥"],
  ["exclusiveMinimum", ">"],
  ["maximum", "≤"],
] as const;

function boundsOf(schema: JsonSchema): readonly string[] {
  return BOUNDS.flatMap(([name, sign]) => {
    const bound = schema[name];
    return typeof bound === "number" && Number.isFinite(bound) && Math.abs(bound) < Number.MAX_SAFE_INTEGER
      ? [`${sign} ${bound}`]
      : [];
  });
}
