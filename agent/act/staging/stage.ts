/**
 * One staging: the file `weights` of a gthread form into its folder of the pool, from the front, around the page cache, from
 * where an earlier one stopped. `progress` tells the loader how far it is.
 */
import { createHash } from 'node:crypto';
import {
  close as closeFile,
  closeSync,
  constants,
  openSync,
  readFileSync,
  readSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type WeightsHead, weightsFiles } from '#proto/weights.ts';
import { removeBytes } from './pool-folder.ts';
import {
  counter,
  countersOf,
  newShare,
  progressBytes,
  progressStates,
  progressWords,
  type ReaderFault,
  type ReaderJob,
} from './reader-words.ts';
import type { Reader } from './start-reader.ts';

export type StagingOutcome =
  /** `readBytes` of them now, the rest was there; `cached`: why the page cache could not be left alone, null: it was. */
  | { type: 'whole'; bytes: number; readBytes: number; cached: string | null }
  | { type: 'stopped'; filledBytes: number; readBytes: number }
  | { type: 'failed'; kind: ReaderFault['kind']; message: string };

export interface StagingRun {
  /** Ends after the chunks at hand; what was read stays. */
  stop(): void;
  /** Never rejects. */
  ended: Promise<StagingOutcome>;
}

export interface StagingParts {
  /** The form on disk. */
  formFolder: string;
  /** In the pool, made before. */
  stagedFolder: string;
  manifest: WeightsHead;
  reader: Reader;
}

/** The errors with which file systems refuse O_DIRECT, at the open or at the first read (open(2)). */
const refusals = ['EINVAL', 'ENOTSUP', 'EOPNOTSUPP'];
const codeOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? '';

/** In the staged folder: sha256 of the manifest's chunk hashes, hex (docs/weights.md). */
export const formHashFile = 'form.sha256';

/** Bytes that are there and checked, by the file `progress`. */
function filledBytes(progress: number): number {
  const words = new BigUint64Array(progressBytes / 8);
  const bytes = readSync(progress, words, 0, progressBytes, 0);
  return bytes === progressBytes ? Number(words[progressWords.filled]) : 0;
}

/**
 * Of which form these bytes are: loaders compare it with the manifest that they read by. The same commit, converted again by
 * a later release, may lie otherwise, and neither length nor name would tell.
 */
const formHash = ({ chunkHashes }: WeightsHead): string =>
  createHash('sha256').update(chunkHashes).digest('hex');

/** Notes it before the first byte. @throws Error when there are bytes of another form */
function noteForm(folder: string, manifest: WeightsHead, filled: number): void {
  const path = join(folder, formHashFile);
  const hash = formHash(manifest);
  if (filled === 0) writeFileSync(path, hash, { mode: 0o644 });
  else if (readFileSync(path, 'latin1') !== hash)
    throw new Error('the form on disk is another one than what was staged of it: it is staged anew');
}

function tell(progress: number, state: keyof typeof progressStates): void {
  const word = new BigUint64Array([BigInt(progressStates[state])]);
  writeSync(progress, word, 0, 8, progressWords.state * 8);
}

/**
 * A loader that waits goes on to the disk, from this very call.
 * @returns when the memory is free, unless somebody has it open or mapped; never rejects: what stays is evicted as failed
 */
export async function abandonStaged(stagedFolder: string): Promise<void> {
  try {
    const progress = openSync(join(stagedFolder, 'progress'), constants.O_RDWR | constants.O_NOFOLLOW);
    try {
      tell(progress, 'failed');
    } finally {
      closeSync(progress);
    }
  } catch {
    // Without that file no loader waits for it.
  }
  try {
    await removeBytes(stagedFolder);
  } catch {
    // An eviction says so when it fails as well.
  }
}

const remedyOf: Record<ReaderFault['kind'], (folder: string) => string> = {
  hash: (folder) =>
    `the file changed after it was written, or the disk is failing: delete ${folder}, the next conversion writes it again`,
  room: () => 'the pool has no room: set storage.pinnedMemoryMB below what its tmpfs holds',
  read: () => 'see the disk and its mount; engines read the file by themselves meanwhile',
};

function failure(fault: ReaderFault, folder: string, chunkBytes: number): StagingOutcome {
  const where = fault.chunk < 0 ? '' : ` at byte ${fault.chunk * chunkBytes}`;
  const path = join(folder, weightsFiles.weights);
  return {
    type: 'failed',
    kind: fault.kind,
    message: `${path}${where}: ${fault.message}; ${remedyOf[fault.kind](folder)}`,
  };
}

