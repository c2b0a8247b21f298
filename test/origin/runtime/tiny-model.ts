/** Imports tiny seeded checkpoints the way a user's are, into a folder of the test's own. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { WeightFormatName } from "../../../origin/onnx/weight-formats.ts";
import { readImportConfig } from "../../../origin/import/config.ts";
import { ensureModel } from "../../../origin/import/import.ts";
import { silentProgress } from "../../../origin/import/progress/progress.ts";
import { type TinyCheckpointOptions, writeTinyCheckpoint } from "../../fakes/tiny-checkpoint.ts";

/** Folders that go away with the test file. */
export class TinyModels implements Disposable {
  readonly #root = mkdtempSync(join(tmpdir(), "coldpath-runtime-"));

  /** @returns the model's folder */
  async import(name: string, format: WeightFormatName, options: TinyCheckpointOptions = {}): Promise<string> {
    const gguf = join(this.#root, `${name}.gguf`);
    writeTinyCheckpoint(gguf, options);
    const config = { ...readImportConfig({}), modelsDir: this.#root };
    const { folder } = await ensureModel({ model: gguf, name, format, config, progress: silentProgress, fetch });
    return folder;
  }

  [Symbol.dispose](): void {
    rmSync(this.#root, { recursive: true, force: true });
  }
}
