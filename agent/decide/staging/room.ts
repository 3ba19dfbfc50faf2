/**
 * The ledger of host memory: what the pool holds, what it may hold, and what is left for weights to be staged. What is
 * measured counts as it is; what is promised (the image that a booting engine is about to write) counts as if it were there.
 */
import type { BootPhase, Form, HostMemory, ImageEntry, PoolListing, StagingPod } from './words.ts';

/** Of the node's memory, when the chart sets no bound: as much as a tmpfs has by default (tmpfs(5)). */
export const defaultBoundShare = 1 / 2;
/** Left to everything else on the node: a sixteenth of its memory, bytes at least. */
export const headRoomShare = 1 / 16;
export const headRoomBytesMin = 1024 ** 3;

export interface Room {
  boundBytes: number;
  /** Staged, images, and what pods are writing. */
  usedBytes: number;
  /** Images that booting engines have not written yet. */
  promisedBytes: number;
  /** For more weights; below zero: the node or the pool has too little already. */
  freeBytes: number;
  /** What sets the limit. */
  limit: 'pool' | 'host' | 'tmpfs' | 'agent';
}

export const headRoomBytes = (totalBytes: number): number =>
  Math.max(headRoomBytesMin, totalBytes * headRoomShare);

/** Bytes in one pod's folder that are not in images/ as well. */
const ownBytes = (pool: PoolListing, podUid: string): number =>
  pool.pods
    .filter((pod) => pod.podUid === podUid)
    .flatMap(({ files }) => files)
    .reduce((sum, file) => sum + (file.linked ? 0 : file.bytes), 0);

export function usedBytes(pool: PoolListing): { staged: number; image: number; writing: number } {
  return {
    staged: pool.staged.reduce((sum, { filledBytes }) => sum + filledBytes, 0),
    image: pool.images.reduce((sum, { bytes }) => sum + bytes, 0),
    writing: pool.pods.reduce((sum, { podUid }) => sum + ownBytes(pool, podUid), 0),
  };
}

export const isImaged = (pod: StagingPod, images: readonly ImageEntry[]): boolean =>
  images.some(({ engineHash, files }) => engineHash === pod.engineHash && files >= pod.ranks);

/** Of an image as large as its weights: what is not there yet. */
export const lackingBytes = (pod: StagingPod, pool: PoolListing, formBytes: number): number => {
  const ofOthers = pool.images.find(({ engineHash }) => engineHash === pod.engineHash)?.bytes ?? 0;
  return Math.max(0, formBytes - ofOthers - ownBytes(pool, pod.podUid));
};

/** One image, as large as its weights, for each engine of these phases that has none: of two alike that boot at once both write. */
export function promisedBytes(
  pods: readonly StagingPod[],
  pool: PoolListing,
  forms: ReadonlyMap<string, Form>,
  phases: readonly BootPhase[] = ['boots'],
): number {
  return pods.reduce((sum, pod) => {
    const form = forms.get(pod.weights);
    if (!phases.includes(pod.phase) || isImaged(pod, pool.images) || !form || !('bytes' in form)) return sum;
    return sum + lackingBytes(pod, pool, form.bytes);
  }, 0);
}

export function roomOf(
  pool: PoolListing,
  host: HostMemory,
  given: { boundBytes: number | null; promisedBytes: number },
): Room {
  const { staged, image, writing } = usedBytes(pool);
  const used = staged + image + writing;
  const boundBytes = given.boundBytes ?? Math.floor(host.totalBytes * defaultBoundShare);
  const limits: [Room['limit'], number][] = [
    ['pool', boundBytes - used - given.promisedBytes],
    ['host', host.availableBytes - headRoomBytes(host.totalBytes) - given.promisedBytes],
  ];
  if (pool.freeBytes !== null) limits.push(['tmpfs', pool.freeBytes - given.promisedBytes]);
  // Images are written by the pods themselves, so only staged bytes count here.
  if (host.ownBytes !== null) limits.push(['agent', host.ownBytes]);
  const [limit, freeBytes] = limits.reduce((least, each) => (each[1] < least[1] ? each : least));
  return { boundBytes, usedBytes: used, promisedBytes: given.promisedBytes, freeBytes, limit };
}
