/** Reads published files again and compares their hashes: a disk may have lost what was whole when it was published. */
import { createHash } from 'node:crypto';
import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { FetchFailure } from '../decide/failures.ts';
import type { ManifestFile } from '../decide/manifest.ts';
import { interruption } from '../http.ts';

const readBytes = 1024 * 1024;

async function hashOf(path: string, signal: AbortSignal): Promise<string> {
  const handle = await open(path, 'r');
  try {
    const hash = createHash('sha256');
    const buffer = Buffer.allocUnsafe(readBytes);
    for (;;) {
      if (signal.aborted) throw interruption(signal);
      const { bytesRead } = await handle.read(buffer, 0, buffer.length, null);
      if (bytesRead === 0) return hash.digest('hex');
      hash.update(buffer.subarray(0, bytesRead));
    }
  } finally {
    await handle.close();
  }
}

/** @returns the first of the files whose bytes are not those that were fetched; null when all are */
export async function findDamaged(
  folder: string,
  files: readonly ManifestFile[],
  signal: AbortSignal,
): Promise<ManifestFile | null> {
  for (const file of files) {
    if ((await hashOf(join(folder, file.path), signal)) !== file.sha256) return file;
  }
  return null;
}

/**
 * Takes a damaged file away: an engine that lacks it says so, one that reads it may not. The next fetch completes the commit.
 * @returns the failure to end with
 */
export async function removeDamaged(folder: string, file: ManifestFile): Promise<FetchFailure> {
  await rm(join(folder, file.path), { force: true });
  return new FetchFailure(
    'ChecksumMismatch',
    `${file.path} on this node's disk no longer is what was fetched: the next run fetches it again; if that repeats, check the disk under storage.modelsPath`,
  );
}
