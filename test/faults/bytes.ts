/** Whether what lies on disk and in the pool is, byte by byte, what the upstream has. Each answers with what is wrong; null: nothing. */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { type FileHandle, open, readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { xxh64 } from '@node-rs/xxhash';
import { chunkHashBytes, decodeManifest, type WeightsManifest, weightsFiles } from '#proto/weights.ts';
import { sha256Of, type Upstream } from './upstream.ts';

/** The fetch's own file in a published folder. */
const fetchManifest = '.greenthread.json';
const stagedStates = ['under way', 'whole', 'failed'];
/** Read at once, bytes. */
const pieceBytes = 4 << 20;

/** Of a published commit: all files, no other, each with the upstream's hash. */
export async function publishedFault(upstream: Upstream, folder: string): Promise<string | null> {
  const names = (await readdir(folder)).filter((name) => name !== fetchManifest).sort();
  const wanted = [...upstream.files.keys()].sort();
  if (names.join() !== wanted.join())
    return `${folder} has ${names.join(', ')}, the upstream ${wanted.join(', ')}`;
  for (const [path, hash] of upstream.files)
    if ((await sha256Of(join(folder, path))) !== hash)
      return `${folder}/${path} has another sha256 than upstream`;
  return null;
}

async function readExactly(file: FileHandle, into: Buffer, position: number): Promise<void> {
  for (let have = 0; have < into.length; ) {
    const { bytesRead } = await file.read(into, have, into.length - have, position + have);
    if (bytesRead === 0) throw new Error(`the file ends at byte ${position + have}`);
    have += bytesRead;
  }
}

/** Where two pieces of files differ; null: nowhere. */
async function difference(
  one: { file: FileHandle; at: number },
  other: { file: FileHandle; at: number },
  bytes: number,
): Promise<number | null> {
  const buffers = [Buffer.alloc(pieceBytes), Buffer.alloc(pieceBytes)] as const;
  for (let done = 0; done < bytes; done += pieceBytes) {
    const [a, b] = buffers.map((buffer) => buffer.subarray(0, Math.min(pieceBytes, bytes - done)));
    await readExactly(one.file, a!, one.at + done);
    await readExactly(other.file, b!, other.at + done);
    if (Buffer.compare(a!, b!) !== 0) return done;
  }
  return null;
}

/** Bytes that belong to no tensor are zero. */
async function gapFault(file: FileHandle, from: number, to: number): Promise<string | null> {
  for (let at = from; at < to; at += pieceBytes) {
    const buffer = Buffer.alloc(Math.min(pieceBytes, to - at));
    await readExactly(file, buffer, at);
    if (buffer.some((byte) => byte !== 0)) return `the gap at byte ${at} is not zero`;
  }
  return null;
}

/** Every tensor of the upstream, once, with its bytes; zeros between. */
async function tensorsFault(
  upstream: Upstream,
  manifest: WeightsManifest,
  weights: FileHandle,
): Promise<string | null> {
  const left = new Map(upstream.tensors);
  const files = new Map<string, FileHandle>();
  let end = 0;
  try {
    for (const name of upstream.files.keys())
      if (name.endsWith('.safetensors')) files.set(name, await open(join(upstream.folder, name), 'r'));
    for (const { name, dtype, shape, offset, bytes } of manifest.tensors) {
      const wanted = left.get(name);
      left.delete(name);
      const gap = await gapFault(weights, end, offset);
      end = offset + bytes;
      if (gap) return gap;
      if (!wanted || wanted.dtype !== dtype || wanted.shape.join() !== shape.join() || wanted.bytes !== bytes)
        return `tensor ${name} is not the upstream's`;
      const source = { file: files.get(wanted.file)!, at: wanted.at };
      const at = await difference(source, { file: weights, at: offset }, bytes);
      if (at !== null) return `tensor ${name} differs within the ${pieceBytes} bytes from byte ${at}`;
    }
    if (left.size > 0) return `tensors are missing: ${[...left.keys()].join(', ')}`;
    return gapFault(weights, end, manifest.bytes);
  } finally {
    for (const file of files.values()) await file.close();
  }
}

/** Whether the first `bytes` of a file have the manifest's hashes, chunk by chunk; a last chunk that is cut off is not looked at. */
async function chunksFault(
  file: FileHandle,
  manifest: WeightsManifest,
  bytes: number,
): Promise<string | null> {
  const { chunkBytes, chunkHashes } = manifest;
  const hashes = Buffer.from(chunkHashes);
  for (let chunk = 0; chunk * chunkBytes < bytes; chunk++) {
    const at = chunk * chunkBytes;
    const buffer = Buffer.alloc(Math.min(chunkBytes, manifest.bytes - at));
    if (at + buffer.length > bytes) break;
    await readExactly(file, buffer, at);
    if (xxh64(buffer) !== hashes.readBigUInt64LE(chunk * chunkHashBytes))
      return `chunk ${chunk} has another hash than the manifest`;
  }
  return null;
}

/** Of a published gthread form. */
export async function formFault(upstream: Upstream, folder: string): Promise<string | null> {
  const manifest = decodeManifest(await readFile(join(folder, weightsFiles.manifest)));
  const names = (await readdir(folder)).sort().join();
  if (names !== [weightsFiles.manifest, weightsFiles.weights].sort().join())
    return `${folder} holds ${names}`;
  const weights = await open(join(folder, weightsFiles.weights), 'r');
  try {
    const { size } = await weights.stat();
    if (size !== manifest.bytes) return `${folder} has ${size} bytes, its manifest says ${manifest.bytes}`;
    const fault =
      (await tensorsFault(upstream, manifest, weights)) ?? (await chunksFault(weights, manifest, size));
    return fault && `${folder}: ${fault}`;
  } finally {
    await weights.close();
  }
}

/** Of what is staged: whatever the watermark calls there has its hashes. Nothing staged is no fault. */
export async function stagedFault(staged: string, form: string): Promise<string | null> {
  if (!existsSync(join(staged, weightsFiles.weights)) || !existsSync(form)) return null;
  const progress = await readFile(join(staged, 'progress'));
  const filled = Number(progress.readBigUInt64LE(0));
  const state = stagedStates[Number(progress.readBigUInt64LE(8))];
  const manifest = decodeManifest(await readFile(join(form, weightsFiles.manifest)));
  if (state === undefined || state === 'failed') return `${staged} is ${state ?? 'in no known state'}`;
  if (state === 'whole' && filled !== manifest.bytes)
    return `${staged} is whole with ${filled} of ${manifest.bytes} bytes`;
  const hash = createHash('sha256').update(manifest.chunkHashes).digest('hex');
  if (filled > 0 && (await readFile(join(staged, 'form.sha256'), 'latin1')) !== hash)
    return `${staged} is of another form than the disk's`;
  const weights = await open(join(staged, weightsFiles.weights), 'r');
  try {
    const { size } = await weights.stat();
    if (size !== manifest.bytes) return `${staged} has ${size} bytes, the form ${manifest.bytes}`;
    const fault = await chunksFault(weights, manifest, filled);
    return fault && `${staged}: ${fault} though the watermark is ${filled}`;
  } finally {
    await weights.close();
  }
}

/** The watermark, bytes; 0 when nothing is staged. */
export function stagedBytes(staged: string): number {
  try {
    return Number(readFileSync(join(staged, 'progress')).readBigUInt64LE(0));
  } catch {
    return 0;
  }
}

/** `whole`, `under way`, `failed`; null when nothing is staged. */
export async function stagedState(staged: string): Promise<string | null> {
  const progress = await readFile(join(staged, 'progress')).catch(() => null);
  return progress && (stagedStates[Number(progress.readBigUInt64LE(8))] ?? 'failed');
}

/** What an interrupted work left where only finished work belongs. */
export async function leftovers(
  modelsDir: string,
  poolDir: string,
  podUids: readonly string[],
): Promise<string[]> {
  const found: string[] = [];
  const incoming = join(modelsDir, '.incoming');
  if (await stat(incoming).catch(() => null))
    // One that was killed once all was published leaves its lock: a name, no bytes of a model, which the next to want it takes over.
    for (const name of readdirSync(incoming)) if (!name.endsWith('.lock')) found.push(join(incoming, name));
  for (const folder of ['staged', 'images', 'pods']) {
    const path = join(poolDir, folder);
    for (const name of existsSync(path) ? readdirSync(path) : [])
      if (name.startsWith('.') || (folder === 'pods' && !podUids.includes(name)))
        found.push(join(path, name));
  }
  return found;
}
