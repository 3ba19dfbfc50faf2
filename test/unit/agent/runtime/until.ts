/** Waiting for a condition, and folders and logs for the runtime's tests. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createLog, type Log } from '#platform/log.ts';

/** Waits until `probe` gives something; fails with what was waited for after 8 s. */
export async function until<T>(what: string, probe: () => T | undefined | null | false): Promise<T> {
  for (let round = 0; round < 1_600; round++) {
    const value = probe();
    if (value) return value;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  throw new Error(`waited 8 s in vain for ${what}`);
}

const undo: (() => void | Promise<void>)[] = [];
/** Done after the test, the last first. */
export const afterwards = (work: () => void | Promise<void>): void => void undo.push(work);
export async function cleanUp(): Promise<void> {
  for (const work of undo.splice(0).reverse()) await work();
}

export function folder(): string {
  const path = mkdtempSync(join(tmpdir(), 'gt-'));
  afterwards(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** A log that keeps its lines. */
export function keptLog(): {
  log: Log;
  lines: { level: string; message: string; [field: string]: unknown }[];
} {
  const lines: { level: string; message: string }[] = [];
  return { lines, log: createLog('test', 'debug', (line) => void lines.push(JSON.parse(line))) };
}

export const podUid = (n: number): string => `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`;
