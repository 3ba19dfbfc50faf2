/** Reads what earlier pods of the same engine measured on the same product, from beside the weights. */
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { errorText, type Log } from '#platform/log.ts';
import {
  type KeptMeasurement,
  keptMeasurementBytesMax,
  keptMeasurementFolder,
  keptMeasurementName,
  parseKeptMeasurement,
} from '../decide/kept-measurement.ts';

/**
 * @returns null when there is none, or none that can be read
 */
export async function readKeptMeasurement(
  modelsDir: string,
  engineHash: string,
  product: string,
  log: Log,
): Promise<KeptMeasurement | null> {
  const name = keptMeasurementName(engineHash, product);
  if (!name) return null;
  const path = join(modelsDir, keptMeasurementFolder, name);
  try {
    // NONBLOCK: a pipe planted there would hold the open for ever.
    const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      const { size } = await file.stat();
      const { buffer, bytesRead } = await file.read(Buffer.alloc(keptMeasurementBytesMax), 0);
      if (size > keptMeasurementBytesMax) return null;
      return parseKeptMeasurement(buffer.toString('utf8', 0, bytesRead));
    } finally {
      await file.close();
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT')
      log.warn('a kept measurement cannot be read', { path, error: errorText(error) });
    return null;
  }
}
