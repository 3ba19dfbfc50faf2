import { describe, expect, it } from 'vitest';
import {
  adoptions,
  goneFolders,
  imageFault,
  imageHeadBytes,
  imageMagic,
  isEngineHash,
  isImageName,
  podGoneMs,
} from '../../../../agent/decide/staging/images.ts';
import { emptyPool, uid } from './facts.ts';

const pageBytes = 2 * 1024 * 1024;

/** The first bytes of an image, with its index so long. */
function head(indexBytes: number | bigint, magic = imageMagic, bytes = imageHeadBytes): Uint8Array {
  // Not at the beginning of its buffer: files are read into parts of larger ones.
  const all = new Uint8Array(8 + Math.max(bytes, imageHeadBytes)).subarray(8);
  all.set(Buffer.from(magic, 'latin1'));
  new DataView(all.buffer, all.byteOffset).setBigUint64(8, BigInt(indexBytes), true);
  return all.subarray(0, bytes);
}

describe('the name of an image', () => {
  const eight = '0123abcd';
  it.each([
    [`${eight}-${eight}.image`, true],
    [`${'a'.repeat(64)}-${'f'.repeat(64)}.image`, true],
    [`${'a'.repeat(65)}-${eight}.image`, false],
    [`${eight}-${'f'.repeat(65)}.image`, false],
    [`${eight.slice(1)}-${eight}.image`, false],
    [`${eight}-${eight.slice(1)}.image`, false],
    [`${eight}-${eight}.image.part`, false],
    [`x${eight}-${eight}.image`, false],
    [`${eight}-${eight}ximage`, false],
    [`${eight.toUpperCase()}-${eight}.image`, false],
    [`../${eight}-${eight}.image`, false],
  ])('%s: %s', (name, is) => {
    expect(isImageName(name)).toBe(is);
  });

  it.each([
    ['aZ09', true],
    ['a'.repeat(64), true],
    ['a'.repeat(65), false],
    ['', false],
    ['a/b', false],
    ['..', false],
    ['.a', false],
    ['a.', false],
  ])('lies in a folder %j: %s', (hash, is) => {
    expect(isEngineHash(hash)).toBe(is);
  });
});

describe('a file that is to be an image', () => {
  it.each<[string, Uint8Array, number, string | null]>([
    ['is one', head(100), pageBytes, null],
    ['is one of several pages', head(100), 3 * pageBytes, null],
    ['is one whose index ends with the file', head(pageBytes - imageHeadBytes), pageBytes, null],
    ['ends in its head', head(100, imageMagic, imageHeadBytes - 1), pageBytes, 'it ends in its head'],
    ['begins otherwise', head(100, 'GTIMAGE2'), pageBytes, 'it is no image of this release'],
    ['begins with nothing', head(100, ''), pageBytes, 'it is no image of this release'],
    [
      'has an index beyond its end',
      head(pageBytes - imageHeadBytes + 1),
      pageBytes,
      'its index is longer than the file',
    ],
    ['has an index beyond any file', head(2n ** 63n), pageBytes, 'its index is longer than the file'],
    ['ends within a page', head(100), pageBytes + 4096, 'it does not end on a whole page'],
  ])('%s', (_what, first, fileBytes, fault) => {
    expect(imageFault(first, fileBytes)).toBe(fault);
  });
});

describe("pods' own folders", () => {
  const name = '0123abcd-0123abcd.image';
  const file = { name, bytes: 7, linked: false };
  const folder = (n: number, files = [file], seenAtMs = 0) => ({ podUid: uid(n), files, seenAtMs });

  it('hold finished images, to be linked once and for known engines alone', () => {
    const pods = [
      folder(1, [file, { ...file, name: 'half' }, { ...file, bytes: 9, linked: true }]),
      folder(2),
      folder(3),
      folder(4),
    ];
    const hashes: Record<string, string | null> = { [uid(1)]: 'h1', [uid(2)]: null, [uid(3)]: '../x' };
    expect(adoptions({ ...emptyPool, pods }, (podUid) => hashes[podUid] ?? null)).toEqual([
      { podUid: uid(1), engineHash: 'h1', name, bytes: 7 },
    ]);
  });

  it('are left over once nobody has been alive for a minute', () => {
    const pods = [folder(1, [], 1_000), folder(2, [], 1_001), folder(3, [], 0)];
    const alive = (podUid: string) => podUid === uid(3);
    expect(goneFolders({ ...emptyPool, pods }, 1_000 + podGoneMs, alive)).toEqual([uid(1)]);
    expect(podGoneMs).toBe(60_000);
  });
});