/** Open files of one staging, all closed at its end. */
function openAll({ formFolder, stagedFolder }: StagingParts) {
  const opened: number[] = [];
  const open = (path: string, flags: number): number => {
    const fd = openSync(path, flags);
    opened.push(fd);
    return fd;
  };
  const path = join(formFolder, weightsFiles.weights);
  const plain = constants.O_RDONLY | constants.O_NOFOLLOW;
  // The last one to close a removed file frees its memory: beside the loop.
  const close = async (): Promise<void> => {
    await Promise.all(opened.splice(0).map((fd) => promisify(closeFile)(fd)));
  };
  try {
    const target = open(join(stagedFolder, weightsFiles.weights), constants.O_RDWR | constants.O_NOFOLLOW);
    const progress = open(join(stagedFolder, 'progress'), constants.O_RDWR | constants.O_NOFOLLOW);
    const cached = () => open(path, plain);
    try {
      return {
        source: open(path, plain | constants.O_DIRECT),
        refused: null,
        cached,
        target,
        progress,
        close,
      };
    } catch (error) {
      if (!refusals.includes(codeOf(error))) throw error;
      const refused = `its file system refuses O_DIRECT (${codeOf(error)})`;
      return { source: cached(), refused, cached, target, progress, close };
    }
  } catch (error) {
    close().catch(() => {});
    throw error;
  }
}

/** Starts at once. */
export function startStaging(parts: StagingParts): StagingRun {
  const { formFolder, stagedFolder, manifest, reader } = parts;
  const { bytes, chunkBytes } = manifest;
  const chunks = Math.ceil(bytes / chunkBytes);
  const hashes = new SharedArrayBuffer(manifest.chunkHashes.length);
  new Uint8Array(hashes).set(manifest.chunkHashes);
  let stopped = false;
  let hangs = false;
  let shared: SharedArrayBuffer | undefined;

  async function stage(files: ReturnType<typeof openAll>): Promise<StagingOutcome> {
    const before = filledBytes(files.progress);
    noteForm(stagedFolder, manifest, before);
    const first = Math.min(Math.floor(before / chunkBytes), chunks);
    shared = newShare(first);
    const counters = countersOf(shared);
    if (stopped) counters[counter.stop] = 1;
    const { source, target, progress } = files;
    const job: ReaderJob = {
      source,
      target,
      progress,
      bytes,
      chunkBytes,
      hashes,
      shared,
      cached: files.refused !== null,
    };
    let cached = files.refused;
    let fault = await reader.run(job);
    if (fault?.kind === 'read' && refusals.includes(fault.code) && !job.cached) {
      cached = `its file system refuses O_DIRECT (${fault.code})`;
      const mark = Atomics.load(counters, counter.mark);
      shared = newShare(mark);
      if (stopped) countersOf(shared)[counter.stop] = 1;
      fault = await reader.run({ ...job, source: files.cached(), cached: true, shared });
    }
    const mark = Atomics.load(countersOf(shared), counter.mark);
    const filled = Math.min(mark * chunkBytes, bytes);
    const readBytes = filled - Math.min(first * chunkBytes, bytes);
    if (fault) {
      hangs = fault.code === 'STALLED';
      await abandonStaged(stagedFolder);
      return failure(fault, formFolder, chunkBytes);
    }
    if (filled < bytes) return { type: 'stopped', filledBytes: filled, readBytes };
    tell(progress, 'whole');
    return { type: 'whole', bytes, readBytes, cached };
  }

  async function run(): Promise<StagingOutcome> {
    let files: ReturnType<typeof openAll> | undefined;
    try {
      const hung = await reader.hangs();
      if (hung) {
        // Not even an open is asked of that disk.
        await abandonStaged(stagedFolder);
        return failure(hung, formFolder, chunkBytes);
      }
      files = openAll(parts);
      return await stage(files);
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      await abandonStaged(stagedFolder);
      const kind = codeOf(error) === 'ENOSPC' ? 'room' : 'read';
      return failure({ kind, chunk: -1, code: codeOf(error), message }, formFolder, chunkBytes);
    } finally {
      // A number that is free again may be another file's: the thread must be done with it.
      const closed = files && reader.released().then(files.close);
      if (hangs) closed?.catch(() => {});
      else await closed;
    }
  }

  return {
    stop() {
      stopped = true;
      if (shared) Atomics.store(countersOf(shared), counter.stop, 1);
    },
    ended: run(),
  };
}
