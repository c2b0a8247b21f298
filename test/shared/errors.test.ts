import { expect, test } from "vitest";
import { ColdpathError, errorResponse, toColdpathError } from "../../shared/errors.ts";
import { sseData, sseError } from "../../shared/sse.ts";

test("an error is sent as OpenAI's envelope with its status and its headers", async () => {
  const error = new ColdpathError("request_limit_exceeded", "slow down", {
    retryAfterSeconds: 7,
    headers: { "x-a": "1" },
  });
  const response = errorResponse(error, { "x-request-id": "r" });
  expect(response.status).toBe(429);
  expect(response.headers.get("retry-after")).toBe("7");
  expect(response.headers.get("x-a")).toBe("1");
  expect(response.headers.get("x-request-id")).toBe("r");
  expect(await response.json()).toEqual({
    error: { message: "slow down", type: "rate_limit_error", code: "request_limit_exceeded", param: null },
  });
});

test("an unexpected failure tells the client nothing of itself", () => {
  const error = toColdpathError(new Error("password=hunter2 at /etc/secret"));
  expect(error.status).toBe(500);
  expect(JSON.stringify(error.envelope)).not.toMatch(/hunter2|secret/);
  expect(error.cause).toBeInstanceOf(Error);
});

test("events are framed by an empty line and stay on one data line", () => {
  expect(sseData({ text: "a\nb" })).toBe(`data: {"text":"a\\nb"}\n\n`);
  expect(sseData("[DONE]")).toBe("data: [DONE]\n\n");
  expect(sseError(new ColdpathError("origin_failed", "it broke").envelope)).toMatch(/^event: error\ndata: \{.*\}\n\n$/);
});
