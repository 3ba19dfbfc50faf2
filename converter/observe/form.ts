/** What lies on the node's disk in the gthread form. */
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { decodeManifest, manifestBytesMax, type WeightsManifest, weightsFiles } from '#proto/weights.ts';
import { orAbsent } from './disk.ts';

function decodedOrNull(bytes: Uint8Array): WeightsManifest | null {
  try {
    return decodeManifest(bytes);
  } catch {
    return null;
  }
}

/**
 * The manifest of a published form whose file has its length; null when it is absent or damaged.
 * @throws the disk's error when it cannot be told
 */
export async function publishedForm(folder: string, commit: string): Promise<WeightsManifest | null> {
  const path = join(folder, weightsFiles.manifest);
  if (((await orAbsent(stat(path)))?.size ?? 0) > manifestBytesMax) return null;
  const bytes = await orAbsent(readFile(path));
  const manifest = bytes && decodedOrNull(bytes);
  if (manifest?.commit !== commit) return null;
  const weights = await orAbsent(stat(join(folder, weightsFiles.weights)));
  return weights?.size === manifest.bytes ? manifest : null;
}
