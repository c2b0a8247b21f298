/**
 * Which spellings of a question count as the same, where the operator wants that: the edge makes the identity's text from
 * the question as it is here, and the origin tells by it whether two that came at the same time are one; what is answered
 * is always the client's own. So two spellings share whichever answer was first.
 *
 * Decisions: only what people type is touched, the messages' texts, a completion's prompt and texts for vectors; tools, schemas and stop
 * strings are code. Width forms are the block that exists for legacy encodings (U+FF00 to U+FFEF) and the ideographic
 * space; NFKC as a whole would also make ① a 1 and ² a 2, which change a question. Outer white space is a message's,
 * never a prompt's: a text that ends with a space is continued in another way than one that does not.
 *
 * Source: Unicode Standard Annex #15, normalization forms; Unicode block "Halfwidth and Fullwidth Forms".
 */
import type { ChatCompletionRequest, Question } from "./completion-request.ts";
import { mapTexts } from "./text-input.ts";

/** Each includes those before it. */
export const NORMALIZATIONS = ["off", "unicode", "width", "space"] as const;
export type Normalization = (typeof NORMALIZATIONS)[number];

const WIDTH_FORMS = /[\u3000\uff00-\uffef]+/g;

type Message = ChatCompletionRequest["messages"][number];

/** The question in the one spelling that stands for all that count as the same. */
export function normalizeQuestion(question: Question, how: Normalization): Question {
  if (how === "off") return question;
  if (question.path === "/v1/completions") {
    const { path, request } = question;
    return { path, request: { ...request, prompt: mapTexts(request.prompt, (text) => normalizeText(text, how)) } };
  }
  if (question.path === "/v1/embeddings") {
    const { path, request } = question;
    return { path, request: { ...request, input: mapTexts(request.input, (text) => normalizeText(text, how)) } };
  }
  const { path, request } = question;
  return { path, request: { ...request, messages: request.messages.map((message) => normalizeMessage(message, how)) } };
}

function normalizeMessage(message: Message, how: Normalization): Message {
  const { content } = message;
  const space = how === "space";
  if (typeof content === "string") {
    const text = normalizeText(content, how);
    return { ...message, content: space ? text.trim() : text };
  }
  if (content == null) return message;
  // White space between two parts is inside the message.
  const parts = content.map(({ text, ...part }, place) => {
    const plain = normalizeText(text, how);
    const left = space && place === 0 ? plain.trimStart() : plain;
    return Object.assign(part, { text: space && place === content.length - 1 ? left.trimEnd() : left });
  });
  return { ...message, content: parts };
}

/** A half-width letter and its voicing mark become two characters, which the composition then makes one. */
function normalizeText(text: string, how: Normalization): string {
  const narrow = how === "unicode" ? text : text.replaceAll(WIDTH_FORMS, (forms) => forms.normalize("NFKC"));
  return narrow.normalize("NFC");
}
