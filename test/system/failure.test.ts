/** Parts of the running stack are killed: nothing hangs, nothing false is stored, every client reads the envelope. */
import { afterEach, beforeEach, expect, test } from "vitest";
import type { Stack } from "../../infra/launch/stack.ts";
import { DEFAULT_MODEL } from "../setup/default-model.ts";
import { startPrivateStack } from "../setup/private-stack.ts";

let stack: Stack;
let token: string;

beforeEach(async () => {
  stack = await startPrivateStack();
  token = await stack.token({ sub: "alice", plan: "bench" });
});
afterEach(() => stack.stop());

function ask(content: string, more: object = {}): Promise<Response> {
  return fetch(`${stack.edgeUrl}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${token}` },
    body: JSON.stringify({
      model: DEFAULT_MODEL,
      messages: [{ role: "user", content }],
      max_tokens: 8,
      temperature: 0,
      ...more,
    }),
    signal: AbortSignal.timeout(20_000),
  });
}

test("a killed Redis costs the cache, not the answer", async () => {
  expect((await ask("Hello?")).headers.get("x-cache")).toBe("MISS");
  expect((await ask("Hello?")).headers.get("x-cache")).toBe("HIT");
  stack.parts.redis?.kill();
  await stack.parts.redis?.exited;
  const answer = await ask("Hello?");
  expect(answer.status).toBe(200);
  // What an isolate remembers is still a hit; the region is gone.
  expect(answer.headers.get("x-cache-tier")).not.toBe("regional");
  expect(JSON.stringify(await answer.json())).toMatch(/"content":"[^"]/);
});

test("a killed origin still leaves the hits, and a miss gets 503 and OpenAI's envelope", async () => {
  const cold = await (await ask("Hello?")).text();
  stack.parts.origin.kill();
  await stack.parts.origin.exited;
  const hit = await ask("Hello?");
  expect(hit.headers.get("x-cache")).toBe("HIT");
  expect(await hit.text()).toBe(cold);
  const miss = await ask("Something never asked.");
  expect(miss.status).toBe(503);
  expect(await miss.json()).toMatchObject({ error: { type: "server_error", code: "origin_unavailable" } });
});

test("an origin killed in mid-answer ends the stream with an error event, and the cut answer is not stored", async () => {
  const long = { stream: true, max_tokens: 1_500, logit_bias: { 0: -100, 2: -100 } };
  const response = await ask("Write a very long story.", long);
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
  let text = (await reader?.read())?.value ?? "";
  stack.parts.origin.kill();
  for (let part = await reader?.read(); part?.done === false; part = await reader?.read()) text += part.value;
  expect(text).toContain("event: error");
  expect(text).not.toContain("[DONE]");

  const again = await ask("Write a very long story.", long);
  expect(again.status).toBe(503);
  await again.arrayBuffer();
});
