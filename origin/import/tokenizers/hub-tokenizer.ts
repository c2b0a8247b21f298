/**
 * The tokenizer of a safetensors checkpoint: `tokenizer.json` as it is, and from other files beside the weights the chat
 * template and the tokens that begin a text and end an answer. Depends on no way of tokenizing.
 *
 * Source: huggingface/transformers, tokenization_utils_base.py and utils/chat_template_utils.py.
 */
import { z } from "zod";
import type { Manifest } from "../../manifest/manifest.ts";
import { ImportError } from "../../manifest/import-error.ts";
import { parseBeside, readBeside } from "../sources/read-beside.ts";
import type { TensorFile } from "../sources/tensor-file.ts";
import { END_TOKENS, type ImportedTokenizer } from "./imported-tokenizer.ts";

const TOKENIZER = "tokenizer.json";
const TOKENIZER_CONFIG = "tokenizer_config.json";
const GENERATION_CONFIG = "generation_config.json";
const TEMPLATE = "chat_template.jinja";
const OLD_TEMPLATE = "chat_template.json";

const addedToken = z.looseObject({ id: z.int().min(0), content: z.string(), special: z.boolean().optional() });
const tokenizerSchema = z.looseObject({
  added_tokens: z.array(addedToken),
  post_processor: z.unknown(),
  model: z.looseObject({ vocab: z.unknown() }),
});
type TokenizerJson = z.infer<typeof tokenizerSchema>;

/** A token's text, or an object with the text as `content`. */
const namedToken = z
  .union([z.string(), z.looseObject({ content: z.string() }).transform(({ content }) => content)])
  .nullish();
const namedTemplate = z.looseObject({ name: z.string(), template: z.string() });
const configSchema = z.looseObject({
  bos_token: namedToken,
  eos_token: namedToken,
  unk_token: namedToken,
  pad_token: namedToken,
  add_bos_token: z.boolean().nullish(),
  chat_template: z.union([z.string(), z.array(namedTemplate)]).nullish(),
  added_tokens_decoder: z.record(z.string(), addedToken.omit({ id: true })).optional(),
});
type TokenizerConfig = z.infer<typeof configSchema>;

/** The part of `generation_config.json`, or else `config.json`, that names the end tokens. */
const endsSchema = z.looseObject({
  eos_token_id: z.union([z.int().min(0), z.array(z.int().min(0))]).nullish(),
});

const NAMES = ["bos_token", "eos_token", "unk_token", "pad_token"] as const;

/**
 * @throws {ImportError} `unsupported-tokenizer` without `tokenizer.json`, `unsupported-model` for several chat templates
 * without a default, `invalid-file` for files that can't be parsed or contradict each other
 */
export function readHubTokenizer(file: TensorFile): ImportedTokenizer {
  const { path } = file;
  const text = file.readText(TOKENIZER);
  if (text === undefined) {
    throw new ImportError(
      "unsupported-tokenizer",
      `${path} has no ${TOKENIZER}; tokenizer.model and vocab.json are not supported`,
    );
  }
  const json = parseBeside({ file, name: TOKENIZER, text }, tokenizerSchema);
  const config = readBeside(file, TOKENIZER_CONFIG, configSchema) ?? {};
  const whole = addConfigTokens(path, json, config);
  return {
    // Unchanged, unless the configuration has more tokens.
    json: whole === json ? text : JSON.stringify(whole),
    chatTemplate: readTemplate(file, config),
    tokens: readTokens(file, whole, config),
  };
}

/** Adds control tokens that some checkpoints have only in `tokenizer_config.json`. */
function addConfigTokens(path: string, json: TokenizerJson, config: TokenizerConfig): TokenizerJson {
  const known = new Map(json.added_tokens.map(({ id, content }) => [id, content]));
  const configured = new Map(
    Object.entries(config.added_tokens_decoder ?? {}).map(([id, token]) => [Number(id), token]),
  );
  const other = [...configured].find(([id, { content }]) => known.has(id) && known.get(id) !== content);
  if (other !== undefined) {
    const [id, { content }] = other;
    throw new ImportError(
      "invalid-file",
      `${path}: token ${id} is ${known.get(id)} in ${TOKENIZER} but ${content} in ${TOKENIZER_CONFIG}`,
    );
  }
  const added = [...configured].filter(([id]) => !known.has(id)).map(([id, token]) => Object.assign({ id }, token));
  return added.length === 0 ? json : { ...json, added_tokens: [...json.added_tokens, ...added] };
}

/** Looks in the newest place first, as `transformers` does. */
function readTemplate(file: TensorFile, config: TokenizerConfig): string | undefined {
  const template =
    file.readText(TEMPLATE) ??
    readBeside(file, OLD_TEMPLATE, z.looseObject({ chat_template: z.string() }))?.chat_template ??
    config.chat_template ??
    undefined;
  if (template === undefined || typeof template === "string") return template;
  const named = new Map(template.map(({ name, template: source }) => [name, source]));
  const plain = named.get("default");
  const withTools = named.get("tool_use");
  if (plain !== undefined) return withTools === undefined ? plain : eitherTemplate(withTools, plain);
  throw new ImportError("unsupported-model", `${file.path} has several chat templates, but none named "default"`);
}

/**
 * Joins two templates by a condition. The empty expressions keep the newlines and spaces at both ends of each, which the
 * statements beside them would trim.
 */
function eitherTemplate(withTools: string, plain: string): string {
  const [first, second] = [withTools, plain].map((source) => source.replace(/\n$/, ""));
  return `{% if tools %}{{ '' }}${first}{{ '' }}{% else %}{{ '' }}${second}{{ '' }}{% endif %}`;
}

function readTokens(file: TensorFile, json: TokenizerJson, config: TokenizerConfig): Manifest["tokens"] {
  const added = new Map(json.added_tokens.map(({ id, content }) => [content, id]));
  const idOf = (token: string | null | undefined) => (token == null ? null : (added.get(token) ?? null));
  const bos = idOf(config.bos_token);
  const named = NAMES.flatMap((name): [string, string][] => (config[name] == null ? [] : [[name, config[name]]]));
  const known = json.added_tokens.filter(({ content, special }) => special === true && END_TOKENS.has(content));
  const generation = readBeside(file, GENERATION_CONFIG, endsSchema) ?? endsSchema.safeParse(file.metadata).data;
  const generated = [generation?.eos_token_id ?? []].flat();
  const eos = idOf(config.eos_token);
  const ends = new Set([...generated, ...(eos === null ? [] : [eos]), ...known.map(({ id }) => id)]);
  if (ends.size === 0) throw new ImportError("invalid-file", `${file.path} has no token that ends an answer`);
  return {
    bos,
    ends: [...ends].toSorted((a, b) => a - b),
    addBos: bos !== null && (config.add_bos_token ?? beginsWith(json.post_processor, config.bos_token)),
    names: Object.fromEntries(named),
  };
}

/** Whether the tokenizer's post-processor puts the token before a text. */
function beginsWith(postProcessor: unknown, token: string | null | undefined): boolean {
  const template = z.looseObject({
    type: z.literal("TemplateProcessing"),
    single: z.tuple([z.looseObject({ SpecialToken: z.looseObject({ id: z.string() }) })]).rest(z.unknown()),
  });
  const sequence = z.looseObject({ type: z.literal("Sequence"), processors: z.array(z.unknown()) });
  const steps = sequence.safeParse(postProcessor);
  if (steps.success) return steps.data.processors.some((step) => beginsWith(step, token));
  const parsed = template.safeParse(postProcessor);
  return parsed.success && parsed.data.single[0].SpecialToken.id === token;
}
