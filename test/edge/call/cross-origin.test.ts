/** Which pages a browser lets read a reply, by the knob; that all platforms do it is the conformance suite's. */
import { expect, it } from "vitest";
import { readEdgeConfig } from "../../../edge/config.ts";
import { ask, chat, createStack, type Stack } from "../stack.ts";

const PAGE = "https://chat.example.com";

function preflight(stack: Stack, origin: string): Promise<Response> {
  const headers = { origin, "access-control-request-method": "POST" };
  return stack.fetch(new Request("http://edge.test/v1/chat/completions", { method: "OPTIONS", headers }));
}

function permission(response: Response): [string | null, string | null] {
  return [response.headers.get("access-control-allow-origin"), response.headers.get("vary")];
}

it("only the pages that are named read anything, where some are named", async () => {
  const stack = createStack({ bindings: { COLDPATH_CORS_ORIGINS: `${PAGE}, app://localhost` } });
  for (const origin of [PAGE, "app://localhost"]) {
    expect(permission(await preflight(stack, origin))).toEqual([origin, "origin"]);
    expect(permission(await ask(stack, chat("hi"), { headers: { origin } }))).toEqual([origin, "origin"]);
  }
  for (const origin of ["https://evil.example.com", `${PAGE}.evil.example.com`, "http://chat.example.com", "null"]) {
    expect(permission(await preflight(stack, origin))).toEqual([null, "origin"]);
    const answer = await ask(stack, chat("hi"), { headers: { origin } });
    expect(permission(answer)).toEqual([null, "origin"]);
    expect(answer.headers.get("access-control-expose-headers")).toBeNull();
  }
});

it("no page reads anything where it is off", async () => {
  const stack = createStack({ bindings: { COLDPATH_CORS_ORIGINS: "off" } });
  expect((await preflight(stack, PAGE)).headers.get("access-control-allow-origin")).toBeNull();
  const document = await stack.fetch(new Request("http://edge.test/openapi.json", { headers: { origin: PAGE } }));
  expect(document.headers.get("access-control-allow-origin")).toBeNull();
});

it("what is no origin is refused at the start", () => {
  const secret = "a secret of more than 32 bytes, long enough";
  const config = (origins: string) =>
    readEdgeConfig({
      COLDPATH_ORIGIN_SECRET: secret,
      COLDPATH_CACHE_SECRET: secret,
      COLDPATH_JWT_SECRET: secret,
      COLDPATH_CORS_ORIGINS: origins,
    }).corsOrigins;
  expect(config("")).toBe("*");
  expect(config("http://localhost:3000,capacitor://localhost")).toEqual([
    "http://localhost:3000",
    "capacitor://localhost",
  ]);
  for (const wrong of [
    `${PAGE}/`,
    `${PAGE}/chat`,
    "https://*.example.com",
    "chat.example.com",
    `${PAGE},`,
    "app://",
    "null",
  ]) {
    expect(() => config(wrong)).toThrow("COLDPATH_CORS_ORIGINS must be");
  }
});
