/** The default model with its real weights, as `npm start` has it: fetched and imported on the first run, found later. */
import { readImportConfig } from "../../origin/import/config.ts";
import { ensureModel } from "../../origin/import/import.ts";
import { type ImportedModel } from "../../origin/import/folder/model-folder.ts";
import { pull } from "../../origin/import/fetch/pull.ts";
import { parseReference } from "../../origin/import/fetch/reference.ts";
import { reportProgress } from "../../origin/import/progress/progress.ts";

export const DEFAULT_MODEL = "smollm2-135m-instruct";

export interface DefaultModel extends ImportedModel {
  /** The GGUF it was imported from. */
  readonly gguf: string;
}

/** Says on standard error what it fetches. */
export async function ensureDefaultModel(): Promise<DefaultModel> {
  const wanted = parseReference(DEFAULT_MODEL);
  if (wanted === undefined) throw new Error(`there is no preset ${DEFAULT_MODEL}`);
  const options = { config: readImportConfig(process.env), progress: reportProgress(process.stderr), fetch };
  const imported = await ensureModel({ model: DEFAULT_MODEL, ...options });
  return { ...imported, gguf: (await pull(wanted, options)).path };
}
