/** The lock of a model's folder: its heartbeat, and what happens when it is taken away. */
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { acquireLock, staleMs } from '../../../converter/act/lock.ts';

let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'gt-lock-'));
  path = join(folder, 'deep/model.lock');
});
afterEach(() => rmSync(folder, { recursive: true }));

const acquire = (onLost = () => {}, options: { heartbeatMs?: number; waitMs?: number } = {}) =>
  acquireLock(path, {
    signal: new AbortController().signal,
    onWait: () => {},
    onLost,
    pollMs: 5,
    heartbeatMs: 5,
    ...options,
  });
const age = (ms: number) => utimesSync(path, new Date(Date.now() - ms), new Date(Date.now() - ms));

describe('the lock', () => {
  it('stays young while it is held, and is gone when released', async () => {
    const lock = await acquire();
    age(staleMs * 2);
    await vi.waitUntil(() => Date.now() - statSync(path).mtimeMs < staleMs);
    await lock.release();
    expect(existsSync(path)).toBe(false);
  });

  it('tells its holder when another has it, and does not remove the other one', async () => {
    const lost = vi.fn();
    const lock = await acquire(lost);
    writeFileSync(path, 'another');
    await vi.waitUntil(() => lost.mock.calls.length > 0);
    await lock.release();
    expect(readFileSync(path, 'utf8')).toBe('another');
  });

  it('is held by one at a time, however many wait for a dead holder', async () => {
    const first = await acquire();
    await first.release();
    writeFileSync(path, 'dead');
    age(staleMs * 2);
    let holders = 0;
    let most = 0;
    const work = async () => {
      const lock = await acquire();
      most = Math.max(most, ++holders);
      await new Promise((resolve) => setTimeout(resolve, 10));
      holders--;
      await lock.release();
    };
    await Promise.all(Array.from({ length: 8 }, work));
    expect(most).toBe(1);
    expect(readdirSync(join(folder, 'deep'))).toEqual([]);
  });

  it('is not taken from a holder that lives, however long it showed no life', async () => {
    const lost = vi.fn();
    const lock = await acquire(lost, { heartbeatMs: 1_000_000 });
    age(staleMs * 2);
    await expect(acquire(undefined, { waitMs: 30 })).rejects.toMatchObject({ reason: 'Busy' });
    lock.requireHeld();
    expect(lost).not.toHaveBeenCalled();
    await lock.release();
    await (await acquire(undefined, { waitMs: 0 })).release();
  });

  it('stays young while all of the threads for files wait for a disk', async () => {
    const lock = await acquire();
    // To open a pipe that nobody reads takes a thread until somebody does.
    const pipes = Array.from({ length: 8 }, (_, index) => join(folder, `pipe-${index}`));
    execFileSync('mkfifo', pipes);
    const waiting: Promise<FileHandle>[] = pipes.map((pipe) => open(pipe, 'w'));
    try {
      age(staleMs * 2);
      await vi.waitUntil(() => Date.now() - statSync(path).mtimeMs < staleMs);
    } finally {
      const readers = pipes.map((pipe) => openSync(pipe, 'r+'));
      for (const handle of await Promise.all(waiting)) await handle.close();
      for (const reader of readers) closeSync(reader);
    }
    await lock.release();
  });

  it('whose time lies ahead, since the clock was set back, belongs to a dead holder', async () => {
    await (await acquire()).release();
    writeFileSync(path, 'dead');
    age(-staleMs * 100);
    const lock = await acquire(undefined, { waitMs: 0 });
    await lock.release();
  });

  it('that another has may not be relied on', async () => {
    const lock = await acquire();
    rmSync(path);
    const other = await acquire();
    expect(() => lock.requireHeld()).toThrow('took this model over');
    await lock.release();
    other.requireHeld();
    await other.release();
    expect(existsSync(path)).toBe(false);
  });

  it('takes the place of a folder, which an earlier release made for a model that is itself called ….lock', async () => {
    mkdirSync(join(path, 'commit'), { recursive: true });
    writeFileSync(join(path, 'commit/model.safetensors.greenthread-part'), 'some');
    await (await acquire(undefined, { waitMs: 0 })).release();
    expect(existsSync(path)).toBe(false);
  });
});
