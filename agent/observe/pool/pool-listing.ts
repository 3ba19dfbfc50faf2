/**
 * What lies in the pool, read from its folders alone: an agent keeps no list of its own. On a tmpfs this waits for nothing.
 */
import {
  closeSync,
  constants,
  lstatSync,
  opendirSync,
  openSync,
  readSync,
  type Stats,
  statfsSync,
} from 'node:fs';
import { join } from 'node:path';
import { weightsFiles } from '#proto/weights.ts';
import { isEngineHash, isImageName } from '../../decide/staging/images.ts';
import type {
  ImageEntry,
  PodFile,
  PodFolder,
  PoolListing,
  StagedEntry,
  StagedState,
} from '../../decide/staging/words.ts';
import { isPodUid } from '../pod-directories.ts';

/** Folders of each kind that are looked at; a node runs at most some hundred pods. */
const foldersMax = 1_024;
/** Files in one folder that are looked at: an image for each GPU, and what is on its way. */
const filesMax = 64;
/** The file's blocks are of this size, whatever the file system's are (stat(2)). */
const blockBytes = 512;
const progressBytes = 16;
const states: readonly StagedState[] = ['under way', 'whole', 'failed'];
const keyPattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,190}@[0-9a-f]{40}$/;

/** Not all names first: a pod may fill its folder with millions, and each look would hold the loop for seconds. */
function namesIn(path: string, most: number): string[] {
  const names: string[] = [];
  try {
    const folder = opendirSync(path, { bufferSize: most });
    try {
      for (let entry = folder.readSync(); entry && names.length < most; entry = folder.readSync())
        names.push(entry.name);
    } finally {
      folder.closeSync();
    }
  } catch {
    // It went meanwhile: what was read of it will be missed as well.
  }
  return names;
}

const statOf = (path: string): Stats | null => lstatSync(path, { throwIfNoEntry: false }) ?? null;

function progressOf(path: string): { filledBytes: number; state: StagedState } | null {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  } catch {
    return null;
  }
  try {
    const words = new BigUint64Array(progressBytes / 8);
    if (readSync(fd, words, 0, progressBytes, 0) < progressBytes) return null;
    return { filledBytes: Number(words[0]), state: states[Number(words[1])] ?? 'failed' };
  } finally {
    closeSync(fd);
  }
}

function stagedEntry(root: string, key: string, usedAt: (found: Stats) => number): StagedEntry | null {
  const folder = join(root, key);
  const found = statOf(folder);
  if (!found?.isDirectory()) return null;
  const weights = statOf(join(folder, weightsFiles.weights));
  const progress = progressOf(join(folder, 'progress'));
  const usedAtMs = usedAt(found);
  // Not as we make it: no loader takes it, and it is removed as a failed one is.
  if (!weights || !progress) return { key, bytes: 0, filledBytes: 0, state: 'failed', usedAtMs };
  return { key, bytes: weights.size, usedAtMs, ...progress };
}

function imageEntry(
  folder: string,
  engineHash: string,
  { inodes, usedAt }: { inodes: Set<number>; usedAt: (found: Stats) => number },
): ImageEntry | null {
  const found = statOf(folder);
  if (!found?.isDirectory()) return null;
  let files = 0;
  let bytes = 0;
  for (const name of namesIn(folder, filesMax)) {
    const file = statOf(join(folder, name));
    if (!file?.isFile()) continue;
    if (isImageName(name)) files += 1;
    bytes += file.blocks * blockBytes;
    inodes.add(file.ino);
  }
  return { engineHash, files, bytes, usedAtMs: usedAt(found) };
}

function podFiles(folder: string, inodes: ReadonlySet<number>): PodFile[] {
  return namesIn(folder, filesMax).flatMap((name): PodFile[] => {
    const file = statOf(join(folder, name));
    if (!file?.isFile()) return [];
    return [{ name, bytes: file.blocks * blockBytes, linked: inodes.has(file.ino) }];
  });
}

function freeBytes(root: string): number | null {
  try {
    const { bavail, bsize } = statfsSync(root);
    return bavail * bsize;
  } catch {
    return null;
  }
}

/** @returns what lists the pool; it remembers when it first saw a pod's folder, and that alone */
export function createPoolListing(root: string, nowMs: () => number): () => PoolListing {
  const seen = new Map<string, number>();
  return () => {
    const now = nowMs();
    const wallClockMs = Date.now();
    const usedAt = ({ mtimeMs }: Stats): number => now - Math.max(0, wallClockMs - mtimeMs);
    const inodes = new Set<number>();
    const staged = namesIn(join(root, 'staged'), foldersMax)
      .filter((name) => keyPattern.test(name))
      .flatMap((key) => stagedEntry(join(root, 'staged'), key, usedAt) ?? []);
    const images = namesIn(join(root, 'images'), foldersMax)
      .filter(isEngineHash)
      .flatMap((hash) => imageEntry(join(root, 'images', hash), hash, { inodes, usedAt }) ?? []);
    const uids = namesIn(join(root, 'pods'), foldersMax).filter(isPodUid);
    for (const podUid of seen.keys()) if (!uids.includes(podUid)) seen.delete(podUid);
    const pods = uids.map((podUid): PodFolder => {
      const seenAtMs = seen.get(podUid) ?? now;
      seen.set(podUid, seenAtMs);
      return { podUid, files: podFiles(join(root, 'pods', podUid), inodes), seenAtMs };
    });
    return { staged, images, pods, freeBytes: freeBytes(root) };
  };
}
