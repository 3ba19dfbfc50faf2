/** How a suite's steps are run: a command that must exit 0, or vitest, whose tests are counted one by one. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';

export interface Result {
  passed: number;
  failed: number;
}

export const sum = (...results: Result[]): Result => ({
  passed: results.reduce((total, result) => total + result.passed, 0),
  failed: results.reduce((total, result) => total + result.failed, 0),
});

/** Runs one command with its output shown; it counts as one check. `timeoutMs` ends one that hangs. */
export async function step(
  what: string,
  command: string,
  args: string[],
  timeoutMs = 600_000,
): Promise<Result> {
  const { exitCode, timedOut } = await execa(command, args, {
    preferLocal: true,
    stdio: ['ignore', 'inherit', 'inherit'],
    reject: false,
    timeout: timeoutMs,
  });
  if (exitCode === 0) return { passed: 1, failed: 0 };
  console.error(
    `FAILED: ${what} (${command} ${args.join(' ')}): ${timedOut ? `no end within ${timeoutMs} ms` : `exit ${exitCode}`}`,
  );
  return { passed: 0, failed: 1 };
}

/** Runs one command with its output shown, whose last line says `N passed, N failed`; without that line it is one failure. */
export async function counted(
  what: string,
  command: string,
  args: string[],
  timeoutMs: number,
): Promise<Result> {
  const { exitCode, timedOut, stdout } = await execa(command, args, {
    preferLocal: true,
    stdin: 'ignore',
    stdout: ['inherit', 'pipe'],
    stderr: 'inherit',
    reject: false,
    timeout: timeoutMs,
  });
  const said = /^(\d+) passed, (\d+) failed$/.exec(stdout.split('\n').at(-1) ?? '');
  const result = said && { passed: Number(said[1]), failed: Number(said[2]) };
  if (result && (exitCode === 0 || result.failed > 0)) return result;
  const why = timedOut ? `no end within ${timeoutMs} ms` : `exit ${exitCode}`;
  console.error(`FAILED: ${what} (${command} ${args.join(' ')}): ${why}`);
  return { passed: result?.passed ?? 0, failed: 1 };
}

interface VitestReport {
  numPassedTests: number;
  numFailedTests: number;
  numFailedTestSuites: number;
}

const retried = fileURLToPath(new URL('retried.ts', import.meta.url));
const reporters = ['default', 'json', retried].map((reporter) => `--reporter=${reporter}`);

/** Runs vitest and counts its tests from its JSON report; a run without a report is one failure. */
export async function vitest(
  what: string,
  args: string[],
  env: Record<string, string> = {},
  timeoutMs = 3_600_000,
): Promise<Result> {
  const folder = await mkdtemp(join(tmpdir(), 'greenthread-test-'));
  const file = join(folder, 'report.json');
  try {
    const { exitCode } = await execa('vitest', ['run', ...reporters, `--outputFile.json=${file}`, ...args], {
      preferLocal: true,
      stdio: ['ignore', 'inherit', 'inherit'],
      reject: false,
      timeout: timeoutMs,
      env,
    });
    const report = JSON.parse(await readFile(file, 'utf8')) as VitestReport;
    const failed =
      report.numFailedTests +
      (report.numFailedTests === 0 && exitCode !== 0 ? Math.max(1, report.numFailedTestSuites) : 0);
    return { passed: report.numPassedTests, failed };
  } catch (error) {
    console.error(`FAILED: ${what}: ${error instanceof Error ? error.message : String(error)}`);
    return { passed: 0, failed: 1 };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
