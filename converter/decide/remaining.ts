/** What is left to fetch, from what is wanted and what lies on the disk. */
import { formatGiB } from '#platform/quantity.ts';
import { FetchFailure } from './failures.ts';
import type { WantedFile } from './files.ts';

/** What the incoming folder holds of one file. */
export interface Have {
  /** Checked and renamed by an earlier run; its size, null when it is not there. */
  finishedBytes: number | null;
  /** Of the partial file; 0 when there is none. */
  partBytes: number;
}

export interface Remaining {
  /** Largest first, so that the last worker does not end alone with the largest. */
  files: WantedFile[];
  /** Still to be downloaded. */
  bytes: number;
  /** There already, partial files included. */
  haveBytes: number;
  /** Of the whole revision. */
  totalBytes: number;
}

/** A partial file longer than the whole is worth nothing. */
const usablePart = (file: WantedFile, have: Have): number =>
  have.partBytes <= file.bytes ? have.partBytes : 0;

export function remaining(wanted: readonly WantedFile[], have: ReadonlyMap<string, Have>): Remaining {
  const none: Have = { finishedBytes: null, partBytes: 0 };
  const files = wanted.filter((file) => have.get(file.path)?.finishedBytes !== file.bytes);
  const totalBytes = wanted.reduce((sum, { bytes }) => sum + bytes, 0);
  const bytes = files.reduce(
    (sum, file) => sum + file.bytes - usablePart(file, have.get(file.path) ?? none),
    0,
  );
  return {
    files: files.sort((a, b) => b.bytes - a.bytes || (a.path < b.path ? -1 : 1)),
    bytes,
    haveBytes: totalBytes - bytes,
    totalBytes,
  };
}

/** What the disk under the models path has. */
export interface Room {
  freeBytes: number;
  totalBytes: number;
  /** The kubelet keeps its own files, logs and containers' writes there too. */
  isNodeDisk: boolean;
}

/** Left free for others on a disk, bytes. */
export const ownReserveBytes = 64 * 1024 * 1024;

function reserveOf({ totalBytes, isNodeDisk }: Room, keepFreePercent: number): number {
  return isNodeDisk
    ? Math.max(ownReserveBytes, Math.ceil((totalBytes * keepFreePercent) / 100))
    : ownReserveBytes;
}

/** @throws FetchFailure NoSpace with what is needed, what is free, and what helps */
export function requireSpace(
  needs: { downloadBytes: number; formBytes: number },
  room: Room,
  { modelsDir, keepFreePercent }: { modelsDir: string; keepFreePercent: number },
): void {
  const { downloadBytes, formBytes } = needs;
  const reserveBytes = reserveOf(room, keepFreePercent);
  const neededBytes = downloadBytes + formBytes + reserveBytes;
  if (downloadBytes + formBytes === 0 || neededBytes <= room.freeBytes) return;
  const parts = [
    ...(downloadBytes > 0 ? [`${formatGiB(downloadBytes)} to download`] : []),
    ...(formBytes > 0 ? [`${formatGiB(formBytes)} for the gthread form`] : []),
    `${formatGiB(reserveBytes)} that stay free${room.isNodeDisk ? `, storage.keepFreePercent ${keepFreePercent}, or the kubelet evicts pods` : ''}`,
  ];
  const remedies = [
    'make room (docs/weights.md, Cleaning up)',
    ...(formBytes > 0 ? ['set spec.loadFormat: auto, which needs no second copy'] : []),
    'set storage.modelsPath to a larger disk',
  ];
  throw new FetchFailure(
    'NoSpace',
    `${formatGiB(neededBytes)} are needed under ${modelsDir} on this node (${parts.join(', ')}) and ${formatGiB(room.freeBytes)} are free: ${remedies.join(', or ')}`,
  );
}
