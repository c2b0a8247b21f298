/** From the name of a repository to an imported model: the import is the same as of a local folder with the same files. */
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { ensureModel } from "../../../../origin/import/import.ts";
import { silentProgress } from "../../../../origin/import/progress/progress.ts";
import { modelDigest } from "../../../../origin/manifest/manifest.ts";
import { startHub } from "../../../fakes/hub.ts";
import { writeTinyCheckpoint } from "../../../fakes/tiny-checkpoint.ts";
import { writeHubCheckpoint } from "../../../fakes/tiny-hub-checkpoint.ts";
import { fetchConfig } from "./fetching.ts";

test("a sharded repository, imported by its name, gives the same bytes as its local folder", async () => {
  const root = mkdtempSync(join(tmpdir(), "coldpath-by-name-"));
  onTestFinished(() => rmSync(root, { recursive: true, force: true }));
  await using hub = await startHub();
  const config = fetchConfig(hub, join(root, "models"));
  const ensure = (model: string) => ensureModel({ model, config, progress: silentProgress, fetch });

  const gguf = join(root, "tiny.gguf");
  writeTinyCheckpoint(gguf);
  const first = await ensure(gguf);
  const text = (name: string) => readFileSync(join(first.folder, name), "utf8");
  const folder = join(root, "Tiny-Hub");
  mkdirSync(folder);
  writeHubCheckpoint(folder, {
    tokenizer: text("tokenizer.json"),
    chatTemplate: text("chat_template.jinja"),
    shards: 3,
  });

  const files = readdirSync(folder).map((path) => ({ path, bytes: readFileSync(join(folder, path)) }));
  for (const { path, bytes } of files) hub.files.set(`/scope/models/acme/Tiny-Hub/resolve/v2/${path}`, { bytes });
  const list = files.map(({ path, bytes }) => ({
    Type: "blob",
    Path: path,
    Size: bytes.length,
    Sha256: createHash("sha256").update(bytes).digest("hex"),
  }));
  hub.files.set("/scope/api/v1/models/acme/Tiny-Hub/repo/files?Revision=v2&Recursive=true", {
    bytes: Buffer.from(JSON.stringify({ Code: 200, Data: { Files: list } })),
  });

  const local = await ensure(folder);
  const fetched = await ensure("ms:acme/Tiny-Hub@v2");
  expect(fetched.folder).toBe(join(root, "models", "tiny-hub-v2"));
  expect(modelDigest(fetched.manifest)).toBe(modelDigest(local.manifest));
  expect(fetched.manifest.source).toMatchObject({ kind: "modelscope", location: "acme/Tiny-Hub", revision: "v2" });
  expect(fetched.manifest.source.files).toEqual(local.manifest.source.files);

  // Once imported, the model needs neither the hub nor the store.
  hub.handler = (_, response) => void response.writeHead(500).end();
  rmSync(join(root, "models", ".store"), { recursive: true });
  expect((await ensure("ms:acme/Tiny-Hub@v2")).manifest).toEqual(fetched.manifest);
});
