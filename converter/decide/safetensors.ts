/**
 * The header of a safetensors file, read strictly: what it says of a tensor must hold for the bytes in the file. After the
 * format's own rules (github.com/huggingface/safetensors, README "Format"): 8 bytes little-endian with the header's
 * length, a JSON object, then the tensors' bytes without a hole or a byte left over.
 */
import { dimensionsMax, nameBytesMax, weightsDtypeBytes } from '#proto/weights.ts';
import { FetchFailure } from './failures.ts';

/** Longest header, bytes; the format's own limit. */
export const headerBytesMax = 100_000_000;
/** Of the length before the header, bytes. */
export const lengthBytes = 8;

/** One tensor where it lies upstream. */
export interface SourceTensor {
  name: string;
  dtype: string;
  shape: number[];
  /** Path of its file in the upstream folder. */
  path: string;
  /** From the file's beginning, bytes. */
  position: number;
  bytes: number;
}

/** A file on disk; its length decides what may be in it. */
export interface SourceFile {
  path: string;
  bytes: number;
}

const remedy = 'the file is broken where it comes from: choose another spec.revision';

export const brokenFile = (path: string, why: string): FetchFailure =>
  new FetchFailure('BadWeights', `${path}: ${why}; ${remedy}`);

const shown = (name: string): string => JSON.stringify(name.slice(0, 200));

/**
 * @param first the file's first 8 bytes, or all when it has fewer
 * @returns the header's length, bytes
 * @throws FetchFailure BadWeights
 */
export function headerLength(first: Uint8Array, file: SourceFile): number {
  if (first.length < lengthBytes) throw brokenFile(file.path, 'it is too short for a safetensors file');
  const length = new DataView(first.buffer, first.byteOffset).getBigUint64(0, true);
  if (length > BigInt(headerBytesMax)) {
    throw brokenFile(file.path, `it claims a header of ${length} bytes, more than ${headerBytesMax}`);
  }
  if (Number(length) + lengthBytes > file.bytes) {
    throw brokenFile(file.path, `its header of ${length} bytes ends beyond the file's ${file.bytes}`);
  }
  return Number(length);
}

/** Names in the outer object, a repeated one as often as it stands there: JSON.parse keeps its last alone. */
function countNames(json: string): number {
  let depth = 0;
  let names = 0;
  for (let at = 0; at < json.length; at++) {
    const character = json.charCodeAt(at);
    if (character === 0x22) {
      for (at++; at < json.length && json.charCodeAt(at) !== 0x22; at++) {
        if (json.charCodeAt(at) === 0x5c) at++;
      }
    } else if (character === 0x7b || character === 0x5b) depth++;
    else if (character === 0x7d || character === 0x5d) depth--;
    else if (character === 0x3a && depth === 1) names++;
  }
  return names;
}

/** @returns null for one with more names than `namesMost`: such a one is not made into objects */
function parseObject(
  header: Uint8Array,
  file: SourceFile,
  namesMost: number,
): Record<string, unknown> | null {
  let text: string;
  let names: number;
  let value: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(header);
    names = countNames(text);
    if (names > namesMost) return null;
    value = JSON.parse(text);
  } catch {
    throw brokenFile(file.path, 'its header is no JSON');
  }
  if (!text.startsWith('{') || typeof value !== 'object' || value === null) {
    throw brokenFile(file.path, 'its header is no JSON object');
  }
  if (names !== Object.keys(value).length) {
    throw brokenFile(file.path, 'its header names a tensor twice');
  }
  return value as Record<string, unknown>;
}

const isWhole = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

/** Bytes of all elements; null when it is beyond 2^53. */
function bytesOf(shape: readonly number[], elementBytes: number): number | null {
  // A dimension of 0 makes all others harmless, so it is multiplied first.
  const product = [...shape].sort((a, b) => a - b).reduce((so, size) => so * size, 1) * elementBytes;
  return Number.isSafeInteger(product) ? product : null;
}

