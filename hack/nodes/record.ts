/** What is running, on disk: written before each step that leaves something behind, so that `down` finds it. */
import { readFileSync } from 'node:fs';
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import type { NodePlan } from './options.ts';
import { recordFile, runFolder } from './places.ts';
import type { ProcessIdentity } from './processes.ts';

export interface NodeRecord extends NodePlan {
  /** `unshare`, which the box dies with; null while not started. */
  parent: ProcessIdentity | null;
  /** The box's PID 1 as this machine sees it. */
  box: ProcessIdentity | null;
  /** Ended on purpose by node-stop. */
  stopped: boolean;
}

export interface ClusterRecord {
  stateFolder: string;
  kubeconfig: string;
  programs: { cluster: string; gpu: string | null };
  nodes: NodeRecord[];
  /** Folders made on this machine as mount points, removed again when empty; deepest last. */
  madeFolders: string[];
  /** All steps of `up` were done. */
  complete: boolean;
}

/** @returns null when there is no record */
export function readRecord(): ClusterRecord | null {
  try {
    return JSON.parse(readFileSync(recordFile, 'utf8')) as ClusterRecord;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw new Error(
      `${recordFile} cannot be read: ${error instanceof Error ? error.message : String(error)}`,
    );
  }
}

export async function writeRecord(record: ClusterRecord): Promise<void> {
  await mkdir(runFolder, { recursive: true });
  const next = `${recordFile}.new`;
  await writeFile(next, JSON.stringify(record, null, 2));
  await rename(next, recordFile);
}

export async function removeRecord(): Promise<void> {
  await rm(runFolder, { recursive: true, force: true });
}

/** @throws Error when no cluster runs or it has no such node */
export function findNode(record: ClusterRecord | null, name: string | undefined): NodeRecord {
  if (!record) throw new Error('no cluster is up: ./hack/cluster up');
  const node = record.nodes.find((each) => each.name === name);
  if (!node)
    throw new Error(
      `no node ${name ?? '(name missing)'}; there are ${record.nodes.map((n) => n.name).join(', ')}`,
    );
  return node;
}
