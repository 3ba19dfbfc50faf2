/** The gthread form's manifest: what goes in comes out, and what does not hold together is refused with its fault. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import {
  chunkHashBytes,
  decodeHead,
  decodeManifest,
  dimensionsMax,
  encodeManifest,
  gthreadFolder,
  largePageBytes,
  manifestBytesMax,
  manifestLength,
  nameBytesMax,
  tensorsMax,
  type WeightsManifest,
  weightsChunkBytes,
  weightsDtypeBytes,
} from '../../../proto/weights.ts';

const mib = 1024 * 1024;
const tensor = (name: string, offset: number, bytes: number) => ({
  name,
  dtype: 'BF16',
  shape: [bytes / 2],
  offset,
  bytes,
});
const good: WeightsManifest = {
  version: 1,
  modelName: 'org/model',
  commit: 'a'.repeat(40),
  bytes: 12 * mib,
  chunkBytes: weightsChunkBytes,
  chunkHashes: Buffer.alloc(2 * chunkHashBytes, 7),
  tensors: [tensor('embed', 0, 8 * mib), tensor('norm', 8 * mib, 512), tensor('head', 10 * mib, 2 * mib)],
  sources: [{ path: 'model.safetensors', bytes: 11 * mib, sha256: 'b'.repeat(64) }],
};

describe('a manifest', () => {
  it('comes out as it went in', () => {
    expect(decodeManifest(encodeManifest(good))).toEqual(good);
  });

  it('keeps offsets beyond 2^32', () => {
    const bytes = 600 * 2 ** 30;
    const far = {
      ...good,
      bytes,
      chunkHashes: Buffer.alloc((bytes / weightsChunkBytes) * chunkHashBytes),
      tensors: [tensor('far', bytes - largePageBytes, largePageBytes)],
    };
    expect(decodeManifest(encodeManifest(far)).tensors[0]?.offset).toBe(bytes - largePageBytes);
  });

  it.each([
    ['of another version', { version: 2 }, 'version 2'],
    ['of a file that is no whole pages', { bytes: 12 * mib + 1 }, 'no whole pages'],
    ['with chunks of nothing', { chunkBytes: 0 }, 'chunks of 0 bytes'],
    ['with a hash too few', { chunkHashes: Buffer.alloc(chunkHashBytes) }, '8 bytes of hashes'],
    ['with tensors that overlap', { tensors: [good.tensors[0]!, tensor('x', 0, 2)] }, 'x begins in the one'],
    [
      'with a dtype that no loader has',
      { tensors: [{ ...tensor('x', 0, 2), dtype: 'F4' }] },
      'x has the dtype F4',
    ],
    ['with a large tensor off its page', { tensors: [tensor('x', 256, 2 * mib)] }, 'x is not aligned'],
    ['with a tensor beyond the file', { tensors: [tensor('x', 10 * mib, 4 * mib)] }, 'x ends beyond'],
  ])('%s is refused', (_, change, fault) => {
    expect(() => decodeManifest(encodeManifest({ ...good, ...change }))).toThrow(fault);
  });

  it('of other bytes is refused with the remedy', () => {
    expect(() => decodeManifest(Buffer.from('{"v": 1}'))).toThrow('delete the folder');
  });

  it('has a head that is read without its tensors, and refused as the whole is', () => {
    const { tensors, sources, ...head } = good;
    expect(decodeHead(encodeManifest(good))).toEqual(head);
    const overlapping = { ...good, tensors: [tensors[0]!, tensors[0]!], sources };
    expect(decodeHead(encodeManifest(overlapping))).toEqual(head);
    expect(() => decodeHead(encodeManifest({ ...good, version: 2 }))).toThrow('version 2');
    expect(() => decodeHead(encodeManifest({ ...good, chunkHashes: Buffer.alloc(8) }))).toThrow('hashes');
    expect(() => decodeHead(Buffer.from('{"v": 1}'))).toThrow('delete the folder');
  });

  it('lies beside the upstream files', () => {
    expect(gthreadFolder('org/name', 'c0ffee')).toBe('org--name/c0ffee.gthread-1');
  });

  it('has the dtypes that the loader has, of the same sizes', () => {
    const reader = readFileSync(new URL('../../../vllm/gthread/manifest.py', import.meta.url), 'utf8');
    const there = [...reader.matchAll(/^ {4}"(\w+)": \((\d+), "\w+"\),$/gm)].map(([, dtype, bytes]) => [
      dtype,
      Number(bytes),
    ]);
    expect(Object.fromEntries(there)).toEqual(weightsDtypeBytes);
  });

  it('has no more than the loader reads', () => {
    const reader = readFileSync(new URL('../../../vllm/gthread/manifest.py', import.meta.url), 'utf8');
    const limit = (name: string): number => {
      const [, factors = ''] = new RegExp(`^${name} = ([0-9_ *]+)$`, 'm').exec(reader) ?? [];
      return factors
        .replaceAll('_', '')
        .split('*')
        .reduce((so, factor) => so * Number(factor), 1);
    };
    const [bytes, tensors] = [limit('MANIFEST_BYTES_MAX'), limit('TENSORS_MAX')];
    expect([bytes, tensors, limit('DIMENSIONS_MAX'), limit('NAME_BYTES_MAX')]).toEqual([
      manifestBytesMax,
      tensorsMax,
      dimensionsMax,
      nameBytesMax,
    ]);
  });

  it('has as many bytes as are counted before it is made', () => {
    expect(manifestLength(good)).toBe(encodeManifest(good).length);
  });
});
