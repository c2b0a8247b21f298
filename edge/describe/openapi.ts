/**
 * `GET /openapi.json`: what this endpoint takes and answers, for clients' generators and for people. The requests are the
 * very schemas that parse them; the answers, which nobody parses here, are written down, and the tests hold them to real
 * ones. Knows no deployment: whatever address it is fetched from is the server.
 *
 * Considered: `@hono/zod-openapi`, which wants routes declared and validated its own way, where here a body is read, parsed
 * and identified once for a cache.
 *
 * Source: OpenAPI 3.1.1, whose schemas are JSON Schema 2020-12.
 */
import * as z from "zod";
import { COMPLETION_SCHEMAS } from "../../shared/completion-request.ts";
import { ERRORS } from "../../shared/errors.ts";
import { purgeSchema } from "../admin/purge.ts";
import { revocationSchema } from "../auth/revoke.ts";

export type JsonSchema = Readonly<Record<string, unknown>>;

export interface Operation {
  readonly summary: string;
  readonly description?: string;
  readonly tags: readonly string[];
  readonly security: readonly Readonly<Record<string, readonly string[]>>[];
  readonly parameters?: readonly Parameter[];
  readonly requestBody?: { readonly required: true; readonly content: Content };
  readonly responses: Readonly<Record<string, OpenApiResponse>>;
}

interface Parameter {
  readonly name: string;
  readonly in: "query" | "header" | "path";
  readonly required?: true;
  readonly description: string;
  readonly schema: JsonSchema;
}

interface OpenApiResponse {
  readonly description: string;
  readonly headers?: Readonly<Record<string, { readonly description: string; readonly schema: JsonSchema }>>;
  readonly content?: Content;
}

type Content = Readonly<Record<string, { readonly schema: JsonSchema }>>;

export interface OpenApi {
  readonly openapi: "3.1.1";
  readonly info: { readonly title: string; readonly version: string; readonly description: string };
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
  readonly components: {
    readonly schemas: Readonly<Record<string, JsonSchema>>;
    readonly securitySchemes: Readonly<Record<string, JsonSchema>>;
  };
}

const text: JsonSchema = { type: "string" };
const whole: JsonSchema = { type: "integer" };
const flag: JsonSchema = { type: "boolean" };

function object(properties: Readonly<Record<string, JsonSchema>>, optional: readonly string[] = []): JsonSchema {
  return { type: "object", properties, required: Object.keys(properties).filter((name) => !optional.includes(name)) };
}

function list(items: JsonSchema): JsonSchema {
  return { type: "array", items };
}

function ref(name: string): JsonSchema {
  return { $ref: `#/components/schemas/${name}` };
}

function orNull(schema: JsonSchema): JsonSchema {
  return { anyOf: [schema, { type: "null" }] };
}

const finishReason: JsonSchema = { type: "string", enum: ["stop", "length", "tool_calls"] };
const call = object({
  id: text,
  type: { const: "function" },
  function: object({ name: text, arguments: { type: "string", description: "JSON, as text." } }),
});
const tokenLogprob = { token: text, logprob: { type: "number" }, bytes: orNull(list(whole)) };
const chatLogprobs = object({
  content: list(object({ ...tokenLogprob, top_logprobs: list(object(tokenLogprob)) })),
  refusal: { type: "null" },
});
const completionLogprobs = object({
  tokens: list(text),
  token_logprobs: list({ type: "number" }),
  top_logprobs: list({ type: "object", additionalProperties: { type: "number" } }),
  text_offset: list(whole),
});

