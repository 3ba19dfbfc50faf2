/** What a staging and its reader threads say to each other. */

export interface ReaderJob {
  /** Open in this process; the staging closes them when every reader has answered. */
  source: number;
  target: number;
  progress: number;
  bytes: number;
  chunkBytes: number;
  /** A piece of the page cache that was read is to leave it again: the file could not be read around it. */
  cached: boolean;
  /** chunkHashBytes for each chunk, as the manifest has them. */
  hashes: SharedArrayBuffer;
  /** See `shareOf`. */
  shared: SharedArrayBuffer;
}

/** `hash`: the disk's bytes are not those of the manifest; `room`: no memory is left; `read`: the disk refused. */
export type ReaderFault = { kind: 'hash' | 'room' | 'read'; chunk: number; code: string; message: string };
export type ReaderAnswer = { fault: ReaderFault | null };

/** What readers share: the next chunk to take, the first not whole yet, whether to stop, and which are whole. */
export interface Share {
  counters: Int32Array;
  whole: Uint8Array;
}
export const counter = { next: 0, mark: 1, stop: 2 } as const;
const counterBytes = 3 * Int32Array.BYTES_PER_ELEMENT;

/** @param first chunk to read; those before it are whole */
export function newShare(chunks: number, first: number): SharedArrayBuffer {
  const shared = new SharedArrayBuffer(counterBytes + chunks);
  const { counters, whole } = shareOf(shared);
  counters[counter.next] = first;
  counters[counter.mark] = first;
  whole.fill(1, 0, first);
  return shared;
}

export const shareOf = (shared: SharedArrayBuffer): Share => ({
  counters: new Int32Array(shared, 0, 3),
  whole: new Uint8Array(shared, counterBytes),
});

/** Words of the file `progress` (docs/weights.md). */
export const progressWords = { filled: 0, state: 1 } as const;
export const progressBytes = 16;
export const progressStates = { 'under way': 0, whole: 1, failed: 2 } as const;
