import { expect, test } from "vitest";
import { KnobError, choiceKnob, integerKnob, readKnobs, secretKnob, textKnob, urlKnob } from "../../shared/knobs.ts";

const KNOBS = {
  port: integerKnob({ env: "COLDPATH_PORT", help: "", fallback: 8787, min: 0, max: 65_535 }),
  name: textKnob({ env: "COLDPATH_NAME", help: "", fallback: undefined }),
  url: urlKnob({ env: "COLDPATH_URL", help: "", fallback: "http://127.0.0.1:1" }),
  secret: secretKnob({ env: "COLDPATH_SECRET", help: "" }),
  mode: choiceKnob({ env: "COLDPATH_MODE", help: "", fallback: "open", choices: ["open", "closed"] }),
};

test("an empty environment gives every default", () => {
  expect(readKnobs(KNOBS, { COLDPATH_PORT: "" })).toEqual({
    port: 8787,
    name: undefined,
    url: "http://127.0.0.1:1",
    secret: undefined,
    mode: "open",
  });
});

test("values are read by type, and the result is frozen", () => {
  const values = readKnobs(KNOBS, {
    COLDPATH_PORT: "1",
    COLDPATH_URL: "https://a.example/x/",
    COLDPATH_MODE: "closed",
  });
  expect(values).toMatchObject({ port: 1, url: "https://a.example/x", mode: "closed" });
  expect(Object.isFrozen(values)).toBe(true);
});

test.each([
  ["COLDPATH_PORT", "http"],
  ["COLDPATH_PORT", "70000"],
  ["COLDPATH_PORT", "-1"],
  ["COLDPATH_PORT", "1.5"],
  ["COLDPATH_URL", "127.0.0.1:8900"],
  ["COLDPATH_URL", "redis://127.0.0.1"],
  ["COLDPATH_SECRET", "short"],
  ["COLDPATH_MODE", "ajar"],
])("%s=%s is refused by its name", (env, text) => {
  expect(() => readKnobs(KNOBS, { [env]: text })).toThrow(KnobError);
  expect(() => readKnobs(KNOBS, { [env]: text })).toThrow(env);
});

test("a refused secret is not printed", () => {
  expect(() => readKnobs(KNOBS, { COLDPATH_SECRET: "hunter2" })).toThrow(/^(?!.*hunter2)/);
});
