/** The words of weights.proto: the gthread form's manifest, its codec, and what must hold of one before it is believed. */
import { readFileSync } from 'node:fs';
import protobuf from 'protobufjs';
import { modelFolder } from './names.ts';

/** Version of the form on disk, in the folder's name as well: a reader finds its own version or nothing. */
export const weightsVersion = 1;

/** Names in a published folder of the form. */
export const weightsFiles = { manifest: 'manifest.pb', weights: 'weights' } as const;

/** A large page: tensors of this size and more begin on its boundary, and files are whole numbers of them. */
export const largePageBytes = 2 * 1024 * 1024;
/** Boundary of the smaller tensors, bytes. */
export const smallAlignmentBytes = 256;
/** What one hash covers, bytes. */
export const weightsChunkBytes = 8 * 1024 * 1024;
/** Bytes of one hash (xxh64). */
export const chunkHashBytes = 8;

/**
 * Bytes of one element of each dtype that the form may have, by the names that safetensors has for them. Without those of less
 * than a byte: the loader has no tensors of them. vllm/gthread/manifest.py has the same; a unit test holds them together.
 */
export const weightsDtypeBytes: Readonly<Record<string, number>> = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  F8_E8M0: 1,
  F8_E4M3FNUZ: 1,
  F8_E5M2FNUZ: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
  C64: 8,
};

// What readers take at most, so writers write no more. vllm/gthread/manifest.py has the same; a unit test holds them together.
/** Bytes of manifest.pb: some 100 for each tensor, 8 for each 8 MiB. */
export const manifestBytesMax = 256 * 1024 * 1024;
/** The largest models known have some 150,000. */
export const tensorsMax = 1_000_000;
export const dimensionsMax = 16;
/** Of a tensor, in UTF-8. */
export const nameBytesMax = 4096;

export interface WeightsTensor {
  name: string;
  /** As safetensors writes it. */
  dtype: string;
  shape: number[];
  /** In the file `weights`. */
  offset: number;
  bytes: number;
}

export interface WeightsSource {
  path: string;
  bytes: number;
  /** Hex. */
  sha256: string;
}

export interface WeightsManifest {
  version: number;
  modelName: string;
  commit: string;
  /** Length of the file `weights`. */
  bytes: number;
  chunkBytes: number;
  /** chunkHashBytes for each chunk, little-endian. */
  chunkHashes: Uint8Array;
  tensors: WeightsTensor[];
  sources: WeightsSource[];
}

/** Folder of a commit's gthread form under the models path: `org--name/<commit>.gthread-1`. */
export const gthreadFolder = (modelName: string, commit: string): string =>
  `${modelFolder(modelName)}/${commit}.gthread-${weightsVersion}`;

/** The boundary that a tensor of that size begins on, bytes. */
export const alignmentOf = (bytes: number): number =>
  bytes >= largePageBytes ? largePageBytes : smallAlignmentBytes;

/** `bytes` rounded up to a multiple of `to`. */
export const alignUp = (bytes: number, to: number): number => Math.ceil(bytes / to) * to;

const schema = protobuf.parse(readFileSync(new URL('./weights.proto', import.meta.url), 'utf8')).root;
const type = schema.lookupType('greenthread.weights.v1.Manifest');

/** Tensors encoded at once: the codec's own notes of a hundred thousand would take more memory than their bytes. */
const tensorsAtOnce = 1000;

/** Messages one after the other are one message: their repeated fields add up. */
function* partsOf(manifest: WeightsManifest): Generator<Uint8Array> {
  yield type.encode({ ...manifest, tensors: [] }).finish();
  for (let at = 0; at < manifest.tensors.length; at += tensorsAtOnce)
    yield type.encode({ tensors: manifest.tensors.slice(at, at + tensorsAtOnce) }).finish();
}

export const encodeManifest = (manifest: WeightsManifest): Buffer => Buffer.concat([...partsOf(manifest)]);

/** Bytes that `encodeManifest` would make, without holding them; the hashes' values change nothing. */
export function manifestLength(manifest: WeightsManifest): number {
  let bytes = 0;
  for (const part of partsOf(manifest)) bytes += part.length;
  return bytes;
}

/**
 * Reads manifest.pb. A later release's unknown fields do no harm.
 * @throws Error naming the file's fault and the remedy: what is no manifest of this version, or does not hold together
 */
export const decodeManifest = (bytes: Uint8Array): WeightsManifest =>
  believed(decodeAs<WeightsManifest>(type, bytes), manifestFault);

/** What a manifest says of its file as a whole. */
export type WeightsHead = Omit<WeightsManifest, 'tensors' | 'sources'>;

const headType = new protobuf.Type('Head');
for (const { name, id, type: kind } of type.fieldsArray)
  if (name !== 'tensors' && name !== 'sources') headType.add(new protobuf.Field(name, id, kind));
new protobuf.Root().add(headType);

/**
 * As `decodeManifest`, its tensors skipped and not looked at: of a hundred thousand they take a second and 200 MB, this a
 * few milliseconds.
 */
export const decodeHead = (bytes: Uint8Array): WeightsHead =>
  believed(decodeAs<WeightsHead>(headType, bytes), headFault);

function decodeAs<T>(kind: protobuf.Type, bytes: Uint8Array): T {
  try {
    return kind.toObject(kind.decode(bytes), { longs: Number, defaults: true }) as T;
  } catch (error) {
    throw new Error(`manifest.pb cannot be read (${(error as Error).message}): ${remedy}`);
  }
}

function believed<T>(manifest: T, faultOf: (manifest: T) => string | null): T {
  const fault = faultOf(manifest);
  if (fault) throw new Error(`manifest.pb: ${fault}: ${remedy}`);
  return manifest;
}

const remedy = 'delete the folder, the next conversion writes it again';

/** Why a manifest must not be believed; null when it may be. */
export function manifestFault(manifest: WeightsManifest): string | null {
  return headFault(manifest) ?? tensorsFault(manifest);
}

function headFault({ version, bytes, chunkBytes, chunkHashes }: WeightsHead): string | null {
  if (version !== weightsVersion) return `version ${version}, not ${weightsVersion}`;
  if (!Number.isSafeInteger(bytes) || bytes % largePageBytes !== 0)
    return `${bytes} bytes are no whole pages`;
  if (chunkBytes <= 0 || chunkBytes % largePageBytes !== 0)
    return `chunks of ${chunkBytes} bytes are no whole pages`;
  if (chunkHashes.length !== Math.ceil(bytes / chunkBytes) * chunkHashBytes)
    return `${chunkHashes.length} bytes of hashes for ${bytes} bytes`;
  return null;
}

function tensorsFault({ bytes, tensors }: WeightsManifest): string | null {
  let end = 0;
  for (const tensor of tensors) {
    if (!Number.isSafeInteger(tensor.offset) || !Number.isSafeInteger(tensor.bytes))
      return `tensor ${tensor.name} is beyond 2^53`;
    if (!Object.hasOwn(weightsDtypeBytes, tensor.dtype))
      return `tensor ${tensor.name} has the dtype ${tensor.dtype}, which this release does not load`;
    if (tensor.offset < end) return `tensor ${tensor.name} begins in the one before it`;
    if (tensor.offset % alignmentOf(tensor.bytes) !== 0) return `tensor ${tensor.name} is not aligned`;
    end = tensor.offset + tensor.bytes;
    if (end > bytes) return `tensor ${tensor.name} ends beyond the file`;
  }
  return null;
}
