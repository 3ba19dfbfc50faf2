/** A disk that hangs, as a pipe into which nobody writes: one thread waits for it, however often it is asked; then it goes on. */
import { execFileSync } from 'node:child_process';
import { closeSync, constants, openSync, readdirSync, readlinkSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import { makePool, makeStaged, stagedFolder } from '../../../../agent/act/staging/pool-folder.ts';
import { newShare, type ReaderJob } from '../../../../agent/act/staging/reader-words.ts';
import { startStaging } from '../../../../agent/act/staging/stage.ts';
import { createReader, type Reader } from '../../../../agent/act/staging/start-reader.ts';
import { largePageBytes } from '../../../../proto/weights.ts';
import { key } from './facts.ts';
import { temporaryFolder, writeForm } from './form-on-disk.ts';

const reader = createReader(undefined, { stallMs: 1_000, stopMs: 50, lookEveryMs: 10 });
afterAll(() => reader.close());

let threads = 0;
const count = () => {
  threads += 1;
};
beforeEach(() => void process.on('worker', count));
afterEach(() => void process.off('worker', count));

const opened: number[] = [];
const open = (path: string, flags: number): number => {
  const file = openSync(path, flags);
  opened.push(file);
  return file;
};
afterEach(() => {
  for (const file of opened.splice(0)) closeSync(file);
});

/** Of `source`, or of the good file; everything else is there. */
function job(source?: string): ReaderJob {
  const root = temporaryFolder();
  const { folder, manifest } = writeForm(root, 1, 5);
  for (const [name, bytes] of [['target', manifest.bytes] as const, ['progress', 16] as const])
    writeFileSync(join(root, name), Buffer.alloc(bytes));
  const hashes = new SharedArrayBuffer(manifest.chunkHashes.length);
  new Uint8Array(hashes).set(manifest.chunkHashes);
  return {
    source: open(source ?? join(folder, 'weights'), source ? constants.O_RDWR : constants.O_RDONLY),
    target: open(join(root, 'target'), constants.O_RDWR),
    progress: open(join(root, 'progress'), constants.O_RDWR),
    bytes: manifest.bytes,
    chunkBytes: largePageBytes,
    cached: false,
    hashes,
    shared: newShare(0),
  };
}

describe('a disk that hangs', () => {
  it('has one thread waiting for it, which takes the next job when it has answered', async () => {
    const pipe = join(temporaryFolder(), 'pipe');
    execFileSync('mkfifo', [pipe]);
    // The thread is there, so that what stands still is the disk.
    while ((await reader.run(job())) !== null);
    const hanging = job(pipe);
    expect(await reader.run(hanging)).toMatchObject({ kind: 'read', code: 'STALLED' });
    for (let round = 0; round < 3; round++) {
      expect(await reader.hangs()).toMatchObject({ kind: 'read', code: 'STALLED' });
      expect(await reader.run(job())).toMatchObject({ kind: 'read', code: 'STALLED' });
    }
    expect(threads).toBe(1);
    // The disk answers: each of the reads that are on their way takes what is there.
    for (let hangs = true; hangs; hangs = (await reader.hangs()) !== null)
      writeSync(hanging.source, Buffer.from([1]));
    await reader.released();
    expect(await reader.run(job())).toBeNull();
    expect(threads).toBe(1);
  });

  it('keeps the files of its staging open until nobody uses them, and opens no more', async () => {
    const root = temporaryFolder();
    const form = writeForm(join(root, 'models'), 1, 5);
    const pool = join(root, 'pool');
    const openOnes = () =>
      readdirSync('/proc/self/fd').filter((file) => {
        try {
          return readlinkSync(`/proc/self/fd/${file}`).startsWith(root);
        } catch {
          return false;
        }
      }).length;
    const stalled = { kind: 'read', chunk: 0, code: 'STALLED', message: 'no byte came' } as const;
    const answered = Promise.withResolvers<void>();
    let hangs = false;
    const hanging: Reader = {
      hangs: async () => (hangs ? stalled : null),
      released: () => answered.promise,
      async run() {
        hangs = true;
        return stalled;
      },
      close() {},
    };
    const stage = () => {
      makePool(pool);
      makeStaged(pool, key(1), form.manifest.bytes);
      const folder = stagedFolder(pool, key(1));
      return startStaging({
        formFolder: form.folder,
        stagedFolder: folder,
        manifest: form.manifest,
        reader: hanging,
      }).ended;
    };
    expect(await stage()).toMatchObject({ type: 'failed', kind: 'read' });
    expect(openOnes()).toBe(3);
    expect(await stage()).toMatchObject({ type: 'failed', kind: 'read' });
    expect(openOnes()).toBe(3);
    answered.resolve();
    for (let round = 0; openOnes() > 0 && round < 500; round++)
      await new Promise((resolve) => setTimeout(resolve, 10));
    expect(openOnes()).toBe(0);
  });
});
