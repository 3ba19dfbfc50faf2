/** Programs of one node as child processes: the simulated hardware's binaries, started, waited for and ended. */
import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { cache, repository } from '../nodes/places.ts';

const run = promisify(execFile);
const buildMsMax = 120_000;
const untilMsMax = 60_000;
const pollMs = 25;
/** Longest output of one program that is kept, characters. */
const outputCharactersMax = 4 * 1024 * 1024;

/** The interpreter itself: a version manager's `python3` is a slow script. */
export const python = execFileSync('python3', ['-c', 'import sys; print(sys.executable)'], {
  encoding: 'utf8',
}).trim();

/** Folder with the Go binaries, built once for each state of hack/gpu. */
export async function gpuBinaries(): Promise<string> {
  const source = join(repository, 'hack/gpu');
  const hash = createHash('sha256');
  for (const name of (readdirSync(source, { recursive: true }) as string[]).sort()) {
    if (/\.(go|mod|sh|outline)$/.test(name) && !name.endsWith('_test.go'))
      hash.update(name).update(readFileSync(join(source, name)));
  }
  const folder = join(cache, `gpu-sim-${hash.digest('hex').slice(0, 12)}`);
  if (existsSync(join(folder, 'nvidia-smi'))) return folder;
  mkdirSync(cache, { recursive: true });
  const building = mkdtempSync(join(cache, 'gpu-sim-building-'));
  await run(join(source, 'build.sh'), [building], { timeout: buildMsMax });
  try {
    renameSync(building, folder);
  } catch {
    rmSync(building, { recursive: true }); // somebody else was first
  }
  return folder;
}

/** Waits until `probe` gives something. @throws Error that names what did not come within a minute */
export async function until<T>(
  what: string,
  probe: () => Promise<T | null | undefined | false> | T | null | undefined | false,
): Promise<T> {
  const giveUpAt = performance.now() + untilMsMax;
  while (performance.now() < giveUpAt) {
    const value = await probe();
    if (value) return value;
    await delay(pollMs);
  }
  throw new Error(`waited ${untilMsMax} ms in vain for ${what}`);
}

export interface Program {
  child: ChildProcess;
  /** What it said on stdout and stderr, the last 4 Mi characters. */
  output(): string;
  ended: Promise<number | null>;
}

/** Starts a program in the repository, with PATH, HOME and `env` alone. */
export function start(command: string, args: string[], env: Record<string, string>): Program {
  const child = spawn(command, args, {
    cwd: repository,
    env: { PATH: process.env.PATH!, HOME: process.env.HOME ?? '/root', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk) => {
      output = (output + String(chunk)).slice(-outputCharactersMax);
    });
  return {
    child,
    output: () => output,
    ended: new Promise((resolve) => child.on('close', (code) => resolve(code))),
  };
}

/** Waits until a program's output matches; @returns the first group. @throws Error with its output when it ends instead */
export const said = (what: string, program: Program, pattern: RegExp): Promise<string> =>
  until(what, () => {
    const { exitCode, signalCode } = program.child;
    if (exitCode !== null || signalCode !== null) throw new Error(`${what} ended: ${program.output()}`);
    return pattern.exec(program.output())?.[1];
  });

export async function end({ child, ended }: Program, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) child.kill(signal);
  await ended;
}

/** Lines of a file; none when it is not there. */
export const linesOf = (path: string): string[] =>
  existsSync(path) ? readFileSync(path, 'utf8').split('\n').filter(Boolean) : [];
