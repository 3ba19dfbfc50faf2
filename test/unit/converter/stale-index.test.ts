/** Which tensors of the shards are converted: those that vLLM would load, whatever the index says of their names; and not too many. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { FetchFailure } from '../../../converter/decide/failures.ts';
import { readCheckpoint } from '../../../converter/observe/safetensors.ts';
import { shard, type Tensor, tensor } from './checkpoint.ts';

const made: string[] = [];
afterEach(() => {
  for (const folder of made.splice(0)) rmSync(folder, { recursive: true, force: true });
});

/** Shards m-1, m-2, …; what is null is listed and not there. */
function folder(shards: (Tensor[] | null)[], map?: Record<string, string>) {
  const path = mkdtempSync(join(tmpdir(), 'gt-index-'));
  made.push(path);
  const contents = shards.map((tensors, at): [string, Buffer | null] => [
    `m-${at + 1}.safetensors`,
    tensors && shard(tensors),
  ]);
  if (map) contents.push(['model.safetensors.index.json', Buffer.from(JSON.stringify({ weight_map: map }))]);
  for (const [name, bytes] of contents) if (bytes) writeFileSync(join(path, name), bytes);
  const files = contents.map(([name, bytes]) => ({ path: name, bytes: bytes?.length ?? 100 }));
  return (most?: Parameters<typeof readCheckpoint>[2]) => readCheckpoint(path, files, most);
}

describe('an index that disagrees with its files', () => {
  it('tells the set of files alone: other names are converted as they are, and that is said', async () => {
    const read = folder([[tensor('l.qweight', 4)], [tensor('l.scales', 2)], [tensor('not.named', 2)]], {
      'l.weight': 'm-1.safetensors',
      'l.scales': 'm-1.safetensors',
      'l.bias': 'm-2.safetensors',
    });
    const { tensors, warning } = await read();
    expect(tensors.map(({ name, path }) => [name, path])).toEqual([
      ['l.qweight', 'm-1.safetensors'],
      ['l.scales', 'm-2.safetensors'],
    ]);
    expect(warning).toBe(
      'model.safetensors.index.json names 3 tensors that its files have not, or elsewhere, first "l.weight": as vLLM does, every tensor of its files was taken',
    );
  });

  it('and agrees says nothing', async () => {
    const read = folder([[tensor('a', 4)]], { a: 'm-1.safetensors' });
    expect((await read()).warning).toBeNull();
  });
});

describe('a tensor in two files', () => {
  it('is that of the last, as vLLM loads them one after the other', async () => {
    const read = folder([[tensor('a', 4), tensor('b', 2)], [tensor('a', 4)]]);
    const { tensors, warning } = await read();
    expect(tensors.map(({ name, path }) => [name, path])).toEqual([
      ['a', 'm-2.safetensors'],
      ['b', 'm-1.safetensors'],
    ]);
    expect(warning).toBe('1 tensors are in two files, first "a": as vLLM does, the last file\'s was taken');
  });

  it('of two shapes is refused', async () => {
    await expect(folder([[tensor('a', 4)], [tensor('a', 6)]])()).rejects.toThrow(
      'm-2.safetensors: tensor "a" is in m-1.safetensors too, with another shape',
    );
  });
});

describe('headers beyond the limits', () => {
  const few = { tensors: 3, headerBytes: 1000 };
  const read = (shards: (Tensor[] | null)[], most: typeof few) =>
    folder(shards)(most).then(
      () => null,
      (error: unknown) => (error instanceof FetchFailure ? `${error.reason}: ${error.message}` : error),
    );
  const two = (name: string) => [tensor(`${name}0`, 2), tensor(`${name}1`, 2)];

  it('end the reading at the file that goes beyond: of its tensors none is made, the next file is not opened', async () => {
    expect(await read([two('a'), two('b'), null], few)).toMatch(
      /^NotConvertible: the model has more than 3 tensors.*spec\.loadFormat to auto$/,
    );
    expect(await read([two('a'), two('b'), null], { ...few, tensors: 9, headerBytes: 200 })).toMatch(
      /^NotConvertible: the headers of the model's files have more than 200 bytes.*spec\.loadFormat to auto$/,
    );
  });

  it('are none where they are just reached, one tensor twice counted twice', async () => {
    expect(await read([two('a'), [tensor('b', 2)]], few)).toBeNull();
    expect(await read([two('a'), two('a')], few)).toMatch(/^NotConvertible/);
  });
});
