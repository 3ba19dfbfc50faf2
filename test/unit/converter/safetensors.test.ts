/** Safetensors are read strictly: every lie of a header is found, and named with its file, its tensor and what to do. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FetchFailure } from '../../../converter/decide/failures.ts';
import { headerBytesMax, headerLength, parseHeader } from '../../../converter/decide/safetensors.ts';
import { chooseShards, parseIndex } from '../../../converter/decide/shards.ts';
import { shard, tensor } from './checkpoint.ts';

const parse = (bytes: Buffer) => {
  const file = { path: 'm.safetensors', bytes: bytes.length };
  return parseHeader(bytes.subarray(8, 8 + headerLength(bytes.subarray(0, 8), file)), file, 9)!;
};
function failure(call: () => unknown): FetchFailure {
  try {
    call();
  } catch (error) {
    if (error instanceof FetchFailure) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}
const at = (...offsets: unknown[]) => ({ dtype: 'U8', shape: [4], data_offsets: offsets });
const file = (header: unknown, dataBytes = 4) =>
  shard([{ name: '', dtype: '', shape: [], data: Buffer.alloc(dataBytes) }], {
    header: typeof header === 'string' ? header : JSON.stringify(header),
  });

describe('a safetensors header', () => {
  it('is read with positions in the file, in the order of the bytes', () => {
    const bytes = shard([tensor('b', 8), tensor('a', 4)]);
    const begin = bytes.length - 12;
    expect(parse(bytes).map(({ name, position, bytes: size }) => [name, position, size])).toEqual([
      ['b', begin, 8],
      ['a', begin + 8, 4],
    ]);
  });

  it.each([
    ['an empty tensor', { a: { dtype: 'F32', shape: [0, 2 ** 40], data_offsets: [0, 0] }, b: at(0, 4) }],
    ['a scalar', { a: { dtype: 'F32', shape: [], data_offsets: [0, 4] } }],
    ['metadata', { __metadata__: { format: 'pt' }, a: at(0, 4) }],
    ['a colon and a brace in a name', { 'a:{"': at(0, 4) }],
    ['a name of 4096 bytes', { ['é'.repeat(2048)]: at(0, 4) }],
  ])('may have %s', (_, header) => {
    expect(parse(file(header)).length).toBeGreaterThan(0);
  });

  it.each([
    ['of a file too short', Buffer.from('short'), 'too short'],
    [
      'that claims more than the format allows',
      shard([], { length: BigInt(headerBytesMax + 1) }),
      'more than',
    ],
    ['that claims 2^64 - 1 bytes', shard([], { length: 2n ** 64n - 1n }), 'more than'],
    ['longer than the file', shard([], { length: 1000n }), 'ends beyond the file'],
    ['that is no JSON', file('{"a": '), 'no JSON'],
    ['that is not UTF-8', shard([], { header: '{"\u0000\ufffd' }), 'no JSON'],
    ['that is a list', file('[]'), 'no JSON object'],
    ['behind spaces', file(` ${JSON.stringify({ a: at(0, 4) })}`), 'no JSON object'],
    ['with a name twice', file(`{"a":${JSON.stringify(at(0, 4))},"a":${JSON.stringify(at(0, 4))}}`), 'twice'],
    ['with metadata that is no text', file({ __metadata__: { a: 1 }, b: at(0, 4) }), '__metadata__'],
    [
      'with a name of half a character',
      file('{"\\ud800":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'),
      'no text',
    ],
    ['with an entry of null', file({ a: null }), 'tensor "a" has no dtype'],
    ['without a shape', file({ a: { dtype: 'U8', data_offsets: [0, 4] } }), 'tensor "a" has no shape'],
    ['with a dimension below 0', file({ a: { ...at(0, 4), shape: [-4] } }), 'has no shape of whole'],
    ['with an offset below 0', file({ a: at(-4, 0) }), 'no data_offsets'],
    ['with one offset', file({ a: at(0) }), 'no data_offsets'],
    ['with a fraction', file({ a: at(0, 3.5) }), 'no data_offsets'],
    ['with an end before its beginning', file({ a: at(4, 0) }), 'ends before it begins'],
    ['with a tensor beyond the file', file({ a: at(0, 4), b: at(4, 8) }), 'tensor "b" ends beyond'],
    ['with a shape of other bytes', file({ a: { ...at(0, 4), dtype: 'F32' } }), 'tensor "a" has 4 bytes'],
    ['with a product beyond 2^53', file({ a: { ...at(0, 4), shape: [2 ** 40, 2 ** 40] } }), 'has 4 bytes'],
    ['with an overlap', file({ a: at(0, 4), b: at(2, 6) }, 6), 'tensor "b" overlaps "a"'],
    ['with a hole', file({ a: at(0, 4), b: at(6, 10) }, 10), '2 bytes before tensor "b" belong to none'],
    ['with bytes left over', file({ a: at(0, 4) }, 7), 'last 3 bytes'],
  ])('%s is refused', (_, bytes, words) => {
    const { reason, message } = failure(() => parse(bytes));
    expect(reason).toBe('BadWeights');
    expect(message).toContain(words);
    expect(message).toMatch(/^m\.safetensors: .*choose another spec\.revision$/);
  });

  it.each([
    ['of less than a byte', 'F4', [8]],
    ['of less than a byte, in whole ones', 'F6_E2M3', [4]],
    ['of a later time', 'constructor', [4]],
  ])('with a dtype that the loader has not (%s) says to do without', (_, dtype, shape) => {
    expect(failure(() => parse(file({ a: { ...at(0, 4), dtype, shape } })))).toMatchObject({
      reason: 'NotConvertible',
      message: expect.stringMatching(
        `^m.safetensors: tensor "a" has the dtype "${dtype}".*set spec.loadFormat to auto$`,
      ),
    });
  });

  it.each([
    ['a name of 4098 bytes in 2049 characters', { ['é'.repeat(2049)]: at(0, 4) }, '4098 bytes'],
    ['17 dimensions', { a: { ...at(0, 4), shape: [4, ...Array(16).fill(1)] } }, '17 dimensions'],
  ])('with %s, which the loader does not read, says to do without', (_, header, words) => {
    expect(failure(() => parse(file(header)))).toMatchObject({
      reason: 'NotConvertible',
      message: expect.stringMatching(`${words}.*set spec.loadFormat to auto$`),
    });
  });

  it('of random bytes throws nothing but a refusal', () => {
    const good = shard([tensor('model.layers.0.weight', 64), tensor('lm_head.weight', 16)]);
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(good.length - 81), fc.integer({ min: 0, max: 255 })), { maxLength: 4 }),
        (changes) => {
          const bytes = Buffer.from(good);
          for (const [index, value] of changes) bytes[index] = value;
          try {
            for (const { position, bytes: size } of parse(bytes))
              expect(position + size).toBeLessThanOrEqual(bytes.length);
          } catch (error) {
            expect(error).toBeInstanceOf(FetchFailure);
          }
        },
      ),
      { numRuns: 2000 },
    );
  });
});

describe('of the fetched files', () => {
  const files = (...paths: string[]) => paths.map((path) => ({ path, bytes: 8 }));
  const chosen = (paths: string[], map: Record<string, string> | null = null) =>
    chooseShards(files(...paths), map && new Map(Object.entries(map))).map(({ path }) => path);

  it('those of the index are converted', () => {
    const paths = ['a.safetensors', 'b.safetensors', 'consolidated.safetensors'];
    expect(chosen(paths, { x: 'a.safetensors', y: 'b.safetensors' })).toEqual([
      'a.safetensors',
      'b.safetensors',
    ]);
  });

  it("without an index all of the top folder are, Mistral's double left out", () => {
    expect(chosen(['model.safetensors', 'consolidated.safetensors', 'vae/x.safetensors'])).toEqual([
      'model.safetensors',
    ]);
    expect(chosen(['consolidated.safetensors'])).toEqual(['consolidated.safetensors']);
  });

  it('none that can be converted is said with the remedy', () => {
    expect(failure(() => chosen(['pytorch_model.bin']))).toMatchObject({
      reason: 'NotConvertible',
      message: expect.stringContaining('set spec.loadFormat to auto'),
    });
  });

  it.each([
    ['an index that is no JSON', '{', 'no JSON'],
    ['an index without a map', '{}', 'no weight_map'],
    ['an index with a number for a file', '{"weight_map": {"a": 1}}', 'tensor "a" has no file'],
  ])('%s is refused', (_, text, words) => {
    expect(failure(() => parseIndex(text)).message).toContain(words);
  });

  it('one of the index that is not there is refused', () => {
    expect(failure(() => chosen(['a.safetensors'], { x: 'b.safetensors' })).message).toContain(
      '"b.safetensors"',
    );
  });

  it('come in the order of vLLM, by their numbers', () => {
    expect(chosen(['m-10.safetensors', 'm-9.safetensors', 'm-9-b.safetensors'])).toEqual([
      'm-9-b.safetensors',
      'm-9.safetensors',
      'm-10.safetensors',
    ]);
  });
});
