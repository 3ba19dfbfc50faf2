/** The lock of a model's folder: its heartbeat, and what happens when it is taken away. */
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
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

const acquire = (onLost = () => {}) =>
  acquireLock(path, {
    signal: new AbortController().signal,
    onWait: () => {},
    onLost,
    pollMs: 5,
    heartbeatMs: 5,
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
});
