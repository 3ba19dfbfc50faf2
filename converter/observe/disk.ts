/** What lies on the node's disk: published commits, partial files, free space. */
import { readFile, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { partSuffix, type WantedFile } from '../decide/files.ts';
import { type Manifest, manifestName, parseManifest } from '../decide/manifest.ts';
import { isCommit } from '../decide/places.ts';
import type { Have } from '../decide/remaining.ts';

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

/** Bytes that may still be written under a folder. */
export async function freeBytes(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(folder);
  return bavail * bsize;
}
