/** What `npm run test:gpu` says where it can't test anything. */
import { spawnSync } from "node:child_process";
import { dirname, join } from "node:path";
import { expect, inject, test } from "vitest";

const MAIN = join(import.meta.dirname, "gpu", "main.ts");

function run(env: Readonly<Record<string, string>>) {
  const folder = inject("modelFolder");
  const model = { COLDPATH_MODELS_DIR: dirname(folder), COLDPATH_MODEL: folder.split("/").at(-1) ?? "" };
  // No driver is found, whatever this machine has.
  const hidden = { CUDA_VISIBLE_DEVICES: "", VK_ICD_FILENAMES: "/nowhere", VK_DRIVER_FILES: "/nowhere" };
  return spawnSync(process.execPath, [MAIN], {
    env: { ...process.env, ...model, ...hidden, ...env },
    encoding: "utf8",
  });
}

test.each(["cuda", "webgpu"])("without a GPU %s is refused in one sentence, with exit code 1", (provider) => {
  const { status, stdout, stderr } = run({ COLDPATH_EXECUTION_PROVIDER: provider });
  expect(status).toBe(1);
  expect(stdout).toBe("");
  expect(stderr).toMatch(
    new RegExp(`^test:gpu: COLDPATH_EXECUTION_PROVIDER=${provider} can't be used here: [^\\n]*\\n$`, "m"),
  );
});

test("the CPU is no GPU", () => {
  const { status, stderr } = run({ COLDPATH_EXECUTION_PROVIDER: "cpu" });
  expect(status).toBe(1);
  expect(stderr).toBe("test:gpu: COLDPATH_EXECUTION_PROVIDER must be cuda or webgpu here, not cpu\n");
});
