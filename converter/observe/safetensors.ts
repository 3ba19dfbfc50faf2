/** The headers of a published commit's safetensors files: some MiB are read, whatever the files' size. */
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { tensorsMax } from '#proto/weights.ts';
import { FetchFailure } from '../decide/failures.ts';
import {
  brokenFile,
  headerLength,
  lengthBytes,
  parseHeader,
  type SourceFile,
  type SourceTensor,
} from '../decide/safetensors.ts';
import {
  chooseShards,
  disagreement,
  type Gathered,
  gather,
  indexBytesMax,
  indexName,
  parseIndex,
} from '../decide/shards.ts';

/** What a commit has to convert. */
export interface Checkpoint {
  shards: SourceFile[];
  tensors: SourceTensor[];
  /** What does not agree and is converted all the same; null: nothing. */
  warning: string | null;
}

/** What is read at most, of all files together: this program's memory grows with it. */
export interface Most {
  tensors: number;
  /** Some 130 for each tensor of the models known. */
  headerBytes: number;
}

const mostOfAll: Most = { tensors: tensorsMax, headerBytes: 400_000_000 };

const tooMuch = (what: string): FetchFailure =>
  new FetchFailure('NotConvertible', `${what}: set spec.loadFormat to auto`);

/** @param left of `most` @returns the tensors, in the order of their bytes */
async function readHeader(folder: string, file: SourceFile, left: Most, most: Most): Promise<SourceTensor[]> {
  const handle = await open(join(folder, file.path), 'r');
  try {
    const first = Buffer.alloc(lengthBytes);
    const { bytesRead } = await handle.read(first, 0, lengthBytes, 0);
    const length = headerLength(first.subarray(0, bytesRead), file);
    left.headerBytes -= length;
    if (left.headerBytes < 0)
      throw tooMuch(`the headers of the model's files have more than ${most.headerBytes} bytes`);
    const header = Buffer.allocUnsafe(length);
    for (let have = 0; have < header.length; ) {
      const { bytesRead: more } = await handle.read(header, have, header.length - have, lengthBytes + have);
      if (more === 0) throw brokenFile(file.path, 'it ends in its header');
      have += more;
    }
    const tensors = parseHeader(header, file, left.tensors);
    if (tensors === null) throw tooMuch(`the model has more than ${most.tensors} tensors`);
    left.tensors -= tensors.length;
    return tensors;
  } finally {
    await handle.close();
  }
}

/**
 * @param folder the published commit
 * @param files of its manifest
 * @throws FetchFailure BadWeights or NotConvertible, naming file and tensor
 */
export async function readCheckpoint(
  folder: string,
  files: readonly SourceFile[],
  most: Most = mostOfAll,
): Promise<Checkpoint> {
  const indexFile = files.find(({ path }) => path === indexName);
  if (indexFile && indexFile.bytes > indexBytesMax)
    throw tooMuch(`${indexName} has ${indexFile.bytes} bytes, more than ${indexBytesMax}`);
  const index = indexFile ? parseIndex(await readFile(join(folder, indexName), 'utf8')) : null;
  const shards = chooseShards(files, index);
  const gathered: Gathered = { tensors: new Map(), doubled: new Set() };
  const left = { ...most };
  for (const shard of shards) gather(gathered, await readHeader(folder, shard, left, most));
  return { shards, tensors: [...gathered.tensors.values()], warning: disagreement(gathered, index) };
}
