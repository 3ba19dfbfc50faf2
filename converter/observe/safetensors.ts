/** The headers of a published commit's safetensors files: some MiB are read, whatever the files' size. */
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  brokenFile,
  headerLength,
  lengthBytes,
  parseHeader,
  type SourceFile,
  type SourceTensor,
} from '../decide/safetensors.ts';
import { chooseShards, indexBytesMax, indexName, parseIndex, requireAgreement } from '../decide/shards.ts';

/** What a commit has to convert. */
export interface Checkpoint {
  shards: SourceFile[];
  tensors: SourceTensor[];
}

async function readHeader(folder: string, file: SourceFile): Promise<SourceTensor[]> {
  const handle = await open(join(folder, file.path), 'r');
  try {
    const first = Buffer.alloc(lengthBytes);
    const { bytesRead } = await handle.read(first, 0, lengthBytes, 0);
    const header = Buffer.allocUnsafe(headerLength(first.subarray(0, bytesRead), file));
    for (let have = 0; have < header.length; ) {
      const { bytesRead: more } = await handle.read(header, have, header.length - have, lengthBytes + have);
      if (more === 0) throw brokenFile(file.path, 'it ends in its header');
      have += more;
    }
    return parseHeader(header, file);
  } finally {
    await handle.close();
  }
}

/**
 * @param folder the published commit
 * @param files of its manifest
 * @throws FetchFailure BadWeights or NotConvertible, naming file and tensor
 */
export async function readCheckpoint(folder: string, files: readonly SourceFile[]): Promise<Checkpoint> {
  const indexFile = files.find(({ path }) => path === indexName);
  if (indexFile && indexFile.bytes > indexBytesMax) {
    throw brokenFile(indexName, `it has ${indexFile.bytes} bytes, more than ${indexBytesMax}`);
  }
  const index = indexFile ? parseIndex(await readFile(join(folder, indexName), 'utf8')) : null;
  const shards = chooseShards(files, index);
  const tensors: SourceTensor[] = [];
  for (const shard of shards) for (const tensor of await readHeader(folder, shard)) tensors.push(tensor);
  requireAgreement(tensors, index);
  return { shards, tensors };
}
