/** Stagings of real files, by real reader threads. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { makePool, makeStaged, stagedFolder } from '../../../../agent/act/staging/pool-folder.ts';
import { counter, countersOf } from '../../../../agent/act/staging/reader-words.ts';
import { startStaging } from '../../../../agent/act/staging/stage.ts';
import { createReader, type Reader } from '../../../../agent/act/staging/start-reader.ts';
import { largePageBytes } from '../../../../proto/weights.ts';
import { key } from './facts.ts';
import { type FormOnDisk, temporaryFolder, writeForm } from './form-on-disk.ts';

const reader = createReader();
afterAll(() => reader.close());

function place(pages = 5, formsIn?: string) {
  const root = temporaryFolder();
  const form = writeForm(formsIn ?? join(root, 'models'), 1, pages);
  const pool = join(root, 'pool');
  makePool(pool);
  makeStaged(pool, key(1), form.manifest.bytes);
  return { form, folder: stagedFolder(pool, key(1)) };
}

const begin = ({ form, folder }: ReturnType<typeof place>, by: Reader = reader) =>
  startStaging({ formFolder: form.folder, stagedFolder: folder, manifest: form.manifest, reader: by });

const formHash = ({ manifest }: FormOnDisk): string =>
  createHash('sha256').update(manifest.chunkHashes).digest('hex');

const progress = (folder: string): [number, number] => {
  const words = readFileSync(join(folder, 'progress'));
  return [Number(words.readBigUInt64LE(0)), Number(words.readBigUInt64LE(8))];
};
const isEqual = (form: FormOnDisk, folder: string): boolean =>
  readFileSync(join(folder, 'weights')).equals(form.bytes);

describe('a staging', () => {
  it('brings every byte into the pool, and says so', async () => {
    const at = place();
    expect(await begin(at).ended).toMatchObject({
      type: 'whole',
      bytes: at.form.manifest.bytes,
      readBytes: at.form.manifest.bytes,
    });
    expect(isEqual(at.form, at.folder)).toBe(true);
    expect(progress(at.folder)).toEqual([at.form.manifest.bytes, 1]);
  });

  it('goes on from its watermark, and reads nothing twice', async () => {
    const at = place();
    const words = Buffer.alloc(16);
    words.writeBigUInt64LE(BigInt(2 * largePageBytes));
    writeFileSync(join(at.folder, 'progress'), words);
    writeFileSync(join(at.folder, 'form.sha256'), formHash(at.form));
    expect(await begin(at).ended).toMatchObject({ type: 'whole', readBytes: 3 * largePageBytes });
    // What an earlier agent had read is not touched.
    const staged = readFileSync(join(at.folder, 'weights'));
    expect(staged.subarray(0, 2 * largePageBytes).every((byte) => byte === 0)).toBe(true);
    expect(staged.subarray(2 * largePageBytes).equals(at.form.bytes.subarray(2 * largePageBytes))).toBe(true);
  });

  it('does not go on with bytes of another form of the same commit and length', async () => {
    const at = place();
    const words = Buffer.alloc(16);
    words.writeBigUInt64LE(BigInt(2 * largePageBytes));
    writeFileSync(join(at.folder, 'progress'), words);
    writeFileSync(join(at.folder, 'form.sha256'), 'a'.repeat(64));
    expect(await begin(at).ended).toMatchObject({
      type: 'failed',
      message: expect.stringContaining('another one'),
    });
    expect(progress(at.folder)[1]).toBe(2);
    expect(existsSync(join(at.folder, 'weights'))).toBe(false);
  });

  it('tells loaders of which form its bytes are', async () => {
    const at = place();
    await begin(at).ended;
    expect(readFileSync(join(at.folder, 'form.sha256'), 'utf8')).toBe(formHash(at.form));
  });

  it('stops where it is told to, with a watermark that is true, and goes on to the end', async () => {
    const at = place(24);
    const run = begin(at);
    run.stop();
    const stopped = await run.ended;
    expect(stopped.type).toBe('stopped');
    const [filled, state] = progress(at.folder);
    expect(stopped).toMatchObject({ filledBytes: filled });
    expect(state).toBe(0);
    expect(
      readFileSync(join(at.folder, 'weights')).subarray(0, filled).equals(at.form.bytes.subarray(0, filled)),
    ).toBe(true);
    expect(await begin(at).ended).toMatchObject({
      type: 'whole',
      readBytes: at.form.manifest.bytes - filled,
    });
    expect(isEqual(at.form, at.folder)).toBe(true);
  });

  it('shows its watermark while it goes on: bytes below it are there', async () => {
    const at = place(12);
    /** Reads one chunk at a time and looks at what a loader would see. */
    const seen: number[] = [];
    const watching: Reader = {
      close() {},
      hangs: async () => null,
      released: async () => {},
      async run(job) {
        const answer = reader.run(job);
        while (Atomics.load(countersOf(job.shared), counter.mark) < 12) {
          const [filled] = progress(at.folder);
          const staged = readFileSync(join(at.folder, 'weights')).subarray(0, filled);
          if (!staged.equals(at.form.bytes.subarray(0, filled))) throw new Error(`false at ${filled}`);
          seen.push(filled);
          await new Promise(setImmediate);
        }
        return answer;
      },
    };
    expect((await begin(at, watching).ended).type).toBe('whole');
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
  });
});

