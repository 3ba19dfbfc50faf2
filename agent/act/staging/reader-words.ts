/** What a staging and its reader thread say to each other. */

export interface ReaderJob {
  /** Open in this process; the staging closes them when the reader has answered. */
  source: number;
  target: number;
  progress: number;
  bytes: number;
  chunkBytes: number;
  /** A piece of the page cache that was read is to leave it again: the file could not be read around it. */
  cached: boolean;
  /** chunkHashBytes for each chunk, as the manifest has them. */
  hashes: SharedArrayBuffer;
  /** See `newShare`. */
  shared: SharedArrayBuffer;
}

/** `hash`: the disk's bytes are not those of the manifest; `room`: no memory is left; `read`: the disk refused. */
export type ReaderFault = { kind: 'hash' | 'room' | 'read'; chunk: number; code: string; message: string };
/** Of one job first the answer: its files are used no more; then `rest`: nothing is on its way from the disk either. */
export type ReaderWord = { fault: ReaderFault | null } | 'rest';

/** What both look at: the first chunk that is not whole yet, and whether to stop. */
export const counter = { mark: 0, stop: 1 } as const;

/** @param first chunk to read; those before it are whole */
export function newShare(first: number): SharedArrayBuffer {
  const shared = new SharedArrayBuffer(Object.keys(counter).length * Int32Array.BYTES_PER_ELEMENT);
  countersOf(shared)[counter.mark] = first;
  return shared;
}

export const countersOf = (shared: SharedArrayBuffer): Int32Array => new Int32Array(shared);

/** Words of the file `progress` (docs/weights.md). */
export const progressWords = { filled: 0, state: 1 } as const;
export const progressBytes = 16;
export const progressStates = { 'under way': 0, whole: 1, failed: 2 } as const;