const SCHEMAS: Readonly<Record<string, JsonSchema>> = {
  Usage: object(
    {
      prompt_tokens: whole,
      completion_tokens: { ...whole, description: "Of all choices together." },
      total_tokens: whole,
      prompt_tokens_details: object({ cached_tokens: whole }),
    },
    ["prompt_tokens_details"],
  ),
  ChatCompletion: object({
    id: text,
    object: { const: "chat.completion" },
    created: { ...whole, description: "Unix seconds." },
    model: text,
    choices: list(
      object({
        index: whole,
        message: object({ role: { const: "assistant" }, content: orNull(text), tool_calls: list(call) }, [
          "tool_calls",
        ]),
        finish_reason: finishReason,
        logprobs: orNull(chatLogprobs),
      }),
    ),
    usage: ref("Usage"),
  }),
  Completion: object(
    {
      id: text,
      object: { const: "text_completion" },
      created: { ...whole, description: "Unix seconds." },
      model: text,
      choices: list(
        object({ index: whole, text, finish_reason: orNull(finishReason), logprobs: orNull(completionLogprobs) }),
      ),
      usage: orNull(ref("Usage")),
    },
    ["usage"],
  ),
  EmbeddingList: object({
    object: { const: "list" },
    data: list(
      object({
        object: { const: "embedding" },
        index: whole,
        embedding: { anyOf: [list({ type: "number" }), { ...text, description: "32-bit floats in base64." }] },
      }),
    ),
    model: text,
    usage: object({ prompt_tokens: whole, total_tokens: whole }),
  }),
  Response: object({
    id: text,
    object: { const: "response" },
    created_at: { ...whole, description: "Unix seconds." },
    status: { type: "string", enum: ["completed", "incomplete"] },
    incomplete_details: orNull(object({ reason: { const: "max_output_tokens" } })),
    error: { type: "null" },
    model: text,
    output: list({
      anyOf: [
        object({
          id: text,
          type: { const: "message" },
          status: text,
          role: { const: "assistant" },
          content: list(
            object({
              type: { const: "output_text" },
              text,
              annotations: list({}),
              logprobs: list(object(tokenLogprob)),
            }),
          ),
        }),
        object({
          id: text,
          type: { const: "function_call" },
          status: text,
          call_id: text,
          name: text,
          arguments: { ...text, description: "JSON, as text." },
        }),
      ],
    }),
    usage: object({
      input_tokens: whole,
      input_tokens_details: object({ cached_tokens: whole }),
      output_tokens: whole,
      output_tokens_details: object({ reasoning_tokens: whole }),
      total_tokens: whole,
    }),
    store: { const: false, description: "No response is stored: each request carries its whole conversation." },
  }),
  Generated: object({ response: text }),
  Model: object({
    id: text,
    object: { const: "model" },
    created: whole,
    owned_by: text,
    digest: { ...text, description: "SHA-256 of the model's files, part of every answer's identity." },
    context_length: { ...whole, description: "Prompt and answer together, in tokens." },
    task: { ...text, enum: ["generate", "embed"], description: "Whether it makes text or vectors." },
  }),
  ModelList: object({ object: { const: "list" }, data: list(ref("Model")) }),
  Error: object({
    error: object({
      message: text,
      type: { type: "string", enum: [...new Set(ERRORS.map(({ type }) => type))] },
      code: { type: "string", enum: ERRORS.map(({ code }) => code) },
      param: orNull({ type: "string", description: "The field that is wrong, as a path." }),
    }),
  }),
  TokenRefusal: object({ error: text, error_description: text }),
};

const CACHE_HEADERS = {
  "x-cache": {
    description: "HIT and STALE come from the cache, COALESCED from an answer being made for somebody else.",
    schema: { type: "string", enum: ["HIT", "MISS", "STALE", "COALESCED", "BYPASS"] },
  },
  "x-cache-tier": { description: "Where a hit was found.", schema: { type: "string", enum: ["isolate", "regional"] } },
  age: { description: "Seconds since a hit was made.", schema: whole },
  "x-degraded": { description: "What this request had to go without, such as limiter-unreachable.", schema: text },
  ratelimit: { description: "What is left of each limit (draft-ietf-httpapi-ratelimit-headers).", schema: text },
  "ratelimit-policy": { description: "The limits.", schema: text },
} as const;

const COMPLETION_PARAMETERS: readonly Parameter[] = [
  {
    name: "cache-control",
    in: "header",
    description: "no-store, no-cache, max-age=N or only-if-cached; obeyed.",
    schema: text,
  },
  {
    name: "last-event-id",
    in: "header",
    description: "The last id of a stream that was lost: the same body again then gets the rest of it.",
    schema: text,
  },
  { name: "x-request-id", in: "header", description: "Comes back, and is in the logs.", schema: text },
];

function json(schema: JsonSchema): Content {
  return { "application/json": { schema } };
}

/** As a request's schema is published: what may come in. */
function requestOf(schema: z.ZodType): JsonSchema {
  const { $schema: _, ...published } = z.toJSONSchema(schema, { io: "input" });
  return published;
}

/** What any route may answer instead, by status. */
function refusals(except: readonly number[] = []): Readonly<Record<string, OpenApiResponse>> {
  const statuses = [...new Set<number>(ERRORS.map(({ status }) => status))].filter(
    (status) => !except.includes(status),
  );
  return Object.fromEntries(
    statuses.map((status) => {
      const codes = ERRORS.filter((error) => error.status === status).map(({ code }) => code);
      return [String(status), { description: codes.join(", "), content: json(ref("Error")) }];
    }),
  );
}

const CHAT = [{ token: ["chat"] }];
const ADMIN = [{ token: ["admin"] }];

function completion(summary: string, path: keyof typeof COMPLETION_SCHEMAS, answer: Content): Operation {
  return {
    summary,
    tags: ["answers"],
    security: CHAT,
    parameters: COMPLETION_PARAMETERS,
    requestBody: { required: true, content: json(requestOf(COMPLETION_SCHEMAS[path])) },
    responses: {
      200: { description: "The answer.", headers: CACHE_HEADERS, content: answer },
      ...refusals(),
    },
  };
}

function administration(
  summary: string,
  { body, parameters, answer }: { body?: z.ZodType; parameters?: readonly Parameter[]; answer: Content },
): Operation {
  return {
    summary,
    tags: ["operator"],
    security: ADMIN,
    ...(parameters === undefined ? {} : { parameters }),
    ...(body === undefined ? {} : { requestBody: { required: true, content: json(requestOf(body)) } }),
    responses: { 200: { description: "Done.", content: answer }, ...refusals() },
  };
}

