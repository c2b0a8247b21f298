import { expect, test } from "vitest";
import { readCachedBytes, readMachineMemory } from "../../../../origin/models/memory/available.ts";

const V2 = "anon 5\nfile 999\ninactive_file 300\nactive_file 40\nslab 7\n";
const V1 = "cache 9\ninactive_file 1\nactive_file 2\ntotal_inactive_file 3000\ntotal_active_file 400\n";

test.each([
  ["version 2", { "/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/b/memory.stat": V2 }, 340],
  [
    "version 2 that shows its own group as the root",
    { "/proc/self/cgroup": "0::/a\n", "/sys/fs/cgroup/memory.stat": V2 },
    340,
  ],
  [
    "version 1",
    { "/proc/self/cgroup": "5:cpu:/x\n4:memory:/a\n0::/\n", "/sys/fs/cgroup/memory/a/memory.stat": V1 },
    3400,
  ],
  [
    "version 1 with two controllers in one",
    { "/proc/self/cgroup": "4:hugetlb,memory:/a\n", "/sys/fs/cgroup/memory/memory.stat": V1 },
    3400,
  ],
  ["no groups", {}, 0],
  ["a group that says nothing", { "/proc/self/cgroup": "0::/a\n" }, 0],
  ["nonsense", { "/proc/self/cgroup": "\0::", "/sys/fs/cgroup/memory.stat": "what" }, 0],
])("pages of files that count against a limit: %s", (_, files: Readonly<Record<string, string>>, bytes) => {
  expect(readCachedBytes((path) => files[path])).toBe(bytes);
});

test("this machine has memory, and no more to give than it has", () => {
  const { totalBytes, availableBytes } = readMachineMemory();
  expect(availableBytes).toBeGreaterThan(0);
  expect(availableBytes).toBeLessThanOrEqual(totalBytes);
});
