/** Sharded checkpoints with names and sizes of a small Llama's, for the conversion's tests. */
import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { decodeManifest } from '../../../proto/weights.ts';

export interface Tensor {
  name: string;
  dtype: string;
  shape: number[];
  data: Buffer;
}

const mib = 1024 * 1024;

/** A tensor of random bytes. */
export const tensor = (name: string, bytes: number): Tensor => ({
  name,
  dtype: 'BF16',
  shape: [bytes / 2],
  data: randomBytes(bytes),
});

/** A safetensors file; `header` and `length` replace what belongs there. */
export function shard(tensors: Tensor[], wrong: { header?: string; length?: bigint } = {}): Buffer {
  let end = 0;
  const entries = tensors.map(({ name, dtype, shape, data }) => {
    const begin = end;
    end += data.length;
    return [name, { dtype, shape, data_offsets: [begin, end] }] as const;
  });
  const header = Buffer.from(wrong.header ?? JSON.stringify(Object.fromEntries(entries)));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(wrong.length ?? BigInt(header.length));
  return Buffer.concat([length, header, ...tensors.map(({ data }) => data)]);
}

/** Two shards, their index, and large and small tensors out of the order of need. */
export function llama(): Map<string, Tensor[]> {
  const layer = (number: number) => [
    tensor(`model.layers.${number}.input_layernorm.weight`, 512),
    tensor(`model.layers.${number}.mlp.down_proj.weight`, 3 * mib),
    tensor(`model.layers.${number}.mlp.up_proj.weight`, 300_000),
    tensor(`model.layers.${number}.self_attn.o_proj.weight`, 700_002),
  ];
  return new Map([
    [
      'model-00001-of-00002.safetensors',
      [tensor('lm_head.weight', 2 * mib + 2), ...layer(10), tensor('model.norm.weight', 2)],
    ],
    ['model-00002-of-00002.safetensors', [...layer(2), tensor('model.embed_tokens.weight', 2 * mib)]],
  ]);
}

/** Writes shards and index into a folder of the hub's. */
export function writeCheckpoint(folder: string, shards: Map<string, Tensor[]>): void {
  mkdirSync(folder, { recursive: true });
  const map: Record<string, string> = {};
  for (const [path, tensors] of shards) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), shard(tensors));
    for (const { name } of tensors) map[name] = path;
  }
  writeFileSync(join(folder, 'model.safetensors.index.json'), JSON.stringify({ weight_map: map }));
}

const isZero = (bytes: Buffer): boolean => bytes.equals(Buffer.alloc(bytes.length));

/** What is wrong in a published form of these shards; nothing when each tensor is there, byte by byte, and else zeros. */
export function faultsOf(form: string, shards: Map<string, Tensor[]>): string[] {
  const manifest = decodeManifest(readFileSync(join(form, 'manifest.pb')));
  const weights = readFileSync(join(form, 'weights'));
  const wanted = new Map([...shards.values()].flat().map((one) => [one.name, one]));
  const faults: string[] = [];
  let end = 0;
  for (const { name, offset, bytes, shape, dtype } of manifest.tensors) {
    const source = wanted.get(name);
    if (!source?.data.equals(weights.subarray(offset, offset + bytes)))
      faults.push(`${name} has other bytes`);
    if (source?.dtype !== dtype || String(source.shape) !== String(shape))
      faults.push(`${name} has another shape`);
    if (!isZero(weights.subarray(end, offset))) faults.push(`no zeros before ${name}`);
    end = offset + bytes;
    wanted.delete(name);
  }
  if (!isZero(weights.subarray(end))) faults.push('no zeros at the end');
  if (weights.length !== manifest.bytes) faults.push('another length');
  return [...faults, ...[...wanted.keys()].map((name) => `${name} is missing`)];
}