function open(summary: string, content: Content, failure: Readonly<Record<string, OpenApiResponse>> = {}): Operation {
  return {
    summary,
    tags: ["endpoint"],
    security: [],
    responses: { 200: { description: "It is so.", content }, ...failure },
  };
}

const EVENTS: Content = {
  "text/event-stream": {
    schema: {
      ...text,
      description:
        "With stream: true. Chunks as data, each with an id; data: [DONE] at the end. A response's events have names, and the last one the whole. One that breaks ends with an event named error.",
    },
  },
};

const TENANT = { name: "tenant", in: "query", description: "One tenant's; else all.", schema: text } as const;

/** The whole document. */
export function describeInterface(): OpenApi {
  const question = object({ digest: text, times: { type: "number" }, path: text, body: { type: "object" } });
  return {
    openapi: "3.1.1",
    info: {
      title: "coldpath",
      version: "1",
      description:
        "A chatbot endpoint that speaks OpenAI's wire format. A token is the API key, this address and /v1 the base URL.",
    },
    paths: {
      "/v1/chat/completions": {
        post: completion("Answers a conversation", "/v1/chat/completions", {
          ...json(ref("ChatCompletion")),
          ...EVENTS,
        }),
      },
      "/v1/completions": {
        post: completion("Goes on with a text", "/v1/completions", { ...json(ref("Completion")), ...EVENTS }),
      },
      "/v1/responses": {
        post: completion("Answers a conversation, in the newer form and without its memory", "/v1/responses", {
          ...json(ref("Response")),
          ...EVENTS,
        }),
      },
      "/v1/embeddings": {
        post: completion("Makes vectors of texts", "/v1/embeddings", json(ref("EmbeddingList"))),
      },
      "/generate": { post: completion("Answers one prompt, the simple form", "/generate", json(ref("Generated"))) },
      "/v1/models": {
        get: {
          summary: "Lists the models that are served",
          tags: ["answers"],
          security: CHAT,
          responses: { 200: { description: "The models.", content: json(ref("ModelList")) }, ...refusals() },
        },
      },
      "/v1/models/{model}": {
        get: {
          summary: "Shows one of them",
          tags: ["answers"],
          security: CHAT,
          parameters: [{ name: "model", in: "path", required: true, description: "Its name.", schema: text }],
          responses: { 200: { description: "The model.", content: json(ref("Model")) }, ...refusals() },
        },
      },
      "/token": {
        post: {
          summary: "Issues a token to a client (OAuth 2 client credentials)",
          description:
            "With HTTP basic authentication, or client_id and client_secret in the body. RFC 6749, section 4.4.",
          tags: ["tokens"],
          security: [{ client: [] }, {}],
          requestBody: {
            required: true,
            content: {
              "application/x-www-form-urlencoded": {
                schema: object(
                  { grant_type: { const: "client_credentials" }, scope: text, client_id: text, client_secret: text },
                  ["scope", "client_id", "client_secret"],
                ),
              },
            },
          },
          responses: {
            200: {
              description: "The token.",
              content: json(object({ access_token: text, token_type: text, expires_in: whole, scope: text })),
            },
            ...Object.fromEntries(
              [400, 401, 429, 503].map((status) => [
                status,
                { description: "Refused, as RFC 6749 says it.", content: json(ref("TokenRefusal")) },
              ]),
            ),
          },
        },
      },
      "/admin/purge": {
        post: administration("Removes stored answers: those that agree with all that is given", {
          body: purgeSchema,
          answer: json(object({ purged: whole })),
        }),
      },
      "/admin/stats": {
        get: administration("Counts the answers that the region holds", {
          parameters: [TENANT],
          answer: json(object({ answers: whole })),
        }),
      },
      "/admin/top": {
        get: administration("Lists what a tenant asks most", {
          parameters: [
            { ...TENANT, required: true, description: "Whose." },
            {
              name: "count",
              in: "query",
              description: "How many, 20 unless said.",
              schema: { ...whole, minimum: 1, maximum: 1_000 },
            },
          ],
          answer: json(object({ questions: list(question) })),
        }),
      },
      "/admin/revoke": {
        post: administration("Takes a token back", { body: revocationSchema, answer: json(object({ revoked: text })) }),
      },
      "/metrics": { get: administration("Figures for Prometheus", { answer: { "text/plain": { schema: text } } }) },
      "/healthz": { get: open("The edge is up", json(object({ status: { const: "ok" } }))) },
      "/readyz": {
        get: open("Which of hits and misses the edge can serve", json(object({ hit: flag, miss: flag })), {
          503: { description: "not_ready", content: json(ref("Error")) },
        }),
      },
      "/openapi.json": { get: open("This document", json({ type: "object" })) },
      "/docs": { get: open("The same to read", { "text/html": { schema: text } }) },
    },
    components: {
      schemas: SCHEMAS,
      securitySchemes: {
        token: { type: "http", scheme: "bearer", bearerFormat: "JWT" },
        client: { type: "http", scheme: "basic" },
      },
    },
  };
}
