/** The pool's folders: what is listed, linked, removed. */
import {
  chmodSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import {
  adoptImage,
  clearLeftovers,
  makePool,
  makeStaged,
  openPodFolder,
  removeImages,
  removeStaged,
  touch,
} from '../../../../agent/act/staging/pool-folder.ts';
import {
  adoptions,
  goneFolders,
  imageFault,
  imageHeadBytes,
  imageMagic,
  podGoneMs,
} from '../../../../agent/decide/staging/images.ts';
import { createPoolListing } from '../../../../agent/observe/pool/pool-listing.ts';
import { key, uid } from './facts.ts';
import { temporaryFolder } from './form-on-disk.ts';

const page = 2 * 1024 * 1024;
const name = `${'a'.repeat(16)}-${'b'.repeat(16)}.image`;
let pool: string;

beforeEach(() => {
  pool = join(temporaryFolder(), 'pool');
  makePool(pool);
});

const list = (at = 0) => createPoolListing(pool, () => at)();

function head(indexBytes: number, magic = imageMagic): Buffer {
  const bytes = Buffer.alloc(imageHeadBytes);
  bytes.write(magic, 0, 'latin1');
  bytes.writeBigUInt64LE(BigInt(indexBytes), 8);
  return bytes;
}

/** In the folder of pod `n`, as its plug-in leaves it. */
function writeImage(n: number, bytes = head(100), at = name): string {
  const folder = join(pool, 'pods', uid(n));
  mkdirSync(folder, { recursive: true });
  const path = join(folder, at);
  writeFileSync(path, bytes);
  truncateSync(path, 2 * page);
  return path;
}
const adopt = (n: number) => adoptImage(pool, { podUid: uid(n), engineHash: 'h1', name, bytes: 2 * page });

describe('the pool', () => {
  it('is for all to read, but pods come to their own folder through their own mount alone', () => {
    const mode = (folder: string) => statSync(join(pool, folder)).mode & 0o7777;
    expect(['', 'staged', 'images', 'pods'].map(mode)).toEqual([0o755, 0o755, 0o755, 0o711]);
  });

  it('is cleared of what an agent was making or removing when it was killed, and of nothing else', async () => {
    makeStaged(pool, key(1), page);
    mkdirSync(join(pool, 'staged', `.${key(2)}`));
    writeFileSync(join(pool, 'images', '.x-y.image'), '');
    mkdirSync(join(pool, 'pods', '.gone-1', 'deep'), { recursive: true });
    mkdirSync(join(pool, 'pods', uid(1)));
    for (const folder of ['staged', 'images', 'pods'] as const) await clearLeftovers(pool, folder);
    expect(readdirSync(join(pool, 'staged'))).toEqual([key(1)]);
    expect(readdirSync(join(pool, 'images'))).toEqual([]);
    expect(readdirSync(join(pool, 'pods'))).toEqual([uid(1)]);
  });

  it('loses weights out of sight at once, their memory beside the loop', async () => {
    makeStaged(pool, key(1), page);
    const freed = removeStaged(pool, key(1));
    // Nothing was unlinked yet, and a place of the same name can be made meanwhile.
    const [left, ...others] = readdirSync(join(pool, 'staged'));
    expect([left, others]).toEqual([expect.stringMatching(/^\.gone-/), []]);
    expect(readdirSync(join(pool, 'staged', left!))).toContain('weights');
    makeStaged(pool, key(1), 2 * page);
    await freed;
    expect(readdirSync(join(pool, 'staged'))).toEqual([key(1)]);
    expect(list().staged).toMatchObject([{ bytes: 2 * page }]);
    await removeStaged(pool, key(2));
  });

  it('lists weights as far as they are, and lets any user read them', async () => {
    makeStaged(pool, key(1), 3 * page);
    makeStaged(pool, key(1), 3 * page);
    const words = Buffer.alloc(16);
    words.writeBigUInt64LE(BigInt(page));
    writeFileSync(join(pool, 'staged', key(1), 'progress'), words);
    expect(list().staged).toMatchObject([
      { key: key(1), bytes: 3 * page, filledBytes: page, state: 'under way' },
    ]);
    expect(statSync(join(pool, 'staged', key(1), 'weights')).mode & 0o777).toBe(0o644);
    await removeStaged(pool, key(1));
    expect(list().staged).toEqual([]);
  });

  it('takes for failed what is not as it is made, and does not see what has other names', () => {
    mkdirSync(join(pool, 'staged', key(1)));
    mkdirSync(join(pool, 'staged', '..x'));
    mkdirSync(join(pool, 'images', 'no hash'));
    mkdirSync(join(pool, 'pods', 'no-uid'));
    expect(list()).toMatchObject({
      staged: [{ key: key(1), state: 'failed', filledBytes: 0 }],
      images: [],
      pods: [],
    });
  });

  it('keeps times of use for the next agent', () => {
    makeStaged(pool, key(1), page);
    const old = new Date(Date.now() - 600_000);
    utimesSync(join(pool, 'staged', key(1)), old, old);
    expect(list(1e9).staged[0]!.usedAtMs).toBeLessThan(1e9 - 500_000);
    touch(pool, { keys: [key(1), key(2)], engineHashes: ['gone'] });
    expect(list(1e9).staged[0]!.usedAtMs).toBeGreaterThan(1e9 - 60_000);
  });

  it('knows what the tmpfs has left', () => {
    expect(list().freeBytes).toBeGreaterThan(0);
  });
});

describe('an image', () => {
  it('is linked for all engines of its hash, and nobody writes to it any more', async () => {
    const path = writeImage(1);
    expect(adoptions(list(), () => 'h1')).toEqual([
      { podUid: uid(1), engineHash: 'h1', name, bytes: statSync(path).blocks * 512 },
    ]);
    expect(adopt(1)).toEqual({ type: 'linked' });
    const linked = statSync(join(pool, 'images', 'h1', name));
    expect(linked.ino).toBe(statSync(path).ino);
    expect(linked.mode & 0o777).toBe(0o444);
    expect(linked.uid).toBe(process.getuid?.());
    expect(readdirSync(join(pool, 'images'))).toEqual(['h1']);
    // Its bytes are counted once, and it is not linked again.
    expect(list()).toMatchObject({
      images: [{ engineHash: 'h1', files: 1 }],
      pods: [{ files: [{ linked: true }] }],
    });
    expect(adoptions(list(), () => 'h1')).toEqual([]);
    await removeImages(pool, 'h1');
    expect(list().images).toEqual([]);
  });

  it('of a second replica leaves the first in place', () => {
    writeImage(1);
    const second = writeImage(2);
    expect([adopt(1), adopt(2)]).toEqual([{ type: 'linked' }, { type: 'second' }]);
    expect(statSync(join(pool, 'images', 'h1', name)).ino).not.toBe(statSync(second).ino);
  });

  it.each([
    ['cut off in its head', Buffer.from('GT'), 2, /head/],
    ['of another release', head(1, 'GTIMAGE9'), 2 * page, /no image of this release/],
    ['whose index is longer than itself', head(3 * page), 2 * page, /index is longer/],
    [
      'whose index is longer than a number',
      Buffer.concat([head(1).subarray(0, 8), Buffer.alloc(40, 0xff)]),
      2 * page,
      /index/,
    ],
    ['cut off', head(1), 2 * page - 1, /whole page/],
  ])('%s is none', (_what, bytes, length, said) => {
    expect(imageFault(bytes, length)).toMatch(said);
  });

  it('that a pod made of something else is not taken', () => {
    const folder = join(pool, 'pods', uid(1));
    mkdirSync(folder);
    symlinkSync('/etc/passwd', join(folder, name));
    expect(list().pods[0]!.files).toEqual([]);
    expect(() => adopt(1)).toThrow(/ELOOP/);
    writeImage(2, Buffer.from('junk'));
    expect(adopt(2)).toMatchObject({ type: 'none', fault: expect.stringMatching(/no image/) });
    expect(readdirSync(join(pool, 'images'))).toEqual([]);
  });

  it.each([`.${name}`, `${name}.77.partial`, 'x.image', `../${name}`])(
    'is not what is called %s',
    (other) => {
      const pods = [{ podUid: uid(1), seenAtMs: 0, files: [{ name: other, bytes: 1, linked: false }] }];
      expect(adoptions({ staged: [], images: [], pods, freeBytes: null }, () => 'h1')).toEqual([]);
    },
  );

  it.each([null, '..', 'a/b', ''])('of a pod whose hash is %j has no place', (hash) => {
    writeImage(1);
    expect(adoptions(list(), () => hash)).toEqual([]);
  });
});

describe("a pod's folder", () => {
  it('is opened to every user of the pod', () => {
    const folder = join(pool, 'pods', uid(1));
    mkdirSync(folder);
    chmodSync(folder, 0o750);
    expect(openPodFolder(pool, uid(1))).toBe(true);
    expect(lstatSync(folder).mode & 0o7777).toBe(0o1777);
    expect(openPodFolder(pool, uid(2))).toBe(false);
  });

  it('that is a link is not followed', () => {
    const target = join(temporaryFolder(), 't');
    mkdirSync(target, { mode: 0o700 });
    symlinkSync(target, join(pool, 'pods', uid(1)));
    expect(openPodFolder(pool, uid(1))).toBe(false);
    expect(lstatSync(target).mode & 0o777).toBe(0o700);
  });

  it('is left over when its pod has been gone for a minute', () => {
    writeImage(1);
    writeImage(2);
    const pools = createPoolListing(pool, () => 1_000)();
    const alive = (podUid: string) => podUid === uid(2);
    expect(goneFolders(pools, 1_000 + podGoneMs - 1, alive)).toEqual([]);
    expect(goneFolders(pools, 1_000 + podGoneMs, alive)).toEqual([uid(1)]);
  });

  it('of more files than are looked at costs no more than those', () => {
    const folder = join(pool, 'pods', uid(1));
    mkdirSync(folder);
    for (let n = 0; n < 100; n++) writeFileSync(join(folder, `f${n}`), '');
    expect(list().pods[0]!.files).toHaveLength(64);
  });

  it('counts no file twice that its pod linked to another name of its own', () => {
    const path = writeImage(1);
    linkSync(path, `${path}.9.partial`);
    expect(list().pods[0]!.files.map(({ linked }) => linked)).toEqual([false, false]);
    expect(existsSync(path)).toBe(true);
  });
});