describe('a staging that fails', () => {
  const failed = async (at: ReturnType<typeof place>) => {
    const outcome = await begin(at).ended;
    expect(progress(at.folder)[1]).toBe(2);
    expect(existsSync(join(at.folder, 'weights'))).toBe(false);
    return outcome;
  };

  it('names the chunk whose bytes are not those of the manifest, and the remedy', async () => {
    const at = place();
    const bytes = Buffer.from(at.form.bytes);
    bytes[3 * largePageBytes + 7]! ^= 1;
    writeFileSync(join(at.form.folder, 'weights'), bytes);
    const outcome = await failed(at);
    expect(outcome).toMatchObject({ type: 'failed', kind: 'hash' });
    expect(JSON.stringify(outcome)).toMatch(
      new RegExp(
        `at byte ${3 * largePageBytes}.*hash of the manifest.*delete .*${at.form.folder}.*next conversion`,
      ),
    );
    expect(progress(at.folder)[0]).toBeLessThanOrEqual(3 * largePageBytes);
  });

  it('says where a truncated file ends', async () => {
    const at = place();
    truncateSync(join(at.form.folder, 'weights'), 2 * largePageBytes);
    expect(await failed(at)).toMatchObject({
      type: 'failed',
      kind: 'read',
      message: expect.stringContaining('the file ends at'),
    });
  });

  it('says that the file is gone', async () => {
    const at = place();
    execFileSync('rm', [join(at.form.folder, 'weights')]);
    expect(await failed(at)).toMatchObject({
      type: 'failed',
      kind: 'read',
      message: expect.stringContaining('ENOENT'),
    });
  });
});

describe.runIf(process.getuid?.() === 0)('file systems of their own', () => {
  /** @returns what the work returned; the mount is gone then */
  async function mounted<T>(type: string[], work: (at: string) => Promise<T>): Promise<T> {
    const at = join(temporaryFolder(), 'mount');
    mkdirSync(at);
    execFileSync('mount', ['-t', ...type, 'none', at]);
    try {
      return await work(at);
    } finally {
      execFileSync('umount', [at]);
    }
  }

  it('are read through the page cache where they refuse O_DIRECT, which is said', async () => {
    await mounted(['ramfs'], async (at) => {
      const there = place(4, at);
      expect(await begin(there).ended).toMatchObject({
        type: 'whole',
        cached: expect.stringMatching(/refuses O_DIRECT \(EINVAL\)/),
      });
      expect(isEqual(there.form, there.folder)).toBe(true);
    });
  });

  it('that have no room end the staging with what to set', async () => {
    await mounted(['tmpfs', '-o', 'size=6m'], async (at) => {
      const form = writeForm(join(temporaryFolder(), 'models'), 1, 6);
      makePool(at);
      makeStaged(at, key(1), form.manifest.bytes);
      const outcome = await begin({ form, folder: stagedFolder(at, key(1)) }).ended;
      expect(outcome).toMatchObject({
        type: 'failed',
        kind: 'room',
        message: expect.stringMatching(/ENOSPC.*storage\.pinnedMemoryMB/),
      });
    });
  });
});
