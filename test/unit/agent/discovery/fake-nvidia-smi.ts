/** An nvidia-smi of a few lines of shell, in a folder of its own that goes first on PATH or is run by its full name. */
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { SmiOutput } from '../../../../agent/observe/nvidia-smi/run.ts';

const fixtures = fileURLToPath(new URL('../../../fixtures/nvidia-smi/', import.meta.url));
export const fixturePath = (name: string): string => join(fixtures, name);
export const fixture = (name: string): string => readFileSync(fixturePath(name), 'utf8');

export interface FakeSmi extends Disposable {
  folder: string;
  path: string;
  /** The arguments of each call so far, one a line. */
  calls(): string[];
}

/** @param script what it does, in sh; `$*` are its arguments */
export function fakeSmi(script: string): FakeSmi {
  const folder = mkdtempSync(join(tmpdir(), 'greenthread-smi-'));
  const path = join(folder, 'nvidia-smi');
  const log = join(folder, 'calls');
  writeFileSync(log, '');
  writeFileSync(path, `#!/bin/sh\necho "$*" >> '${log}'\n${script}\n`);
  chmodSync(path, 0o755);
  return {
    folder,
    path,
    calls: () => readFileSync(log, 'utf8').split('\n').filter(Boolean),
    [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true }),
  };
}

/** What a call printed that ended well unless told otherwise. */
export const output = (stdout: string, rest: Partial<SmiOutput> = {}): SmiOutput => ({
  outcome: 'exited',
  exitCode: 0,
  stdout,
  stderr: '',
  ...rest,
});
