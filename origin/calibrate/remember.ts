/** The calibrations' memory: one JSON file, a line's worth for each machine and model. Losing it costs two seconds. */
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { z } from "zod";
import type { ComputeSettings } from "./calibrate.ts";

/** Beyond these the oldest is forgotten: a folder that many machines share stays small. */
const ENTRIES_MAX = 64;

/** What was fastest at a start, and whether it is to be relied on. */
export interface Remembered extends ComputeSettings {
  readonly confirmed: boolean;
}

const schema = z.record(
  z.string(),
  z.object({ threads: z.int().min(1).max(512), spinning: z.boolean(), confirmed: z.boolean() }),
);

/** What is remembered, by name; nothing where the file is not there or not ours. */
export function recall(file: string): Readonly<Record<string, Remembered>> {
  try {
    return schema.parse(JSON.parse(readFileSync(file, "utf8")));
  } catch {
    return {};
  }
}

/** Adds one entry. A folder that can't be written to is measured for again at the next start. */
export function remember(file: string, name: string, settings: Remembered): void {
  const { [name]: _, ...others } = recall(file);
  const entries = [...Object.entries(others), [name, settings] as const].slice(-ENTRIES_MAX);
  const unfinished = `${file}.${process.pid}`;
  try {
    writeFileSync(unfinished, `${JSON.stringify(Object.fromEntries(entries), undefined, 2)}\n`);
    renameSync(unfinished, file);
  } catch {
    rmSync(unfinished, { force: true });
  }
}
