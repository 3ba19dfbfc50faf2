/** What lies on the node's disk: published commits, partial files, free space. */
import { readFile, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { partSuffix, type WantedFile } from '../decide/files.ts';
import { type Manifest, manifestName, parseManifest } from '../decide/manifest.ts';
import { isCommit } from '../decide/places.ts';
import type { Have } from '../decide/remaining.ts';

/** A file's size; null when it is not there. */
async function sizeOf(path: string): Promise<number | null> {
  try {
    const found = await stat(path);
    return found.isFile() ? found.size : null;
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return null;
    throw error;
  }
}

const readText = (path: string): Promise<string | null> => readFile(path, 'utf8').catch(() => null);

/** The manifest of a published folder whose files all have their size; null when it is absent or damaged. */
export async function publishedManifest(folder: string, commit: string): Promise<Manifest | null> {
  const text = await readText(join(folder, manifestName));
  const manifest = text === null ? null : parseManifest(text);
  if (manifest?.commit !== commit) return null;
  for (const file of manifest.files) {
    if ((await sizeOf(join(folder, file.path))) !== file.bytes) return null;
  }
  return manifest;
}

/** The commit a revision was when last asked for; null when it never was. */
export async function knownCommit(ref: string): Promise<string | null> {
  const text = (await readText(ref))?.trim() ?? '';
  return isCommit(text) ? text : null;
}

/** What an incoming folder holds of each wanted file. */
export async function inventory(folder: string, wanted: readonly WantedFile[]): Promise<Map<string, Have>> {
  const have = new Map<string, Have>();
  for (const { path } of wanted) {
    have.set(path, {
      finishedBytes: await sizeOf(join(folder, path)),
      partBytes: (await sizeOf(join(folder, path + partSuffix))) ?? 0,
    });
  }
  return have;
}

/** Bytes that may still be written under a folder. */
export async function freeBytes(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(folder);
  return bavail * bsize;
}
