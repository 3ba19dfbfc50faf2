/** The quick queries, as CSV: a tenth of the full query's time, and nothing in them that a driver samples slowly. */
import type { ProcessReading } from '../../decide/facts.ts';
import { figure, memory } from './values.ts';

/** Names every driver from 418 on knows. */
export const gpuQueryArgs = [
  '--query-gpu=uuid,memory.total,memory.used,memory.free,utilization.gpu,temperature.gpu,power.draw',
  '--format=csv,noheader,nounits',
];
export const processQueryArgs = [
  '--query-compute-apps=gpu_uuid,pid,used_memory',
  '--format=csv,noheader,nounits',
];

/** One GPU of the quick query; null where the driver would not say. */
export interface QuickReading {
  uuid: string;
  totalBytes: number | null;
  usedBytes: number | null;
  freeBytes: number | null;
  utilizationRatio: number | null;
  temperatureCelsius: number | null;
  powerWatts: number | null;
}

/** Rows of as many cells as asked for. @throws SyntaxError for a row that breaks off or says something else */
function rows(stdout: string, cells: number): string[][] {
  return stdout.split('\n').flatMap((line) => {
    if (line.trim() === '') return [];
    const row = line.split(',').map((cell) => cell.trim());
    if (row.length !== cells || !/^GPU-/.test(row[0]!)) {
      throw new SyntaxError(`nvidia-smi answered a line that cannot be read: ${line.trim().slice(0, 120)}`);
    }
    return [row];
  });
}

/** @throws SyntaxError when it is empty (a node without GPUs says so in words) or a row cannot be read */
export function parseGpuRows(stdout: string): QuickReading[] {
  const anomalies: string[] = [];
  const readings = rows(stdout, 7).map(([uuid, total, used, free, percent, temperature, power]) => {
    const ratio = figure(percent, '%', anomalies);
    return {
      uuid: uuid!,
      totalBytes: memory(total, anomalies),
      usedBytes: memory(used, anomalies),
      freeBytes: memory(free, anomalies),
      utilizationRatio: ratio === null ? null : ratio / 100,
      temperatureCelsius: figure(temperature, 'C', anomalies),
      powerWatts: figure(power, 'W', anomalies),
    };
  });
  if (readings.length === 0) throw new SyntaxError('nvidia-smi answered nothing at all');
  return readings;
}

/** Compute processes; none at all is a good answer. @throws SyntaxError when a row cannot be read */
export function parseProcessRows(stdout: string): ProcessReading[] {
  return rows(stdout, 3).flatMap(([gpuUuid, pid, used]) =>
    /^\d+$/.test(pid!) ? [{ gpuUuid: gpuUuid!, pid: Number(pid), bytes: memory(used, []) }] : [],
  );
}
