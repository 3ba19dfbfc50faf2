/**
 * A cgroup for each node, parent of its pods, so that everything of it can be removed.
 *
 * cgroup v1 and hybrid: one folder in every controller's hierarchy. Pure v2: one folder with its controllers enabled
 * (written from the kernel's documentation; no machine with pure v2 has run it yet).
 */
import { existsSync, readdirSync } from 'node:fs';
import { mkdir, readdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { cgroupName } from './places.ts';
import { until } from './progress.ts';

const root = '/sys/fs/cgroup';
/** Killed processes leave their cgroups some milliseconds later, ms. */
const removeMsMax = 10_000;
const pureV2 = existsSync(join(root, 'cgroup.controllers'));

/** Folders that stand for the top of a hierarchy; names such as `cpu` that are links to `cpu,cpuacct` count once. */
function hierarchies(): string[] {
  if (pureV2) return [root];
  return readdirSync(root, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => join(root, entry.name));
}

async function enableControllers(folder: string): Promise<void> {
  const controllers = (await readFile(join(folder, 'cgroup.controllers'), 'utf8')).trim().split(' ');
  for (const controller of controllers) {
    // A controller that cannot be delegated is kubelet's to complain about, in its own words.
    await writeFile(join(folder, 'cgroup.subtree_control'), `+${controller}`).catch(() => undefined);
  }
}

export async function makeCgroups(node: string): Promise<void> {
  for (const hierarchy of hierarchies()) {
    const folder = join(hierarchy, cgroupName(node));
    if (pureV2) await enableControllers(root);
    await mkdir(folder, { recursive: true });
    if (pureV2) await enableControllers(folder);
    // A v1 cpuset takes no process until it has CPUs and memory nodes.
    for (const file of ['cpuset.cpus', 'cpuset.mems']) {
      if (pureV2 || !existsSync(join(hierarchy, file))) continue;
      await writeFile(join(folder, file), await readFile(join(hierarchy, file)));
    }
  }
}

async function removeTree(folder: string): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    if (entry.isDirectory()) await removeTree(join(folder, entry.name));
  }
  await rmdir(folder);
}

/** Removes a node's cgroups in all hierarchies; its processes must have ended. */
export async function removeCgroups(node: string): Promise<void> {
  for (const hierarchy of hierarchies()) {
    const folder = join(hierarchy, cgroupName(node));
    await until(`removing ${folder}`, removeMsMax, async () => {
      if (!existsSync(folder)) return true;
      await removeTree(folder);
      return true;
    });
  }
}
