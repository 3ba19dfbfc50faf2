/** Upstream models as a hub has them: made here for the simulated engine, random Llamas for the real one; and their tensors, read anew. */
import { createCipheriv, createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, readdir, rename, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { randomModel } from '../../hack/installation/vllm.ts';
import { type ModelName, models } from './plan.ts';

export interface Tensor {
  dtype: string;
  shape: number[];
  /** Of its file, and where in it. */
  file: string;
  at: number;
  bytes: number;
}

export interface Upstream {
  model: ModelName;
  folder: string;
  /** sha256 by path, hex. */
  files: Map<string, string>;
  tensors: Map<string, Tensor>;
}

/** Of the real engine's models, 10^9 bytes: so much more than an engine's own memory that a sleep frees more than half. */
const realGigabytes = 1.2;
const layers = 8;
const dtypeBytes = 2;
/** Two files of some 24 MiB: tensors smaller and larger than a large page, of odd sizes, and not in order of need. */
const shapes: Record<string, number[]> = {
  'self_attn.q_proj.weight': [1024, 1031],
  'mlp.down_proj.weight': [1024, 2048],
  'input_layernorm.weight': [777],
};

/** Bytes that no other place of any model has. */
function noise(name: string, bytes: number): Buffer {
  const key = createHash('sha256').update(name).digest();
  const cipher = createCipheriv('aes-256-ctr', key, Buffer.alloc(16));
  return cipher.update(Buffer.alloc(bytes));
}

function safetensors(model: string, tensors: [string, number[]][]): Buffer {
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } };
  const parts: Buffer[] = [];
  let at = 0;
  for (const [name, shape] of tensors) {
    const bytes = shape.reduce((product, size) => product * size, dtypeBytes);
    header[name] = { dtype: 'BF16', shape, data_offsets: [at, at + bytes] };
    parts.push(noise(`${model} ${name}`, bytes));
    at += bytes;
  }
  const json = Buffer.from(JSON.stringify(header));
  const padded = Buffer.concat([json, Buffer.alloc((8 - (json.length % 8)) % 8, ' ')]);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  return Buffer.concat([length, padded, ...parts]);
}

/** @param folder where the hub looks for `org/<model>` */
async function makeSimulated(folder: string, model: ModelName): Promise<void> {
  const path = join(folder, 'org', model);
  await mkdir(path, { recursive: true });
  const names = Array.from({ length: layers }, (_, layer) =>
    Object.entries(shapes).map(([name, shape]): [string, number[]] => [
      `model.layers.${layer}.${name}`,
      shape,
    ]),
  ).flat();
  const half = names.length / 2;
  const files: [string, [string, number[]][]][] = [
    ['model-00001-of-00002.safetensors', [['lm_head.weight', [512, 1024]], ...names.slice(half).reverse()]],
    [
      'model-00002-of-00002.safetensors',
      [...names.slice(0, half), ['model.embed_tokens.weight', [515, 1024]]],
    ],
  ];
  const weightMap: Record<string, string> = {};
  for (const [file, tensors] of files) {
    await writeFile(join(path, file), safetensors(model, tensors));
    for (const [name] of tensors) weightMap[name] = file;
  }
  const config = { architectures: ['LlamaForCausalLM'], model_type: 'llama', max_position_embeddings: 4096 };
  await writeFile(join(path, 'config.json'), JSON.stringify(config));
  await writeFile(join(path, 'tokenizer.json'), '{"version": "1.0"}');
  await writeFile(
    join(path, 'model.safetensors.index.json'),
    JSON.stringify({ metadata: {}, weight_map: weightMap }),
  );
}

/** Makes them once: a folder that exists is whole. @param python of a vLLM, for the real engine's models; null for the simulated one's */
export async function makeUpstreams(folder: string, python: string | null): Promise<void> {
  if (await stat(folder).catch(() => null)) return;
  const making = `${folder}.${process.pid}`;
  await mkdir(join(making, 'org'), { recursive: true });
  for (const [index, model] of models.entries()) {
    if (!python) await makeSimulated(making, model);
    else await symlink(await randomModel(python, realGigabytes, index + 1), join(making, 'org', model));
  }
  await rename(making, folder).catch(() => rm(making, { recursive: true }));
}

export async function sha256Of(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

interface Header {
  [name: string]: { dtype: string; shape: number[]; data_offsets: [number, number] };
}

async function readHeader(path: string): Promise<{ header: Header; dataAt: number }> {
  const file = await open(path, 'r');
  try {
    const length = Buffer.alloc(8);
    await file.read(length, 0, 8, 0);
    const json = Buffer.alloc(Number(length.readBigUInt64LE()));
    await file.read(json, 0, json.length, 8);
    return { header: JSON.parse(json.toString()) as Header, dataAt: 8 + json.length };
  } finally {
    await file.close();
  }
}

/** @param folder as the hub has it */
export async function readUpstream(folder: string, model: ModelName): Promise<Upstream> {
  const path = join(folder, 'org', model);
  const upstream: Upstream = { model, folder: path, files: new Map(), tensors: new Map() };
  for (const file of await readdir(path)) {
    upstream.files.set(file, await sha256Of(join(path, file)));
    if (!file.endsWith('.safetensors')) continue;
    const { header, dataAt } = await readHeader(join(path, file));
    for (const [name, { dtype, shape, data_offsets: offsets }] of Object.entries(header)) {
      if (name === '__metadata__') continue;
      const [begin, end] = offsets;
      upstream.tensors.set(name, { dtype, shape, file, at: dataAt + begin, bytes: end - begin });
    }
  }
  return upstream;
}
