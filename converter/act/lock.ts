/**
 * One fetch at a time in a model's folder: a lock file whose time of change is its holder's heartbeat. It saves double
 * work; what makes two writers harmless is that every file is checked by its hash before it counts.
 */
import { randomUUID } from 'node:crypto';
import { link, mkdir, open, readFile, rename, stat, unlink, utimes } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { FetchFailure } from '../decide/failures.ts';
import { interruption } from '../http.ts';

const heartbeatMsDefault = 5_000;
/** A holder that did not touch its lock for so long is dead. */
export const staleMs = 30_000;
/** Longest wait for another Job's fetch. */
const waitMsMax = 6 * 3_600_000;

export interface Lock {
  release(): Promise<void>;
}

export interface LockOptions {
  signal: AbortSignal;
  /** The lock is another's now (this process was stopped for long): the work must stop. */
  onLost: () => void;
  /** Called once, when it has to wait. */
  onWait: () => void;
  /** Longest wait, ms; six hours unless told otherwise. */
  waitMs?: number;
  pollMs?: number;
  heartbeatMs?: number;
}

const holderOf = (path: string): Promise<string | null> => readFile(path, 'utf8').catch(() => null);

/** Makes the lock file; false when there is one. */
async function create(path: string, holder: string): Promise<boolean> {
  try {
    const handle = await open(path, 'wx', 0o644);
    await handle.writeFile(holder).finally(() => handle.close());
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

/** Takes a dead holder's lock away. Another waiter may do the same at once: what was taken is looked at afterwards. */
async function clearStale(path: string, own: string): Promise<void> {
  const seen = await holderOf(path);
  const found = await stat(path).catch(() => null);
  if (found === null || Date.now() - found.mtimeMs < staleMs) return;
  const aside = `${path}.${own}`;
  await rename(path, aside).catch(() => {});
  const taken = await holderOf(aside);
  // A living holder's lock came in between: give it back, unless somebody holds a new one.
  if (taken !== null && taken !== seen) await link(aside, path).catch(() => {});
  await unlink(aside).catch(() => {});
}

/**
 * Waits for the lock and holds it.
 * @throws FetchFailure Interrupted, or Busy after the longest wait
 */
export async function acquireLock(path: string, options: LockOptions): Promise<Lock> {
  const own = randomUUID();
  await mkdir(dirname(path), { recursive: true });
  const startMs = Date.now();
  for (let tries = 0; !(await create(path, own)); tries++) {
    if (tries === 0) options.onWait();
    await clearStale(path, own);
    if (tries > 0 && Date.now() - startMs >= (options.waitMs ?? waitMsMax)) {
      throw new FetchFailure(
        'Busy',
        `another Job has held ${path} for too long: see what that one waits for`,
      );
    }
    await pause(options.pollMs ?? 1000, undefined, { signal: options.signal }).catch(() => {
      throw interruption(options.signal);
    });
  }
  const beat = async (): Promise<void> => {
    if ((await holderOf(path)) !== own) return options.onLost();
    await utimes(path, new Date(), new Date());
  };
  // A beat that fails leaves the lock to grow stale, which is what it is then.
  const timer = setInterval(() => void beat().catch(() => {}), options.heartbeatMs ?? heartbeatMsDefault);
  return {
    release: async () => {
      clearInterval(timer);
      if ((await holderOf(path)) === own) await unlink(path);
    },
  };
}
