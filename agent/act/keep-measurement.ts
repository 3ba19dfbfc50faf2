/** Keeps measurements beside the weights: written aside and renamed, one write at a time for each file, the last wins. */
import { mkdir, open, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { errorText, type Log } from '#platform/log.ts';
import {
  formatKeptMeasurement,
  type KeptMeasurement,
  keptMeasurementFolder,
  keptMeasurementName,
} from '../decide/kept-measurement.ts';

export interface MeasurementKeeper {
  keep(engineHash: string, product: string, measurement: KeptMeasurement): void;
  /** Resolves when nothing is left to write. */
  settled(): Promise<void>;
}

/** @param modelsDir where the weights lie */
export function createMeasurementKeeper(modelsDir: string, log: Log): MeasurementKeeper {
  const folder = join(modelsDir, keptMeasurementFolder);
  /** By file name: what is to be written next. */
  const waiting = new Map<string, string>();
  const writing = new Map<string, Promise<void>>();

  async function writeOnce(name: string, text: string): Promise<void> {
    const path = join(folder, name);
    const temporary = `${path}.${process.pid}.new`;
    try {
      await mkdir(folder, { recursive: true });
      const file = await open(temporary, 'w', 0o644);
      try {
        await file.writeFile(text);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(temporary, path);
    } catch (error) {
      // The next boot measures again: worth a line, no more.
      log.warn('a measurement cannot be kept', { path, error: errorText(error) });
      await rm(temporary, { force: true }).catch(() => undefined);
    }
  }

  async function write(name: string): Promise<void> {
    for (let text = waiting.get(name); text !== undefined; text = waiting.get(name)) {
      waiting.delete(name);
      await writeOnce(name, text);
    }
    writing.delete(name);
  }

  return {
    keep(engineHash, product, measurement) {
      const name = keptMeasurementName(engineHash, product);
      if (!name) return log.warn('a measurement has no fit name to be kept under', { engineHash, product });
      waiting.set(name, formatKeptMeasurement(measurement));
      if (!writing.has(name)) writing.set(name, write(name));
    },
    async settled() {
      await Promise.all(writing.values());
    },
  };
}
