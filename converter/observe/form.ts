/** What lies on the node's disk in the gthread form. */
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { decodeManifest, manifestBytesMax, type WeightsManifest, weightsFiles } from '#proto/weights.ts';

/** The manifest of a published form whose file has its length; null when it is absent or damaged. */
export async function publishedForm(folder: string, commit: string): Promise<WeightsManifest | null> {
  try {
    const path = join(folder, weightsFiles.manifest);
    if ((await stat(path)).size > manifestBytesMax) return null;
    const manifest = decodeManifest(await readFile(path));
    const { size } = await stat(join(folder, weightsFiles.weights));
    return size === manifest.bytes && manifest.commit === commit ? manifest : null;
  } catch {
    return null;
  }
}
