/** Reads a published form again: its length is as it was, but the node's agent has found bytes in it that are not. */
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { xxh64 } from '@node-rs/xxhash';
import { chunkHashBytes, type WeightsManifest, weightsFiles } from '#proto/weights.ts';
import { interruption } from '../http.ts';

/**
 * @returns the first byte of the first chunk that has not its hash; null when all have
 * @throws FetchFailure when interrupted, else the disk's error
 */
export async function damagedAt(
  folder: string,
  manifest: WeightsManifest,
  signal: AbortSignal,
): Promise<number | null> {
  const { bytes, chunkBytes } = manifest;
  const hashes = Buffer.from(manifest.chunkHashes);
  const handle = await open(join(folder, weightsFiles.weights), 'r');
  try {
    const buffer = Buffer.allocUnsafe(Math.min(chunkBytes, bytes));
    for (let index = 0, at = 0; at < bytes; index += 1, at += chunkBytes) {
      if (signal.aborted) throw interruption(signal);
      const wanted = Math.min(chunkBytes, bytes - at);
      let have = 0;
      while (have < wanted) {
        const { bytesRead } = await handle.read(buffer, have, wanted - have, at + have);
        if (bytesRead === 0) return at;
        have += bytesRead;
      }
      if (xxh64(buffer.subarray(0, wanted)) !== hashes.readBigUInt64LE(index * chunkHashBytes)) return at;
    }
    return null;
  } finally {
    await handle.close();
  }
}
