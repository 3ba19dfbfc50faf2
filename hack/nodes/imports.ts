/** Images into a node's containerd: only those whose digest it does not have. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { archive, type Image } from '../oci/archive.ts';
import { inBox } from './box.ts';
import { nodeFolder } from './places.ts';
import { until } from './progress.ts';
import type { ClusterRecord, NodeRecord } from './record.ts';

/** containerd answers within a second on an idle machine, ms. */
const containerdMsMax = 60_000;
/** Unpacking 200 MB on a slow disk, ms. */
const importMsMax = 300_000;

const ctr = (record: ClusterRecord, node: NodeRecord, args: string[], timeout: number) =>
  inBox(record, node, ['ctr', '-n', 'k8s.io', ...args], { timeout });

/** @returns digest by image name */
async function present(record: ClusterRecord, node: NodeRecord): Promise<Map<string, string>> {
  const { stdout } = await ctr(record, node, ['images', 'list'], containerdMsMax);
  const rows = String(stdout).split('\n').slice(1);
  return new Map(
    rows.map((row) => {
      const [name, , digest] = row.split(/\s+/);
      return [name ?? '', digest ?? ''];
    }),
  );
}

export async function waitForContainerd(record: ClusterRecord, node: NodeRecord): Promise<void> {
  await until(`containerd on ${node.name}`, containerdMsMax, async () => {
    await ctr(record, node, ['version'], containerdMsMax);
    return true;
  });
}

/** @returns the names that were imported */
export async function importImages(
  record: ClusterRecord,
  node: NodeRecord,
  images: Image[],
): Promise<string[]> {
  const had = await present(record, node);
  const changed = images.filter(({ name, digest }) => had.get(name) !== digest);
  // A layer in containerd's store belongs to an image there, mostly to the one that this import replaces.
  const blobs = join(nodeFolder(node.name), 'containerd/io.containerd.content.v1.content/blobs/sha256');
  for (const image of changed) {
    await archive(image, (layer) => existsSync(join(blobs, layer))).pipe(
      ctr(record, node, ['images', 'import', '-'], importMsMax),
    );
  }
  return changed.map(({ name }) => name);
}
