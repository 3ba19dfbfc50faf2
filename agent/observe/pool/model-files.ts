/** Whether a model's files lie on the node's disk, and whether they are still the same. */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { weightsFiles } from '#proto/weights.ts';
import type { Look } from '../../decide/staging/lost-files.ts';

/** What the converter publishes last, of upstream files and of the gthread form. */
const upstreamManifest = '.greenthread.json';

/** @returns null when that cannot be told: a disk that fails is not one that is empty */
export async function lookAtFiles(modelsDir: string, path: string): Promise<Look | null> {
  const isForm = path.includes('.gthread-');
  const files = isForm ? [weightsFiles.manifest, weightsFiles.weights] : [upstreamManifest];
  try {
    const found = await Promise.all(files.map((file) => stat(join(modelsDir, path, file))));
    return { identity: found.map(({ ino, size, mtimeMs }) => `${ino} ${size} ${mtimeMs}`).join(' ') };
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    return code === 'ENOENT' || code === 'ENOTDIR' ? 'missing' : null;
  }
}
