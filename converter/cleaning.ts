/** The clean-up: what lies there → what Models and pods use → a list, and with `isRemoving` the removal of what none uses. */
import { mkdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { formatGiB } from '#platform/quantity.ts';
import { acquireLock, staleMs } from './act/lock.ts';
import { FetchFailure } from './decide/failures.ts';
import { asidePath, incomingName, lockPath } from './decide/places.ts';
import { judgeFolders, type Users, type Verdict } from './decide/unused.ts';
import { readStore } from './observe/store.ts';

export interface CleanOptions extends Users {
  modelsDir: string;
  isRemoving: boolean;
  /** Removes although there is no Model at all. */
  isForAll: boolean;
  /** Takes lines for people. */
  print: (line: string) => void;
  signal: AbortSignal;
  nowMs: number;
}

/** Under the model's lock: out of its place by one rename, so that no half of it is ever found, then removed. */
async function remove(modelsDir: string, { folder, path }: Verdict, signal: AbortSignal): Promise<boolean> {
  const lock = await acquireLock(lockPath(modelsDir, folder), {
    signal,
    waitMs: 0,
    onWait: () => {},
    onLost: () => {},
  }).catch((error: unknown) => {
    if (error instanceof FetchFailure && error.reason === 'Busy') return null;
    throw error;
  });
  if (!lock) return false;
  try {
    const aside = asidePath(modelsDir, folder);
    await rm(aside, { recursive: true, force: true });
    await mkdir(join(modelsDir, incomingName), { recursive: true });
    await rename(join(modelsDir, path), aside);
    await rm(aside, { recursive: true, force: true });
    return true;
  } finally {
    await lock.release();
  }
}

/**
 * Lists all folders with their sizes, and removes the unused where it is told to.
 * @returns bytes that were removed
 * @throws FetchFailure BadSettings when all would go
 */
export async function clean(options: CleanOptions): Promise<number> {
  const { modelsDir, models, isRemoving, print } = options;
  const verdicts = judgeFolders(await readStore(modelsDir, staleMs, options.nowMs), options);
  const unused = verdicts.filter(({ isUsed }) => !isUsed);
  if (isRemoving && models.length === 0 && unused.length > 0 && !options.isForAll) {
    throw new FetchFailure(
      'BadSettings',
      'there is no Model at all: if this is the right cluster and every file may go, add --all',
    );
  }
  const line = ({ bytes, path, isUsed, because }: Verdict, word: string): void =>
    print(`${formatGiB(bytes).padStart(12)}  ${isUsed ? 'used  ' : word}  ${path}: ${because}`);
  let removed = 0;
  for (const verdict of verdicts) {
    if (verdict.isUsed || !isRemoving) {
      line(verdict, 'unused');
      continue;
    }
    if (await remove(modelsDir, verdict, options.signal)) {
      removed += verdict.bytes;
      line(verdict, 'removed');
    } else line({ ...verdict, isUsed: true, because: 'a Job works on this model' }, '');
  }
  const total = unused.reduce((sum, { bytes }) => sum + bytes, 0);
  print(
    isRemoving
      ? `${formatGiB(removed)} removed`
      : `${formatGiB(total)} in ${unused.length} folders are used by no Model; --remove removes them`,
  );
  return removed;
}
