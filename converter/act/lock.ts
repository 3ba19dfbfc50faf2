/**
 * One Job at a time works on a model: a lock file that its holder has taken from the kernel (flock), so that nobody has it
 * as well while that one lives, however slow it is. The file's time of change is a heartbeat beside that: for `clean`, for
 * Jobs of earlier releases, which know nothing else, and for a disk that several nodes share.
 */
import { randomUUID } from 'node:crypto';
import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  futimesSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { FetchFailure } from '../decide/failures.ts';
import { interruption } from '../http.ts';
import { takeFile } from './flock.ts';

const heartbeatMsDefault = 5_000;
/** A holder that did not touch its lock for so long is dead, if the kernel says so too. */
export const staleMs = 30_000;
/** Longest wait for another Job's fetch. */
const waitMsMax = 6 * 3_600_000;

export interface Lock {
  /** To be asked before what is written counts. @throws FetchFailure Busy when the lock is another's now */
  requireHeld(): void;
  release(): Promise<void>;
}

export interface LockOptions {
  signal: AbortSignal;
  /** The lock is another's now (somebody removed the file): the work must stop. */
  onLost: () => void;
  /** Called once, when it has to wait. */
  onWait: () => void;
  /** Longest wait, ms; six hours unless told otherwise. */
  waitMs?: number;
  pollMs?: number;
  heartbeatMs?: number;
}

/** What a call returns; null where there is no such file. */
function orNull<T>(call: () => T): T | null {
  try {
    return call();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

const holderOf = (path: string): string | null => orNull(() => readFileSync(path, 'utf8'));

/**
 * Whether a file that the kernel has given us may be ours: it still lies at its path, and is new or its holder's
 * heartbeat has stopped. A time in the future is nobody's heartbeat: the clock was set back.
 */
function isFree(path: string, descriptor: number): boolean {
  const { ino, size, mtimeMs } = fstatSync(descriptor);
  if (orNull(() => statSync(path))?.ino !== ino) return false;
  return size === 0 || Math.abs(Date.now() - mtimeMs) >= staleMs;
}

/** Opens the lock file, made where there is none. An earlier release kept unfinished downloads of a model called `….lock` there. */
function openLock(path: string): number {
  try {
    return openSync(path, constants.O_RDWR | constants.O_CREAT, 0o644);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EISDIR') throw error;
    rmSync(path, { recursive: true });
    return openSync(path, constants.O_RDWR | constants.O_CREAT, 0o644);
  }
}

/** @returns the lock file's descriptor; null while another holds it */
function take(path: string, own: string): number | null {
  const descriptor = openLock(path);
  try {
    if (takeFile(descriptor) && isFree(path, descriptor)) {
      ftruncateSync(descriptor);
      writeSync(descriptor, own, 0);
      return descriptor;
    }
  } catch (error) {
    closeSync(descriptor);
    throw error;
  }
  closeSync(descriptor);
  return null;
}

/** Shows that the holder lives. Its calls wait for nothing: the threads of the others may all be at a slow disk. */
function beat(path: string, own: string, descriptor: number, onLost: () => void): void {
  try {
    if (holderOf(path) === own) futimesSync(descriptor, new Date(), new Date());
    else onLost();
  } catch {
    // A beat that fails leaves the lock to look old; the kernel still keeps it from others.
  }
}

/**
 * Waits for the lock and holds it.
 * @throws FetchFailure Interrupted, or Busy after the longest wait
 */
export async function acquireLock(path: string, options: LockOptions): Promise<Lock> {
  const own = randomUUID();
  await mkdir(dirname(path), { recursive: true });
  const startMs = Date.now();
  let taken = take(path, own);
  if (taken === null) options.onWait();
  for (; taken === null; taken = take(path, own)) {
    if (Date.now() - startMs >= (options.waitMs ?? waitMsMax)) {
      throw new FetchFailure(
        'Busy',
        `another Job has held ${path} for too long: see what that one waits for`,
      );
    }
    await pause(options.pollMs ?? 1000, undefined, { signal: options.signal }).catch(() => {
      throw interruption(options.signal);
    });
  }
  const descriptor = taken;
  const timer = setInterval(
    () => beat(path, own, descriptor, options.onLost),
    options.heartbeatMs ?? heartbeatMsDefault,
  );
  return {
    requireHeld: () => {
      if (holderOf(path) !== own)
        throw new FetchFailure('Busy', 'another Job took this model over: this one stops');
    },
    release: async () => {
      clearInterval(timer);
      try {
        if (holderOf(path) === own) unlinkSync(path);
      } finally {
        closeSync(descriptor);
      }
    },
  };
}
