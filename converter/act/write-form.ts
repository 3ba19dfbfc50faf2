/**
 * Writes the file `weights` chunk by chunk: while one is written the next is read, so two buffers are all the memory it
 * takes. Cut off at any moment, the next run goes on at the first chunk whose bytes do not have the hash noted for it.
 */
import { type FileHandle, mkdir, open } from 'node:fs/promises';
import { join } from 'node:path';
import { xxh64 } from '@node-rs/xxhash';
import { chunkHashBytes, weightsChunkBytes, weightsFiles } from '#proto/weights.ts';
import { fingerprintBytes, journalled } from '../decide/journal.ts';
import { type Chunk, chunks, chunksOf, type Layout } from '../decide/layout.ts';
import { brokenFile } from '../decide/safetensors.ts';
import { interruption } from '../http.ts';

/** Written between two syncs, bytes: the disk is kept busy and the last sync is short. */
const syncEveryBytes = 256 * 1024 * 1024;

export interface WriteOptions {
  /** The published upstream commit. */
  source: string;
  /** The folder on its way; made when it is not there. */
  folder: string;
  /** Where the hashes are noted meanwhile. */
  journal: string;
  layout: Layout;
  fingerprint: Uint8Array;
  signal: AbortSignal;
  /** Bytes that an earlier run wrote and this one keeps. */
  onKept: (bytes: number) => void;
  onWritten: (bytes: number) => void;
}

interface Files {
  sources: Map<string, FileHandle>;
  weights: FileHandle;
  journal: FileHandle;
}

const openOrMake = (path: string): Promise<FileHandle> =>
  open(path, 'r+').catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
    return open(path, 'wx+', 0o644);
  });

function hashInto(hashes: Buffer, index: number, bytes: Uint8Array): void {
  hashes.writeBigUInt64LE(xxh64(bytes), index * chunkHashBytes);
}

/** Fills the buffer with all of a piece of a file. @throws when the file ends before it */
async function readFully(handle: FileHandle, buffer: Buffer, position: number, path: string): Promise<void> {
  for (let have = 0; have < buffer.length; ) {
    const { bytesRead } = await handle.read(buffer, have, buffer.length - have, position + have);
    if (bytesRead === 0) throw brokenFile(path, 'it ended while it was read');
    have += bytesRead;
  }
}

async function writeFully(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let have = 0; have < bytes.length; ) {
    have += (await handle.write(bytes, have, bytes.length - have, position + have)).bytesWritten;
  }
}

/** The chunk's bytes: each piece where it belongs, zeros between. */
async function fill(buffer: Buffer, chunk: Chunk, files: Files): Promise<void> {
  let end = 0;
  for (const { path, position, at, bytes } of chunk.pieces) {
    buffer.fill(0, end, at);
    await readFully(files.sources.get(path)!, buffer.subarray(at, at + bytes), position, path);
    end = at + bytes;
  }
  buffer.fill(0, end, chunk.bytes);
}

/** Chunks of an earlier run that still have their hashes; these are put into `hashes`. */
async function countKept(files: Files, options: WriteOptions, hashes: Buffer): Promise<number> {
  const { layout, fingerprint, signal, onKept } = options;
  const journal = Buffer.alloc(fingerprintBytes + hashes.length);
  const { bytesRead } = await files.journal.read(journal, 0, journal.length, 0);
  const noted = journalled(journal.subarray(0, bytesRead), fingerprint, chunksOf(layout.bytes));
  const buffer = Buffer.allocUnsafe(weightsChunkBytes);
  let kept = 0;
  for (; kept < noted.length / chunkHashBytes && !signal.aborted; kept++) {
    const position = kept * weightsChunkBytes;
    const bytes = Math.min(weightsChunkBytes, layout.bytes - position);
    const { bytesRead: found } = await files.weights.read(buffer, 0, bytes, position);
    if (found < bytes) break;
    hashInto(hashes, kept, buffer.subarray(0, bytes));
    const place = [kept * chunkHashBytes, (kept + 1) * chunkHashBytes] as const;
    if (Buffer.compare(hashes.subarray(...place), noted.subarray(...place)) !== 0) break;
    onKept(bytes);
  }
  if (kept === 0) {
    await files.journal.truncate(0);
    await writeFully(files.journal, fingerprint, 0);
  }
  return kept;
}

/** Writes a chunk, then notes its hash. */
async function writeChunk(files: Files, chunk: Chunk, buffer: Buffer, hashes: Buffer): Promise<void> {
  await writeFully(files.weights, buffer.subarray(0, chunk.bytes), chunk.index * weightsChunkBytes);
  const hash = hashes.subarray(chunk.index * chunkHashBytes, (chunk.index + 1) * chunkHashBytes);
  await writeFully(files.journal, hash, fingerprintBytes + chunk.index * chunkHashBytes);
}

async function writeAll(files: Files, options: WriteOptions): Promise<Buffer> {
  const { layout, signal, onWritten } = options;
  const hashes = Buffer.alloc(chunksOf(layout.bytes) * chunkHashBytes);
  const first = await countKept(files, options, hashes);
  const buffers = [Buffer.allocUnsafe(weightsChunkBytes), Buffer.allocUnsafe(weightsChunkBytes)];
  let writing: Promise<void> = Promise.resolve();
  let syncing: Promise<void> = Promise.resolve();
  let unsynced = 0;
  try {
    for (const chunk of chunks(layout, first)) {
      if (signal.aborted) throw interruption(signal);
      const buffer = buffers[chunk.index % 2]!;
      // The write before the last has ended: its buffer is this one.
      await fill(buffer, chunk, files);
      hashInto(hashes, chunk.index, buffer.subarray(0, chunk.bytes));
      await writing;
      writing = writeChunk(files, chunk, buffer, hashes).then(() => onWritten(chunk.bytes));
      writing.catch(() => {}); // awaited in the next round or below; until then it must not count as unhandled
      unsynced += chunk.bytes;
      if (unsynced < syncEveryBytes) continue;
      await syncing;
      unsynced = 0;
      syncing = files.weights.datasync();
      syncing.catch(() => {});
    }
  } finally {
    // Nobody may write any more when the files are closed.
    await Promise.allSettled([writing, syncing]);
  }
  await Promise.all([writing, syncing]);
  if (signal.aborted) throw interruption(signal);
  await files.weights.truncate(layout.bytes);
  await files.weights.sync();
  return hashes;
}

/**
 * Leaves `<folder>/weights` whole and synced.
 * @returns the hash of each chunk, as the manifest has them
 * @throws FetchFailure, or the disk's error; what was written stays for the next run
 */
export async function writeForm(options: WriteOptions): Promise<Buffer> {
  const { folder, source, layout } = options;
  await mkdir(folder, { recursive: true });
  const opened: FileHandle[] = [];
  const keep = async (opening: Promise<FileHandle>): Promise<FileHandle> => {
    const handle = await opening;
    opened.push(handle);
    return handle;
  };
  try {
    const sources = new Map<string, FileHandle>();
    for (const path of new Set(layout.tensors.map(({ tensor }) => tensor.path)))
      sources.set(path, await keep(open(join(source, path), 'r')));
    const weights = await keep(openOrMake(join(folder, weightsFiles.weights)));
    const journal = await keep(openOrMake(options.journal));
    return await writeAll({ sources, weights, journal }, options);
  } finally {
    for (const handle of opened) await handle.close();
  }
}
