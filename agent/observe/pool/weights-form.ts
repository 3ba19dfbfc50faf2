/** The gthread form on the node's disk, as the converter published it. */
import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { errorText } from '#platform/log.ts';
import { decodeHead, manifestBytesMax, type WeightsHead, weightsFiles } from '#proto/weights.ts';
import { isOf, type WeightsName } from '../../decide/staging/weights-name.ts';
import type { Form } from '../../decide/staging/words.ts';

/** NONBLOCK: a pipe planted there would hold the open for ever. */
const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

const isMissing = (error: unknown): boolean => (error as NodeJS.ErrnoException).code === 'ENOENT';

async function sizeOf(path: string): Promise<number> {
  const file = await open(path, flags);
  try {
    const found = await file.stat();
    if (!found.isFile()) throw new Error(`${path} is no file`);
    return found.size;
  } finally {
    await file.close();
  }
}

/** A short look: whether it is there, and how large. */
export async function lookAtForm(modelsDir: string, name: WeightsName): Promise<Form> {
  const folder = join(modelsDir, name.weights);
  try {
    await sizeOf(join(folder, weightsFiles.manifest));
    return { bytes: await sizeOf(join(folder, weightsFiles.weights)) };
  } catch (error) {
    if (isMissing(error)) return { missing: true };
    return { fault: `${folder} cannot be read (${errorText(error)}): see that it is readable, or delete it` };
  }
}

/** The manifest, or the length of the file, is not what was published. */
export class DamagedForm extends Error {}

/** @throws DamagedForm */
function headOf(bytes: Buffer): WeightsHead {
  try {
    return decodeHead(bytes);
  } catch (error) {
    throw new DamagedForm(errorText(error));
  }
}

async function readWhole(file: FileHandle, most: number): Promise<Buffer> {
  const { size } = await file.stat();
  if (size > most) throw new DamagedForm(`manifest.pb has ${size} bytes, at most ${most} are read`);
  const buffer = Buffer.alloc(size);
  const { bytesRead } = await file.read(buffer, 0, size, 0);
  return buffer.subarray(0, bytesRead);
}

/**
 * The manifest's head (the agent's loop decodes no hundred thousand tensors), believed only when it is of these weights and of this file.
 * @throws DamagedForm naming the fault and the remedy; Error when it cannot be read
 */
export async function readHead(modelsDir: string, name: WeightsName): Promise<WeightsHead> {
  const folder = join(modelsDir, name.weights);
  const file = await open(join(folder, weightsFiles.manifest), flags);
  try {
    const manifest = headOf(await readWhole(file, manifestBytesMax));
    const remedy = `delete ${folder}, the next conversion writes it again`;
    if (!isOf(name, manifest))
      throw new DamagedForm(`manifest.pb is of ${manifest.modelName}@${manifest.commit}: ${remedy}`);
    const bytes = await sizeOf(join(folder, weightsFiles.weights));
    if (bytes !== manifest.bytes)
      throw new DamagedForm(`${weightsFiles.weights} has ${bytes} bytes, not ${manifest.bytes}: ${remedy}`);
    return manifest;
  } finally {
    await file.close();
  }
}
