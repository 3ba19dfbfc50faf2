/** Finished images in pods' own folders: which are linked for all engines of their hash, and which folders are left over. */
import type { PoolListing } from './words.ts';

/** As the plug-in names a finished image: its key, its layout. */
const imagePattern = /^[0-9a-f]{8,64}-[0-9a-f]{8,64}\.image$/;
/** Begins every image that this release reads. */
export const imageMagic = 'GTIMAGE1';
/** Bytes of an image before its index: magic, the index's length, its hash. */
export const imageHeadBytes = 48;
/** The index ends, and the file too, on such a boundary, bytes. */
const imagePageBytes = 2 * 1024 * 1024;
/** A pod that the API server does not list for this long, and that nobody is connected from, has ended, ms. */
export const podGoneMs = 60_000;

/** Behind an image's name: an engine's note of the inode that it found damaged. */
const damagedSuffix = '.damaged';

export const isImageName = (name: string): boolean => imagePattern.test(name);
/** The same rule as for kept measurements: it becomes a folder's name. */
export const isEngineHash = (text: string): boolean => /^[A-Za-z0-9]{1,64}$/.test(text);

/**
 * Why a file is no image, told from its first bytes and its length alone: whoever reads it checks every byte.
 * @param head imageHeadBytes of it, or less
 */
export function imageFault(head: Uint8Array, fileBytes: number): string | null {
  if (head.length < imageHeadBytes) return 'it ends in its head';
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  if (Buffer.from(head.subarray(0, 8)).toString('latin1') !== imageMagic)
    return 'it is no image of this release';
  const indexBytes = view.getBigUint64(8, true);
  if (BigInt(imageHeadBytes) + indexBytes > BigInt(fileBytes)) return 'its index is longer than the file';
  return fileBytes % imagePageBytes === 0 ? null : 'it does not end on a whole page';
}

/** An image by the pod that has it, or that speaks of it. */
export interface PodImage {
  podUid: string;
  engineHash: string;
  name: string;
}
export interface Adoption extends PodImage {
  bytes: number;
}
export interface Damaged extends PodImage {
  podUids: string[];
}
/** Of a pod, or null for one that has none or is none of ours. */
type EngineHashOf = (podUid: string) => string | null;

function filesOf(pool: PoolListing, engineHashOf: EngineHashOf) {
  return pool.pods.flatMap(({ podUid, files }) => {
    const engineHash = engineHashOf(podUid);
    if (engineHash === null || !isEngineHash(engineHash)) return [];
    return files.map((file) => ({ podUid, engineHash, ...file }));
  });
}

export function adoptions(pool: PoolListing, engineHashOf: EngineHashOf): Adoption[] {
  return filesOf(pool, engineHashOf)
    .filter(({ name, linked }) => !linked && isImageName(name))
    .map(({ podUid, engineHash, name, bytes }) => ({ podUid, engineHash, name, bytes }));
}

/** @returns images that an engine found damaged, each with the pods that have a file of its name: the one that wrote it too */
export function damaged(pool: PoolListing, engineHashOf: EngineHashOf): Damaged[] {
  return filesOf(pool, engineHashOf).flatMap(({ podUid, engineHash, name: note }) => {
    const name = note.slice(0, -damagedSuffix.length);
    if (!note.endsWith(damagedSuffix) || !isImageName(name)) return [];
    const having = pool.pods.filter(({ files }) => files.some((file) => file.name === name));
    return [{ podUid, engineHash, name, podUids: having.map((pod) => pod.podUid) }];
  });
}

export const damageNote = (image: string): string => `${image}${damagedSuffix}`;

/** Folders of pods that have ended. @param alive may be alive: listed, or connected */
export const goneFolders = (pool: PoolListing, nowMs: number, alive: (podUid: string) => boolean): string[] =>
  pool.pods
    .filter(({ podUid, seenAtMs }) => !alive(podUid) && nowMs - seenAtMs >= podGoneMs)
    .map(({ podUid }) => podUid);
