import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { figuresOf, leastPopular, median, percentile } from '../../../../hack/benchmarks/policy/figures.ts';
import { drawWaits } from '../../../../hack/benchmarks/policy/picture.ts';
import {
  GB,
  modelOf,
  scenarioOf,
  stretched,
  UnionTime,
  withFreeSwitches,
} from '../../../../hack/benchmarks/policy/scenario.ts';
import { parseTrace } from '../../../../hack/benchmarks/policy/trace.ts';
import { bursts, diurnal, smallCase, zipfTrace } from '../../../../hack/benchmarks/policy/workloads.ts';

const header = 'TIMESTAMP,ContextTokens,GeneratedTokens';
const trace = (count: number) =>
  parseTrace(readFileSync('test/fixtures/traces/azure-llm-2023-conv.csv', 'utf8'), count);

describe('a trace', () => {
  it('is read as times since its first request and tokens', () => {
    const text = `${header}\n2023-11-16 18:15:46.6805900,374,44\r\n2023-11-16 18:15:50.9951690,396,109\n`;
    const rows = parseTrace(text, 10);
    expect(rows[0]).toEqual({ atMs: 0, contextTokens: 374, generatedTokens: 44 });
    expect(rows[1]!.atMs).toBeCloseTo(4_314.579);
  });

  it('may have its columns in another order, and its rows', () => {
    const text =
      'GeneratedTokens,TIMESTAMP,ContextTokens\n5,2023-11-16 18:00:01,7\n6,2023-11-16 18:00:00+00:00,8\n';
    expect(parseTrace(text, 10)).toEqual([
      { atMs: 0, contextTokens: 8, generatedTokens: 6 },
      { atMs: 1_000, contextTokens: 7, generatedTokens: 5 },
    ]);
  });

  it('is cut at its limit', () => {
    expect(trace(100)).toHaveLength(100);
  });

  it.each([
    ['time,in,out\n', 'line 1: the columns must be'],
    [`${header}\nyesterday,1,2\n`, 'line 2'],
    [`${header}\n2023-11-16 18:00:00,1,\n`, 'line 2'],
    [`${header}\n2023-11-16 18:00:00,1,-2\n`, 'line 2'],
    [`${header}\n2023-11-16 18:00:00,1,2\n`, 'fewer than two requests'],
  ])('is refused with the line that is wrong: %j', (text, message) => {
    expect(() => parseTrace(text, 10)).toThrow(message);
  });
});

