/**
 * Sees to it that the default model is imported before the tests that use its real weights: fetched and imported on the
 * first run, found on every later one. The folder is shared with `npm start`.
 */
import type { TestProject } from "vitest/node";
import { readImportConfig } from "../../origin/import/config.ts";
import { ensureModel } from "../../origin/import/import.ts";
import { findPreset } from "../../origin/import/presets.ts";
import { reportProgress } from "../../origin/import/progress.ts";
import { pullPreset } from "../../origin/import/pull.ts";

declare module "vitest" {
  interface ProvidedContext {
    /** The imported default model. */
    modelFolder: string;
    /** The GGUF it was imported from. */
    modelFile: string;
  }
}

const MODEL = "smollm2-135m-instruct";

export default async function setup(project: TestProject): Promise<void> {
  const preset = findPreset(MODEL);
  if (preset === undefined) throw new Error(`there is no preset ${MODEL}`);
  const options = { config: readImportConfig(process.env), progress: reportProgress(process.stderr), fetch };
  const { folder } = await ensureModel({ model: MODEL, ...options });
  project.provide("modelFolder", folder);
  project.provide("modelFile", await pullPreset(preset, options));
}