/** What of a tensor the form's readers do not take; null: all is well. @param strangeDtype null where it is one of theirs */
function unreadable(name: string, strangeDtype: string | null, dimensions: number): string | null {
  if (strangeDtype !== null) return `the dtype ${shown(strangeDtype)}`;
  if (dimensions > dimensionsMax) return `${dimensions} dimensions`;
  const nameBytes = Buffer.byteLength(name);
  return nameBytes > nameBytesMax ? `a name of ${nameBytes} bytes` : null;
}

/** One entry of the header, its position counted from the file's beginning. */
function parseTensor(name: string, value: unknown, file: SourceFile, dataBegin: number): SourceTensor {
  const broken = (why: string) => brokenFile(file.path, `tensor ${shown(name)} ${why}`);
  const { dtype, shape, data_offsets: offsets } = (value ?? {}) as Record<string, unknown>;
  if (name === '') throw broken('has no name');
  if (!name.isWellFormed()) throw broken('has a name that is no text');
  if (typeof dtype !== 'string') throw broken('has no dtype');
  if (!Array.isArray(shape) || !shape.every(isWhole)) throw broken('has no shape of whole numbers');
  const elementBytes = Object.hasOwn(weightsDtypeBytes, dtype) ? weightsDtypeBytes[dtype] : undefined;
  const unread = unreadable(name, elementBytes === undefined ? dtype : null, shape.length);
  if (elementBytes === undefined || unread !== null) {
    throw new FetchFailure(
      'NotConvertible',
      `${file.path}: tensor ${shown(name)} has ${unread}, which this release does not load: set spec.loadFormat to auto`,
    );
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isWhole)) {
    throw broken('has no data_offsets of two whole numbers');
  }
  const [begin, end] = offsets as [number, number];
  if (end < begin) throw broken('ends before it begins');
  if (dataBegin + end > file.bytes) throw broken(`ends beyond the file's ${file.bytes} bytes`);
  if (bytesOf(shape, elementBytes) !== end - begin) {
    throw broken(`has ${end - begin} bytes, which its shape [${shape}] of ${dtype} does not`);
  }
  return { name, dtype, shape, path: file.path, position: dataBegin + begin, bytes: end - begin };
}

/** @throws FetchFailure for bytes that belong to two tensors or to none */
function requireSeamless(tensors: readonly SourceTensor[], file: SourceFile, dataBegin: number): void {
  let end = dataBegin;
  let before = '';
  for (const { name, position, bytes } of tensors) {
    if (position < end) throw brokenFile(file.path, `tensor ${shown(name)} overlaps ${shown(before)}`);
    if (position > end) {
      throw brokenFile(file.path, `${position - end} bytes before tensor ${shown(name)} belong to none`);
    }
    end = position + bytes;
    before = name;
  }
  if (end !== file.bytes)
    throw brokenFile(file.path, `its last ${file.bytes - end} bytes belong to no tensor`);
}

const metadataName = '__metadata__';

/**
 * @param header the JSON alone
 * @param most tensors that it may have
 * @returns the tensors in the order of their bytes; null when there are more
 * @throws FetchFailure BadWeights naming file and tensor; NotConvertible for a dtype that the loader has not
 */
export function parseHeader(header: Uint8Array, file: SourceFile, most: number): SourceTensor[] | null {
  const entries = parseObject(header, file, most + 1);
  if (entries === null) return null;
  const dataBegin = lengthBytes + header.length;
  const tensors: SourceTensor[] = [];
  for (const [name, value] of Object.entries(entries)) {
    if (name !== metadataName) tensors.push(parseTensor(name, value, file, dataBegin));
    else if (!isTextMap(value)) throw brokenFile(file.path, 'its __metadata__ is no map of texts');
  }
  if (tensors.length > most) return null;
  // An empty tensor shares its position with the one after it.
  tensors.sort((a, b) => a.position - b.position || a.bytes - b.bytes || (a.name < b.name ? -1 : 1));
  requireSeamless(tensors, file, dataBegin);
  return tensors;
}

const isTextMap = (value: unknown): boolean =>
  typeof value === 'object' &&
  value !== null &&
  !Array.isArray(value) &&
  Object.values(value).every((text) => typeof text === 'string');