describe('workloads', () => {
  const rows = trace(2_000);

  it('deal a trace by a Zipf law', () => {
    const { arrivals } = zipfTrace(rows, 4, 1);
    const counts = [0, 1, 2, 3].map((at) => arrivals.filter(({ model }) => model === at).length);
    // 1 : 1/2 : 1/3 : 1/4 of 2,000 are 960, 480, 320 and 240.
    for (const [at, expected] of [960, 480, 320, 240].entries())
      expect(Math.abs(counts[at]! - expected)).toBeLessThan(100);
    expect(arrivals.map(({ atMs }) => atMs)).toEqual(rows.map(({ atMs }) => atMs));
  });

  it.each([
    ['trace', () => zipfTrace(rows, 8, 1)],
    ['bursts', () => bursts(rows, 8, 800)],
    ['diurnal', () => diurnal(rows, 8, 800)],
    ['small case', () => smallCase(7)],
  ])('are the same each time, in order: %s', (_, make) => {
    const { arrivals, models } = make();
    expect(make().arrivals).toEqual(arrivals);
    for (let at = 1; at < arrivals.length; at++)
      expect(arrivals[at]!.atMs).toBeGreaterThanOrEqual(arrivals[at - 1]!.atMs);
    for (const { model, workMs } of arrivals) {
      expect(model).toBeLessThan(models.length);
      expect(workMs).toBeGreaterThan(0);
    }
  });

  it('have nights: a model is asked five times more in its day', () => {
    const hourMs = 3_600_000;
    const { arrivals } = diurnal(rows, 8, 4_000);
    const first = arrivals.filter(({ model }) => model === 0).map(({ atMs }) => (atMs % hourMs) / hourMs);
    const night = first.filter((time) => time > 0.4 && time < 0.6).length;
    const day = first.filter((time) => time < 0.1 || time > 0.9).length;
    expect(day).toBeGreaterThan(5 * night);
  });

  it('come in bursts of 20 s and pauses of 100 s, with a request each 4 s', () => {
    const { arrivals } = bursts(rows, 1, 20_000);
    const gapsMs = arrivals.slice(1).map(({ atMs }, at) => atMs - arrivals[at]!.atMs);
    const meanMs = (values: number[]): number => values.reduce((sum, ms) => sum + ms, 0) / values.length;
    // Five requests in 120 s.
    expect(meanMs(gapsMs) / 24_000).toBeCloseTo(1, 1);
    const pauses = gapsMs.filter((ms) => ms > 40_000);
    // A pause has no memory: beyond any 40 s it lasts as long as at first. A sixth of the bursts is empty.
    expect((meanMs(pauses) - 40_000) / 120_000).toBeCloseTo(1, 1);
    const inside = gapsMs.filter((ms) => ms < 1_000);
    // Within a burst, and five of six gaps are, the next request or the burst's end comes within 1 s with 1 − e^(−3/10).
    expect(inside.length / gapsMs.length / ((5 / 6) * (1 - Math.exp(-0.3)))).toBeCloseTo(1, 1);
  });

  it('keep their order when stretched, and lose their costs when switches are free', () => {
    const scenario = scenarioOf(
      'two',
      [modelOf('a', 20 * GB)],
      [
        { atMs: 3, model: 0, workMs: 1 },
        { atMs: 1, model: 0, workMs: 1 },
      ],
    );
    expect(stretched(scenario, 2).arrivals.map(({ atMs }) => atMs)).toEqual([2, 6]);
    expect(scenario).toMatchObject({ sleepMs: 100, models: [{ wakeMs: 1_300 }] });
    expect(withFreeSwitches(scenario)).toMatchObject({ sleepMs: 0, models: [{ wakeMs: 0 }] });
  });
});

describe('figures', () => {
  it.each([
    [0.5, 50],
    [0.95, 95],
    [0.99, 99],
    [1, 100],
  ])('of 1 to 100, the percentile %d is %d', (share, value) => {
    expect(
      percentile(
        Array.from({ length: 100 }, (_, at) => at + 1),
        share,
      ),
    ).toBe(value);
  });

  it('take the median of any order', () => {
    expect(median([9, 1, 5])).toBe(5);
  });

  it('know the least popular and its longest wait', () => {
    const arrival = (model: number) => ({ atMs: 0, model, workMs: 1 });
    const scenario = scenarioOf(
      'three',
      ['a', 'b', 'c'].map((name) => modelOf(name, GB)),
      [0, 0, 1, 0].map(arrival),
    );
    expect(leastPopular(scenario)).toBe(1);
    const outcome = {
      waitsMs: Float64Array.from([1, 9, 4, 2]),
      longestWaitMs: 9,
      wakes: 3,
      sleeps: 1,
      switchMs: 5,
      lostMs: 25,
      endMs: 100,
    };
    expect(figuresOf(scenario, outcome)).toMatchObject({
      leastPopularMs: 4,
      maxMs: 9,
      p50Ms: 2,
      lostShare: 0.25,
    });
  });

  it('count overlapping transitions once', () => {
    const lost = new UnionTime();
    lost.begin(0);
    lost.begin(5);
    lost.end(8);
    lost.end(10);
    lost.begin(20);
    lost.end(21);
    expect(lost.totalMs).toBe(11);
  });
});

describe('the picture', () => {
  it('has a panel for each scenario and a line for each policy, at its height', () => {
    const waitsMs = [0, 0, 0, 0, 0, 0, 0, 0, 0, 50_000];
    const svg = drawWaits([{ title: 'a < b', lines: [{ name: 'ours', waitsMs }] }]);
    expect(svg).toMatch(/^<svg /);
    expect(svg).toContain('a &lt; b');
    expect(svg.match(/stroke-width="1.6"/g)).toHaveLength(1);
    // A tenth waits longer than anything below 50 s: one decade down of three, in a plot from 26 to 182.
    expect(svg).toMatch(/M44\.0 78\.0/);
  });
});
