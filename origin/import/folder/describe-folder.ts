/** The manifest of a folder that was just written. */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { IMPORT_VERSION, type Manifest } from "../../manifest/manifest.ts";
import { WEIGHT_FORMATS, type WeightFormatName } from "../../onnx/weight-formats.ts";
import { fileSha256 } from "../disk/digest.ts";
import type { SourceDescription } from "./source-files.ts";

/** What the import found out about a model while it wrote its files. */
export interface ModelDescription extends Pick<Manifest, "architecture" | "tokens" | "chat" | "embedding"> {
  readonly format: WeightFormatName;
}

/** Describes all files of a folder. Reads every byte of them. */
export async function describeFolder(
  folder: string,
  { architecture, tokens, chat, embedding, format }: ModelDescription,
  { source, created, name }: SourceDescription & { readonly name: string },
): Promise<Manifest> {
  const files: Manifest["files"] = {};
  for (const file of readdirSync(folder).toSorted()) {
    const path = join(folder, file);
    files[file] = { bytes: statSync(path).size, sha256: await fileSha256(path) };
  }
  return {
    importVersion: IMPORT_VERSION,
    name,
    architecture,
    quantization: { format, matrices: WEIGHT_FORMATS[format].matrices },
    tokens,
    chat,
    ...(embedding && { embedding }),
    source,
    command: ["npm", "run", "model", "--", "import", source.name, "--name", name, "--format", format],
    tool: { name: "coldpath", version: toolVersion() },
    files,
    created,
  };
}

function toolVersion(): string {
  const text = readFileSync(new URL("../../../package.json", import.meta.url), "utf8");
  return (JSON.parse(text) as { readonly version: string }).version;
}
