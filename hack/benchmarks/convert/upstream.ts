/** A published commit as a fetch leaves it: shards of random bytes with the shapes of Llama 3.2 1B, and their manifest. */
import { createHash, randomFillSync } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';

export const modelName = 'bench/llama';
export const commit = 'b'.repeat(40);
const hidden = 2048;
const shards = 4;
const blockBytes = 8 * 1024 * 1024;

type Shape = readonly [string, number[]];
const elementBytes = 2;
const bytesOf = ([, shape]: Shape): number => shape.reduce((so, size) => so * size, elementBytes);

const layer = (number: number): Shape[] =>
  (
    [
      ['input_layernorm', [hidden]],
      ['mlp.down_proj', [hidden, 8192]],
      ['mlp.gate_proj', [8192, hidden]],
      ['mlp.up_proj', [8192, hidden]],
      ['post_attention_layernorm', [hidden]],
      ['self_attn.k_proj', [512, hidden]],
      ['self_attn.o_proj', [hidden, hidden]],
      ['self_attn.q_proj', [hidden, hidden]],
      ['self_attn.v_proj', [512, hidden]],
    ] as const
  ).map(([name, shape]) => [`model.layers.${number}.${name}.weight`, [...shape]] as const);

/** Layers until the size is reached, in the shards as upstream has them: embeddings first. */
function shapesOf(bytes: number): Shape[] {
  const shapes: Shape[] = [
    ['model.embed_tokens.weight', [128_256, hidden]],
    ['model.norm.weight', [hidden]],
  ];
  let have = shapes.reduce((sum, shape) => sum + bytesOf(shape), 0);
  for (let number = 0; have < bytes; number++) {
    for (const shape of layer(number)) {
      shapes.push(shape);
      have += bytesOf(shape);
    }
  }
  return shapes;
}

async function writeShard(
  path: string,
  shapes: readonly Shape[],
): Promise<{ bytes: number; sha256: string }> {
  let end = 0;
  const header: Record<string, unknown> = {};
  for (const shape of shapes) {
    const begin = end;
    end += bytesOf(shape);
    header[shape[0]] = { dtype: 'BF16', shape: shape[1], data_offsets: [begin, end] };
  }
  const json = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  const file = await open(path, 'w');
  const hash = createHash('sha256');
  const write = async (bytes: Uint8Array): Promise<void> => {
    hash.update(bytes);
    await file.write(bytes);
  };
  await write(Buffer.concat([length, json]));
  const block = Buffer.allocUnsafe(blockBytes);
  for (let left = end; left > 0; left -= blockBytes) {
    await write(randomFillSync(block).subarray(0, Math.min(left, blockBytes)));
  }
  await file.sync();
  await file.close();
  return { bytes: 8 + json.length + end, sha256: hash.digest('hex') };
}

/** @param bytes at least so many; @returns the folder and its files, with their sizes */
export async function makeUpstream(
  modelsDir: string,
  bytes: number,
): Promise<{ folder: string; files: { path: string; bytes: number }[] }> {
  const folder = join(modelsDir, 'bench--llama', commit);
  mkdirSync(folder, { recursive: true });
  const shapes = shapesOf(bytes);
  const perShard = Math.ceil(shapes.length / shards);
  const files: { path: string; bytes: number; sha256: string }[] = [];
  for (let shard = 0; shard * perShard < shapes.length; shard++) {
    const path = `model-${shard + 1}-of-${shards}.safetensors`;
    const own = shapes.slice(shard * perShard, (shard + 1) * perShard);
    files.push({ path, ...(await writeShard(join(folder, path), own)) });
  }
  const manifest = {
    v: 1,
    modelName,
    revision: commit,
    commit,
    bytes: files.reduce((sum, file) => sum + file.bytes, 0),
    fetchedAt: new Date(0).toISOString(),
    files,
  };
  writeFileSync(join(folder, '.greenthread.json'), JSON.stringify(manifest));
  return { folder, files };
}
