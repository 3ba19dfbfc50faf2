/**
 * The reader thread: has several chunks on their way from the disk, takes them in order, checks each one's hash and writes it into
 * the pool. One thread, so that a staging takes one CPU at most; and two that write to one file of a tmpfs spend their time
 * waiting for each other, on the CPU (measured: 17 % of it). Through a buffer, since that costs less than to read into the
 * pool's pages themselves: those would be zeroed and mapped one by one first (measured: 0.5 to 0.6 s of CPU for each GB against 0.85).
 */
import { readSync, writeSync } from 'node:fs';
import { parentPort } from 'node:worker_threads';
import { xxh64 } from '@node-rs/xxhash';
import { asynchronousReads, type DiskReads, plainReads } from './disk-reads.ts';
import { hugeBuffer, leavePageCache, type Mapping, sharedWords } from './libc.ts';
import {
  counter,
  countersOf,
  progressWords,
  type ReaderFault,
  type ReaderJob,
  type ReaderWord,
} from './reader-words.ts';

/** Chunks in flight at once: what disks are measured with. */
const depth = 4;
/** A chunk whose hash is wrong is read once more: a disk's wrong answer may not be its last. */
const readsMax = 2;

/** Those of the last job. */
let chunks: Chunks | undefined;
/** Kept from job to job. */
let buffer: Mapping<Buffer> | undefined;
let reads: DiskReads | undefined;

function bufferOf(bytes: number): Mapping<Buffer> {
  if (buffer && buffer.memory.length < bytes) {
    buffer.release();
    buffer = undefined;
  }
  buffer ??= hugeBuffer(bytes);
  return buffer;
}

function readsOf(): DiskReads {
  try {
    reads ??= asynchronousReads(depth);
  } catch {
    // Refused (seccomp), or all that the node has are taken (fs.aio-max-nr).
    reads = plainReads();
  }
  return reads;
}

const faultOf = (kind: ReaderFault['kind'], chunk: number, error: unknown): ReaderFault => ({
  kind,
  chunk,
  code: (error as NodeJS.ErrnoException).code ?? '',
  message: error instanceof Error ? error.message : String(error),
});

/** One job's chunks on their way: each in the buffer's part that is its number modulo the depth. */
class Chunks {
  readonly count: number;
  private readonly job: ReaderJob;
  private readonly buffer: Mapping<Buffer>;
  private readonly reads = readsOf();
  private readonly ended = new Map<number, number | Error>();
  private begun: number;
  private inFlight = 0;

  constructor(job: ReaderJob, first: number) {
    this.job = job;
    this.count = Math.ceil(job.bytes / job.chunkBytes);
    this.buffer = bufferOf(depth * job.chunkBytes);
    this.begun = first;
  }

  memoryOf(chunk: number): Buffer {
    const { bytes, chunkBytes } = this.job;
    const start = (chunk % depth) * chunkBytes;
    return this.buffer.memory.subarray(start, start + Math.min(chunkBytes, bytes - chunk * chunkBytes));
  }

  /** Begins to read all up to there. @throws Error as the disk says */
  begin(end: number): void {
    for (; this.begun < Math.min(end, this.count); this.begun++) {
      const place = this.begun % depth;
      this.reads.begin(place, {
        file: this.job.source,
        offset: this.begun * this.job.chunkBytes,
        into: this.memoryOf(this.begun),
        address: this.buffer.address + BigInt(place * this.job.chunkBytes),
      });
      this.inFlight += 1;
    }
  }

  private wait(): void {
    const ended = this.reads.ended();
    if (!ended) return;
    this.inFlight -= 1;
    this.ended.set(ended.place, 'error' in ended ? ended.error : ended.bytes);
  }

  /** @returns false when the job is to stop before the chunk is there. @throws what the disk says, or Error when the file ends before it */
  take(chunk: number): boolean {
    const counters = countersOf(this.job.shared);
    const place = chunk % depth;
    while (!this.ended.has(place)) {
      if (Atomics.load(counters, counter.stop) !== 0) return false;
      this.wait();
    }
    const result = this.ended.get(place)!;
    this.ended.delete(place);
    if (typeof result !== 'number') throw result;
    this.fill(chunk, result);
    return true;
  }

  /** The rest of a chunk of which some bytes are there. @throws as `take` */
  fill(chunk: number, have: number): void {
    const into = this.memoryOf(chunk);
    const offset = chunk * this.job.chunkBytes;
    for (let all = have; all < into.length; ) {
      const bytes = readSync(this.job.source, into, all, into.length - all, offset + all);
      if (bytes === 0) throw new Error(`the file ends at ${offset + all}`);
      all += bytes;
    }
    if (this.job.cached) leavePageCache(this.job.source, offset, into.length);
  }

  /** Waits for what is on its way: the kernel writes into the buffer until then. */
  settle(): void {
    while (this.inFlight > 0) this.wait();
  }
}

function put(job: ReaderJob, from: Buffer, offset: number): void {
  for (let done = 0; done < from.length; )
    done += writeSync(job.target, from, done, from.length - done, offset + done);
}

/** @returns 'stopped' when it was told to before the chunk was there */
function stageChunk(job: ReaderJob, chunks: Chunks, chunk: number): ReaderFault | 'stopped' | null {
  const wanted = new BigUint64Array(job.hashes)[chunk];
  const memory = chunks.memoryOf(chunk);
  try {
    chunks.begin(chunk + depth);
    if (!chunks.take(chunk)) return 'stopped';
    for (let reads = 1; xxh64(memory) !== wanted; reads++) {
      if (reads === readsMax) return faultOf('hash', chunk, 'its bytes do not have the hash of the manifest');
      chunks.fill(chunk, 0);
    }
  } catch (error) {
    return faultOf('read', chunk, error);
  }
  // What came after all from a disk that hung was given up.
  if (Atomics.load(countersOf(job.shared), counter.stop) !== 0) return 'stopped';
  try {
    put(job, memory, chunk * job.chunkBytes);
  } catch (error) {
    return faultOf('room', chunk, error);
  }
  return null;
}

function work(job: ReaderJob): ReaderFault | null {
  const counters = countersOf(job.shared);
  const first = Atomics.load(counters, counter.mark);
  const progress = sharedWords(job.progress, 2);
  try {
    chunks = new Chunks(job, first);
    for (let chunk = first; chunk < chunks.count && Atomics.load(counters, counter.stop) === 0; chunk++) {
      const wrong = stageChunk(job, chunks, chunk);
      if (wrong) return wrong === 'stopped' ? null : wrong;
      Atomics.store(counters, counter.mark, chunk + 1);
      const filled = BigInt(Math.min((chunk + 1) * job.chunkBytes, job.bytes));
      // It never falls: an earlier agent may have stopped within a chunk of another length.
      if (Atomics.load(progress.memory, progressWords.filled) < filled)
        Atomics.store(progress.memory, progressWords.filled, filled);
    }
    return null;
  } finally {
    progress.release();
  }
}

function settle(): void {
  chunks?.settle();
  chunks = undefined;
}

parentPort!.on('message', (job: ReaderJob | 'end') => {
  if (job === 'end') {
    reads?.close();
    buffer?.release();
    reads = undefined;
    buffer = undefined;
    parentPort!.close();
    return;
  }
  let fault: ReaderFault | null;
  try {
    fault = work(job);
  } catch (error) {
    fault = faultOf('read', -1, error);
  }
  const say = (word: ReaderWord): void => parentPort!.postMessage(word);
  say({ fault });
  settle();
  say('rest');
});
