/** The layout for DMA: every tensor once, on its boundary, in order of need, with little lost between. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formManifest, requireReadable } from '../../../converter/decide/form-manifest.ts';
import { chunks, chunksOf, layOut } from '../../../converter/decide/layout.ts';
import type { SourceTensor } from '../../../converter/decide/safetensors.ts';
import { alignmentOf, largePageBytes, weightsChunkBytes } from '../../../proto/weights.ts';

const mib = 1024 * 1024;
const tensors = (...sizes: [string, number][]): SourceTensor[] => {
  let position = 100;
  return sizes.map(([name, bytes]) => {
    position += bytes;
    return { name, dtype: 'U8', shape: [bytes], path: 'm', position: position - bytes, bytes };
  });
};
const placed = (...sizes: [string, number][]) =>
  layOut(tensors(...sizes)).tensors.map(({ tensor, offset }) => [tensor.name, offset]);

const anyTensors = fc
  .uniqueArray(
    fc.tuple(
      fc.constantFrom('model.layers.', 'model.h.', 'lm_head', 'model.embed_tokens', 'visual.blocks.'),
      fc.nat(30),
      fc.nat(99),
    ),
    { maxLength: 30, selector: String },
  )
  .chain((names) =>
    fc.tuple(
      ...names.map(([prefix, number, part]) =>
        fc
          .oneof(
            fc.nat(2000),
            fc.integer({ min: mib, max: 5 * mib }),
            fc.constant(2 * mib),
            fc.constant(20 * mib),
          )
          .map((bytes): [string, number] => [`${prefix}${number}.${part}`, bytes]),
      ),
    ),
  );

describe('the layout', () => {
  it('begins with embeddings, goes on with layers by number, ends with the rest', () => {
    expect(
      placed(
        ['lm_head.weight', 2 * mib],
        ['model.layers.10.a', 2 * mib],
        ['model.layers.2.a', 2 * mib],
        ['model.norm.weight', 10],
        ['model.embed_tokens.weight', 2 * mib],
      ),
    ).toEqual([
      ['model.embed_tokens.weight', 0],
      ['model.layers.2.a', 2 * mib],
      ['model.layers.10.a', 4 * mib],
      ['lm_head.weight', 6 * mib],
      ['model.norm.weight', 8 * mib],
    ]);
  });

  it('puts small tensors of a layer into the gaps of its large ones', () => {
    expect(
      placed(
        ['layers.0.a.scale', 1000],
        ['layers.0.a.weight', 3 * mib],
        ['layers.0.b.scale', 1000],
        ['layers.0.b.weight', 3 * mib],
      ),
    ).toEqual([
      ['layers.0.a.weight', 0],
      ['layers.0.a.scale', 3 * mib],
      ['layers.0.b.scale', 3 * mib + 1024],
      ['layers.0.b.weight', 4 * mib],
    ]);
  });

  it('has each tensor once, aligned, apart from the others, and ends on a page', () => {
    fc.assert(
      fc.property(anyTensors, (sizes) => {
        const { tensors: found, bytes } = layOut(tensors(...sizes));
        expect(found.map(({ tensor }) => tensor.name).sort()).toEqual(sizes.map(([name]) => name).sort());
        let end = 0;
        for (const one of found) {
          expect(one.offset % alignmentOf(one.tensor.bytes)).toBe(0);
          expect(one.offset).toBeGreaterThanOrEqual(end);
          end = one.offset + one.tensor.bytes;
        }
        expect(bytes % largePageBytes).toBe(0);
        expect(bytes - end).toBeLessThan(largePageBytes);
      }),
      { numRuns: 300 },
    );
  });

  it('is the same whatever the order of the files', () => {
    fc.assert(
      fc.property(anyTensors, (sizes) => {
        const source = tensors(...sizes);
        expect(layOut([...source].reverse())).toEqual(layOut(source));
      }),
    );
  });

  it('is cut into chunks that hold every byte once, from whichever chunk one goes on', () => {
    fc.assert(
      fc.property(anyTensors, fc.nat(5), (sizes, first) => {
        const layout = layOut(tensors(...sizes));
        const covered = new Map<string, number>();
        for (const chunk of chunks(layout)) {
          let end = 0;
          for (const { path, position, at, bytes } of chunk.pieces) {
            expect(at).toBeGreaterThanOrEqual(end);
            end = at + bytes;
            const key = `${path} ${chunk.index * weightsChunkBytes + at - position}`;
            covered.set(key, (covered.get(key) ?? 0) + bytes);
          }
          expect(end).toBeLessThanOrEqual(chunk.bytes);
        }
        const total = [...covered.values()].reduce((sum, bytes) => sum + bytes, 0);
        expect(total).toBe(sizes.reduce((sum, [, bytes]) => sum + bytes, 0));
        for (const { offset, tensor } of layout.tensors)
          expect(covered.get(`${tensor.path} ${offset - tensor.position}`) ?? 0).toBeGreaterThanOrEqual(
            tensor.bytes,
          );
        const all = [...chunks(layout)];
        expect(all).toHaveLength(chunksOf(layout.bytes));
        expect([...chunks(layout, first)]).toEqual(all.slice(first));
      }),
      { numRuns: 200 },
    );
  });
});

describe('the manifest', () => {
  const of = (count: number, nameBytes: number) => {
    const name = 'n'.repeat(nameBytes);
    const some = Array.from({ length: count }, (_, at) => ({
      tensor: { name, dtype: 'U8', shape: [1], path: 'm', position: at, bytes: 1 },
      offset: 256 * at,
    }));
    const layout = { tensors: some, bytes: 128 * mib };
    return formManifest({ modelName: 'org/m', commit: 'c0ffee', layout, sources: [] });
  };

  it('that would be longer than is read is refused before the weights are written', () => {
    expect(() => requireReadable(of(66_000, 4096))).toThrow(/^names and .*spec\.loadFormat to auto$/);
    requireReadable(of(66_000, 400));
  });
});
