/**
 * How the origin's events are written to one client that streams: a chat's or a text's chunks as they are, or the events of
 * a response that they build. Knows neither where they come from nor how they are sent.
 */
import type { ChatCompletionChunk } from "../../shared/completion-response.ts";
import type { ErrorEnvelope } from "../../shared/errors.ts";
import { SSE_DONE, sseData, sseError } from "../../shared/sse.ts";
import type { EventRole } from "./draft.ts";
import { readEventId } from "./event-id.ts";
import { ResponseEvents } from "./response-form.ts";
import { Resumption } from "./resume.ts";
import type { ReplyForm } from "../question/reply-form.ts";

export interface EventWriter {
  /** @returns `undefined` for what this client has already, or did not ask for */
  write(data: string, role: EventRole, id: string | undefined): string | undefined;
  /** The last word of a complete answer. */
  end(id: string | undefined): string;
  /** The last word of a broken one. */
  break(envelope: ErrorEnvelope): string;
}

/** @returns `undefined` where the client wants its answer in one piece */
export function createEventWriter(form: ReplyForm, lastEventId: string | null): EventWriter | undefined {
  if (form.type === "sse") return writeChunks(form, lastEventId);
  return form.type === "response" && form.streamed ? writeResponse(form) : undefined;
}

function writeChunks({ includeUsage }: { readonly includeUsage: boolean }, lastEventId: string | null): EventWriter {
  const delivered = readEventId(lastEventId);
  const resumption = delivered === undefined ? undefined : new Resumption(delivered);
  return {
    write: (data, role, id) => {
      if (role === "usage" && !includeUsage) return undefined;
      const news = resumption === undefined ? data : resumption.rest(data);
      return news === undefined ? undefined : sseData(news, id);
    },
    end: (id) => sseData(SSE_DONE, id),
    break: sseError,
  };
}

function writeResponse({ settings }: { readonly settings: string }): EventWriter {
  const events = new ResponseEvents(settings);
  return {
    write: (data) => events.take(JSON.parse(data) as ChatCompletionChunk),
    end: () => events.end(),
    break: (envelope) => events.break(envelope),
  };
}
