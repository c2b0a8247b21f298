/** The imported models that `COLDPATH_MODEL` names, as far as their pages say. Loads and imports nothing. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { ImportConfig } from "../import/config.ts";
import { ImportError } from "../manifest/import-error.ts";
import { locateModels } from "../import/locate.ts";
import { type Manifest, MANIFEST_FILE, readManifest } from "../manifest/manifest.ts";

export interface FoundModel {
  readonly folder: string;
  readonly manifest: Manifest;
}

/**
 * Each of them, in the order of the list. A name is a preset's, an imported model's, or what it was imported from.
 *
 * @throws {ImportError} for the first that is not there or damaged, and where two have one id
 */
export function findModels(config: Pick<ImportConfig, "models" | "modelsDir">): readonly FoundModel[] {
  const byId = new Map<string, FoundModel>();
  for (const { model, folder } of locateModels(config)) {
    if (!existsSync(join(folder, MANIFEST_FILE))) {
      const message = `no imported model "${model}" in ${config.modelsDir}; run: npm run model -- import ${model}`;
      throw new ImportError("unknown-model", message);
    }
    const manifest = readManifest(folder);
    const other = byId.get(manifest.name);
    if (other !== undefined) {
      const message = `${other.folder} and ${folder} are both the model "${manifest.name}": serve one of them`;
      throw new ImportError("unknown-model", message);
    }
    byId.set(manifest.name, { folder, manifest });
  }
  return [...byId.values()];
}
