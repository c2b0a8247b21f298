/**
 * Sees to it that the default model is imported before the tests that use its real weights: fetched and imported on the
 * first run, found on every later one. The folder is shared with `npm start`.
 */
import type { TestProject } from "vitest/node";
import { ensureDefaultModel } from "./default-model.ts";

declare module "vitest" {
  interface ProvidedContext {
    /** The imported default model. */
    modelFolder: string;
    /** The GGUF it was imported from. */
    modelFile: string;
  }
}

export default async function setup(project: TestProject): Promise<void> {
  const { folder, gguf } = await ensureDefaultModel();
  project.provide("modelFolder", folder);
  project.provide("modelFile", gguf);
}
