import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import {
  fixLoad,
  lostShareAimed,
  lostShareTolerance,
  runPeer,
} from '../../../../hack/benchmarks/policy/experiments.ts';
import { lru } from '../../../../hack/benchmarks/policy/peers.ts';
import { policy } from '../../../../hack/benchmarks/policy/policy.ts';
import { stretched } from '../../../../hack/benchmarks/policy/scenario.ts';
import { parseTrace } from '../../../../hack/benchmarks/policy/trace.ts';
import { bursts, burstsModels, zipfTrace } from '../../../../hack/benchmarks/policy/workloads.ts';

const trace = readFileSync('test/fixtures/traces/azure-llm-2023-conv.csv', 'utf8');
let folder: string;
let printed: string[];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'bench-'));
  printed = [];
  vi.spyOn(console, 'log').mockImplementation((line: string) => printed.push(line));
});
afterEach(() => {
  vi.restoreAllMocks();
  rmSync(folder, { recursive: true });
});

describe('./hack/bench policy', () => {
  it('prints a table for each workload, draws, and ends with the ratios', async () => {
    const file = join(folder, 'trace.csv');
    writeFileSync(file, trace.split('\n').slice(0, 121).join('\n'));
    const picture = join(folder, 'waits.svg');
    expect(await policy(['--size', 'small', '--trace', file, '--picture', picture])).toBe(0);
    const text = printed.join('\n');
    for (const workload of ['trace, 4', 'trace, 8', 'trace, 16', 'bursts, 20', 'diurnal, 8'])
      expect(text).toContain(`### ${workload} models: 120 requests`);
    expect(printed.at(-1)).toMatch(
      /^result: p99_vs_lru=[\d.]+ p99_vs_fcfs=[\d.]+ p99_vs_reference=[\d.]+ switches_vs_optimum=[\d.]+ longest_vs_bound=0\.\d+$/,
    );
    expect(readFileSync(picture, 'utf8')).toContain('trace, 16 models');
  });

  it('proves of one workload what no policy can reach', async () => {
    const file = join(folder, 'trace.csv');
    writeFileSync(file, trace.split('\n').slice(0, 201).join('\n'));
    const flags = ['--size', 'small', '--trace', file, '--picture', join(folder, 'waits.svg')];
    expect(await policy([...flags, '--workload', 'trace, 4', '--prove', '60'])).toBe(0);
    const text = printed.join('\n');
    expect(text).toContain('### Proven of trace, 4 models');
    expect(text).not.toContain('bursts');
    for (const aim of ["half of best LRU's", 'half of best first', 'a fifth of the reference'])
      expect(text).toMatch(new RegExp(`- p99 of [\\d.]+ s, ${aim}[^:]*: (no policy can|not proven|reached)`));
    // All 200 are looked at long before a minute is over.
    expect(text).toMatch(/no policy can \([3-9] of \d+ requests late whatever is done, 3 needed/);
  });

  it.each([
    [['--size', 'huge'], '--size is full or small, not huge'],
    [['--work', '0'], '--work is a number above 0'],
    [['--trace', '/no/such/file'], 'no such file'],
    [['--prove', '0'], '--prove is a number of seconds'],
    [['--workload', 'trace, 9'], '--workload is part of one of "trace, 4 models"'],
  ])('refuses %j', async (flags, message) => {
    await expect(policy(flags)).rejects.toThrow(message);
  });

  it('fixes the load where plain LRU loses a quarter of the time', () => {
    const base = zipfTrace(parseTrace(trace, 500), 8, 1);
    const { lostMs, endMs } = runPeer(stretched(base, fixLoad(base)), lru({ residenceMs: 0, patienceMs: 0 }));
    expect(lostMs / endMs).toBeCloseTo(0.25, 1);
  });

  it('leaves the times of bursts as they are: their models make the load', () => {
    const rows = parseTrace(trace, 20_000);
    const base = bursts(rows, burstsModels, rows.length);
    expect(fixLoad(base)).toBe(1);
    const { lostMs, endMs } = runPeer(base, lru({ residenceMs: 0, patienceMs: 0 }));
    expect(Math.abs(lostMs / endMs - lostShareAimed)).toBeLessThan(lostShareTolerance);
  });
});
