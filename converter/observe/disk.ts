/** What lies on the node's disk: published commits, partial files, free space. */
import { readFile, stat, statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { partSuffix, type WantedFile } from '../decide/files.ts';
import { type Manifest, manifestName, parseManifest } from '../decide/manifest.ts';
import { isCommit } from '../decide/places.ts';
import type { Have, Room } from '../decide/remaining.ts';

/** What a call gives; null where nothing lies. Any other fault says nothing of what lies there, and is thrown. */
export const orAbsent = <T>(promise: Promise<T>): Promise<T | null> =>
  promise.catch((error: NodeJS.ErrnoException) => {
    if (['ENOENT', 'ENOTDIR', 'EISDIR'].includes(error.code ?? '')) return null;
    throw error;
  });

/** A file's size; null when it is not there. */
async function sizeOf(path: string): Promise<number | null> {
  const found = await orAbsent(stat(path));
  return found?.isFile() ? found.size : null;
}

/**
 * The manifest of a published folder whose files all have their size; null when it is absent or damaged.
 * @throws the disk's error when it cannot be told
 */
export async function publishedManifest(folder: string, commit: string): Promise<Manifest | null> {
  const text = await orAbsent(readFile(join(folder, manifestName), 'utf8'));
  const manifest = text === null ? null : parseManifest(text);
  if (manifest?.commit !== commit) return null;
  for (const file of manifest.files) {
    if ((await sizeOf(join(folder, file.path))) !== file.bytes) return null;
  }
  return manifest;
}

/** The commit a revision was when last asked for; null when it never was, or cannot be told: the hub can. */
export async function knownCommit(ref: string): Promise<string | null> {
  const text = (await readFile(ref, 'utf8').catch(() => '')).trim();
  return isCommit(text) ? text : null;
}

/** What lies there of each wanted file: in the incoming folder, or whole in a published one that lacks others. */
export async function inventory(
  incoming: string,
  published: string,
  wanted: readonly WantedFile[],
): Promise<Map<string, Have>> {
  const have = new Map<string, Have>();
  for (const { path, bytes } of wanted) {
    const publishedBytes = await sizeOf(join(published, path));
    have.set(path, {
      finishedBytes: publishedBytes === bytes ? bytes : await sizeOf(join(incoming, path)),
      partBytes: (await sizeOf(join(incoming, path + partSuffix))) ?? 0,
    });
  }
  return have;
}

/**
 * What the disk under a folder has.
 * @param nodeFile a file that the kubelet mounts from its own disk into the pod, such as the termination message's; null: none
 */
export async function roomOf(folder: string, nodeFile: string | null): Promise<Room> {
  const deviceOf = (path: string): Promise<number | null> =>
    stat(path).then(
      ({ dev }) => dev,
      () => null,
    );
  const { bavail, blocks, bsize } = await statfs(folder);
  const device = nodeFile === null ? null : await deviceOf(nodeFile);
  // Outside Kubernetes the file is no mount, and lies on the disk of its folder.
  const isMounted = nodeFile !== null && device !== (await deviceOf(dirname(nodeFile)));
  return {
    freeBytes: bavail * bsize,
    totalBytes: blocks * bsize,
    isNodeDisk: isMounted && device === (await deviceOf(folder)),
  };
}
