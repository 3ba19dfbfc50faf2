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

/** Left free for others on the disk, bytes. */
export const reserveBytes = 64 * 1024 * 1024;

/** @throws FetchFailure NoSpace with what is needed and what is free */
export function requireSpace(neededBytes: number, freeBytes: number, modelsDir: string): void {
  if (neededBytes === 0 || neededBytes + reserveBytes <= freeBytes) return;
  throw new FetchFailure(
    'NoSpace',
    `${formatGiB(neededBytes + reserveBytes)} are needed under ${modelsDir} on this node and ${formatGiB(freeBytes)} are free: make room (docs/weights.md, Cleaning up), or set storage.modelsPath to a larger disk`,
  );
}
