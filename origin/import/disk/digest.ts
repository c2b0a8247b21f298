/** Digests of files. A file is streamed, so its size does not matter. */
import { createHash, type Hash } from "node:crypto";
import { createReadStream, statSync } from "node:fs";
import { pipeline } from "node:stream/promises";

const READ_BYTES = 1 << 20;

/** SHA-256 of a file, hex. */
export function fileSha256(path: string): Promise<string> {
  return digest(path, createHash("sha256"));
}

/** Git's blob id of a file, hex: the only digest that Hugging Face has for small files. */
export function fileGitBlob(path: string): Promise<string> {
  return digest(path, createHash("sha1").update(`blob ${statSync(path).size}\0`));
}

async function digest(path: string, hash: Hash): Promise<string> {
  await pipeline(createReadStream(path, { highWaterMark: READ_BYTES }), hash);
  return hash.digest("hex");
}
