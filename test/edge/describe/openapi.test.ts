/** The interface's description against the endpoint itself: every route, every code, real requests and real answers. */
import { describe, expect, it } from "vitest";
import * as z from "zod";
import { describeInterface, type JsonSchema, type OpenApi } from "../../../edge/describe/openapi.ts";
import { ERRORS } from "../../../shared/errors.ts";
import { ask, chat, createStack, type Stack, token } from "../stack.ts";

async function fetched(stack: Stack, path: string): Promise<Response> {
  return stack.fetch(new Request(`http://edge.test${path}`));
}

/** A schema of the document, with what it refers to in it, as a check. */
function checkOf(document: OpenApi, schema: JsonSchema): z.ZodType {
  const inlined = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(inlined);
    if (typeof value !== "object" || value === null) return value;
    if ("$ref" in value) return inlined(document.components.schemas[String(value.$ref).replace(/^.*\//, "")]);
    return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, inlined(inner)]));
  };
  return z.fromJSONSchema(inlined(schema) as Parameters<typeof z.fromJSONSchema>[0]);
}

function answerOf(document: OpenApi, path: string, method: string, status = "200"): z.ZodType {
  const content = document.paths[path]?.[method]?.responses[status]?.content?.["application/json"];
  if (content === undefined) throw new Error(`${method} ${path} has no answer ${status}`);
  return checkOf(document, content.schema);
}

function bodyOf(document: OpenApi, path: string): z.ZodType {
  const content = document.paths[path]?.["post"]?.requestBody?.content["application/json"];
  if (content === undefined) throw new Error(`${path} takes no body`);
  return checkOf(document, content.schema);
}

describe("GET /openapi.json", () => {
  it("is there for anybody, and describes every route and no other", async () => {
    const stack = createStack();
    const response = await fetched(stack, "/openapi.json");
    expect([response.status, response.headers.get("content-type")]).toEqual([200, "application/json"]);
    const document = await response.json<OpenApi>();
    expect(document).toEqual(JSON.parse(JSON.stringify(describeInterface())));
    for (const [path, methods] of Object.entries(document.paths)) {
      for (const method of ["get", "post"]) {
        const answer = await stack.fetch(new Request(`http://edge.test${path}`, { method: method.toUpperCase() }));
        expect([path, method, answer.status === 405]).toEqual([path, method, !(method in methods)]);
      }
    }
    expect(Object.keys(document.paths).toSorted()).toEqual(
      "/admin/purge /admin/revoke /admin/stats /admin/top /docs /generate /healthz /metrics /openapi.json /readyz /token /v1/chat/completions /v1/completions /v1/embeddings /v1/models /v1/models/{model} /v1/responses".split(
        " ",
      ),
    );
  });

  it("describes what real answers are", async () => {
    const stack = createStack();
    const document = describeInterface();
    const tools = await ask(stack, chat("hello"));
    expect(answerOf(document, "/v1/chat/completions", "post").safeParse(await tools.json()).error).toBeUndefined();
    const texts = await ask(stack, { model: "tiny", prompt: "hello" }, { path: "/v1/completions" });
    expect(answerOf(document, "/v1/completions", "post").safeParse(await texts.json()).error).toBeUndefined();
    const simple = await ask(stack, { prompt: "hello" }, { path: "/generate" });
    expect(answerOf(document, "/generate", "post").safeParse(await simple.json()).error).toBeUndefined();
    const authorization = `Bearer ${await token({ sub: "alice" })}`;
    const models = await stack.fetch(new Request("http://edge.test/v1/models", { headers: { authorization } }));
    expect(answerOf(document, "/v1/models", "get").safeParse(await models.json()).error).toBeUndefined();
    const model = await stack.fetch(new Request("http://edge.test/v1/models/tiny", { headers: { authorization } }));
    expect(answerOf(document, "/v1/models/{model}", "get").safeParse(await model.json()).error).toBeUndefined();
    const response = await ask(stack, { model: "tiny", input: "hello" }, { path: "/v1/responses" });
    expect(answerOf(document, "/v1/responses", "post").safeParse(await response.json()).error).toBeUndefined();
    const refused = await ask(stack, { prompt: 1 }, { path: "/generate" });
    expect(refused.status).toBe(400);
    expect(answerOf(document, "/generate", "post", "400").safeParse(await refused.json()).error).toBeUndefined();
    // And it does say something: another answer is not one of these.
    expect(answerOf(document, "/v1/chat/completions", "post").safeParse({ id: "x" }).success).toBe(false);
  });

  it("says of a request's body what the endpoint says", async () => {
    const stack = createStack();
    const body = bodyOf(describeInterface(), "/v1/chat/completions");
    const requests = [
      chat("hello"),
      chat("hello", { temperature: 0, top_k: 3, stop: ["a"], stream: null, unknown: 1 }),
      chat("hello", { temperature: 3 }),
      chat("hello", { stop: [] }),
      chat("hello", { n: 0 }),
      { model: "tiny", messages: [] },
      { model: "tiny", messages: [{ role: "nobody", content: "x" }] },
      { messages: [{ role: "user", content: "x" }] },
    ];
    const said = requests.map((request) => body.safeParse(request).success);
    const answered: boolean[] = [];
    for (const request of requests) answered.push((await ask(stack, request)).status === 200);
    expect(said).toEqual(answered);
    expect(new Set(said).size).toBe(2);
  });

  it("says of every field that can be sent what it means", () => {
    const fieldsOf = (schema: JsonSchema): [string, JsonSchema][] => {
      const { anyOf = [], properties = {} } = schema as {
        anyOf?: JsonSchema[];
        properties?: Record<string, JsonSchema>;
      };
      return [...Object.entries(properties), ...anyOf.flatMap(fieldsOf)];
    };
    const described: string[] = [];
    for (const [path, methods] of Object.entries(describeInterface().paths)) {
      const schema = methods["post"]?.requestBody?.content["application/json"]?.schema;
      for (const [field, { description }] of schema === undefined ? [] : fieldsOf(schema)) {
        expect([path, field, description]).toEqual([path, field, expect.stringMatching(/^\S.*\.$/)]);
        described.push(`${path} ${field}`);
      }
    }
    for (const some of ["/v1/chat/completions seed", "/v1/embeddings input", "/generate model", "/admin/revoke jti"]) {
      expect(described).toContain(some);
    }
  });

  it("names every error code, each under its status", () => {
    const responses = describeInterface().paths["/v1/chat/completions"]?.["post"]?.responses ?? {};
    for (const { code, status } of ERRORS) expect(responses[String(status)]?.description.split(", ")).toContain(code);
  });
});

describe("GET /docs", () => {
  it("is a page of its own: it names every route and field, fetches nothing and runs nothing", async () => {
    const response = await fetched(createStack(), "/docs");
    expect([response.status, response.headers.get("content-type")]).toEqual([200, "text/html; charset=utf-8"]);
    expect(response.headers.get("content-security-policy")).toContain("default-src 'none'");
    const page = await response.text();
    const document = describeInterface();
    for (const path of Object.keys(document.paths)) expect(page).toContain(` ${path}</code>`);
    for (const field of ["messages", "response_format", "min_p", "grant_type", "everything", "last-event-id"]) {
      expect(page).toContain(`<code>${field}</code>`);
    }
    expect(page).toContain("0 always takes the likeliest token");
    expect(page).not.toMatch(/<script|<link|<img|\bsrc=|undefined|\[object/);
    expect(await (await fetched(createStack(), "/docs?<script>")).text()).toBe(page);
  });
});
