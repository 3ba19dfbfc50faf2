/** Images into a node's containerd: only those whose digest it does not have. */
import type { Image } from '../oci/archive.ts';
import { inBox } from './box.ts';
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
  for (const { archive } of changed) {
    await ctr(record, node, ['images', 'import', '--digests=false', archive], importMsMax);
  }
  return changed.map(({ name }) => name);
}
