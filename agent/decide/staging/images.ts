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

export interface Adoption {
  podUid: string;
  engineHash: string;
  name: string;
  bytes: number;
}

/** @param engineHashOf by pod; null for a pod that has none or is none of ours */
export function adoptions(pool: PoolListing, engineHashOf: (podUid: string) => string | null): Adoption[] {
  return pool.pods.flatMap(({ podUid, files }) => {
    const engineHash = engineHashOf(podUid);
    if (engineHash === null || !isEngineHash(engineHash)) return [];
    return files
      .filter(({ name, linked }) => !linked && isImageName(name))
      .map(({ name, bytes }) => ({ podUid, engineHash, name, bytes }));
  });
}

/** Folders of pods that have ended. @param alive may be alive: listed, or connected */
export const goneFolders = (pool: PoolListing, nowMs: number, alive: (podUid: string) => boolean): string[] =>
  pool.pods
    .filter(({ podUid, seenAtMs }) => !alive(podUid) && nowMs - seenAtMs >= podGoneMs)
    .map(({ podUid }) => podUid);
