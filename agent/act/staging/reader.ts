/**
 * A reader thread: takes chunk after chunk, reads it from the disk into a buffer of its own, checks its hash and writes it
 * into the pool. Several of them are the depth of the reads. Through a buffer, since that costs less than to read into the
 * pool's pages themselves: those would be zeroed and mapped one by one first (measured: 0.6 s of CPU for each GB against 0.85).
 */
import { readSync, writeSync } from 'node:fs';
import { parentPort } from 'node:worker_threads';
import { xxh64 } from '@node-rs/xxhash';
import { hugeBuffer, leavePageCache, type Mapping, sharedWords } from './libc.ts';
import {
  counter,
  progressWords,
  type ReaderAnswer,
  type ReaderFault,
  type ReaderJob,
  shareOf,
} from './reader-words.ts';

/** A chunk whose hash is wrong is read once more: a disk's wrong answer may not be its last. */
const readsMax = 2;

let buffer: Mapping<Buffer> | undefined;

function bufferOf(bytes: number): Buffer {
  if (buffer && buffer.memory.length < bytes) {
    buffer.release();
    buffer = undefined;
  }
  buffer ??= hugeBuffer(bytes);
  return buffer.memory.subarray(0, bytes);
}

/** @throws what the disk says, or Error when the file ends before it */
function fill(job: ReaderJob, into: Buffer, offset: number): void {
  for (let have = 0; have < into.length; ) {
    const bytes = readSync(job.source, into, have, into.length - have, offset + have);
    if (bytes === 0) throw new Error(`the file ends at ${offset + have}`);
    have += bytes;
  }
  if (job.cached) leavePageCache(job.source, offset, into.length);
}

function put(job: ReaderJob, from: Buffer, offset: number): void {
  for (let done = 0; done < from.length; )
    done += writeSync(job.target, from, done, from.length - done, offset + done);
}

const fault = (kind: ReaderFault['kind'], chunk: number, error: unknown): ReaderFault => ({
  kind,
  chunk,
  code: (error as NodeJS.ErrnoException).code ?? '',
  message: error instanceof Error ? error.message : String(error),
});

function stageChunk(job: ReaderJob, chunk: number): ReaderFault | null {
  const offset = chunk * job.chunkBytes;
  const into = bufferOf(job.chunkBytes).subarray(0, Math.min(job.chunkBytes, job.bytes - offset));
  const wanted = new BigUint64Array(job.hashes)[chunk];
  let found: bigint | undefined;
  for (let reads = 0; reads < readsMax && found !== wanted; reads++) {
    try {
      fill(job, into, offset);
    } catch (error) {
      return fault('read', chunk, error);
    }
    found = xxh64(into);
  }
  if (found !== wanted) return fault('hash', chunk, 'its bytes do not have the hash of the manifest');
  try {
    put(job, into, offset);
  } catch (error) {
    return fault('room', chunk, error);
  }
  return null;
}

/** Moves the watermark over all chunks that are whole in a row. Whoever comes to it does it; it never falls. */
function advance(job: ReaderJob, progress: BigUint64Array): void {
  const { counters, whole } = shareOf(job.shared);
  for (;;) {
    const mark = Atomics.load(counters, counter.mark);
    if (mark >= whole.length || Atomics.load(whole, mark) === 0) return;
    if (Atomics.compareExchange(counters, counter.mark, mark, mark + 1) !== mark) continue;
    const filled = BigInt(Math.min((mark + 1) * job.chunkBytes, job.bytes));
    for (let seen = Atomics.load(progress, progressWords.filled); seen < filled; ) {
      const before = Atomics.compareExchange(progress, progressWords.filled, seen, filled);
      if (before === seen) break;
      seen = before;
    }
  }
}

function work(job: ReaderJob): ReaderFault | null {
  const { counters, whole } = shareOf(job.shared);
  const progress = sharedWords(job.progress, 2);
  try {
    while (Atomics.load(counters, counter.stop) === 0) {
      const chunk = Atomics.add(counters, counter.next, 1);
      if (chunk >= whole.length) return null;
      const wrong = stageChunk(job, chunk);
      if (wrong) {
        Atomics.store(counters, counter.stop, 1);
        return wrong;
      }
      Atomics.store(whole, chunk, 1);
      advance(job, progress.memory);
    }
    return null;
  } finally {
    progress.release();
  }
}

parentPort!.on('message', (job: ReaderJob | 'end') => {
  if (job === 'end') {
    buffer?.release();
    buffer = undefined;
    parentPort!.close();
    return;
  }
  let answer: ReaderAnswer;
  try {
    answer = { fault: work(job) };
  } catch (error) {
    Atomics.store(shareOf(job.shared).counters, counter.stop, 1);
    answer = { fault: fault('read', -1, error) };
  }
  parentPort!.postMessage(answer);
});
