import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { defaultSettings } from '#proto/settings.ts';
import { percentile } from '../../../../hack/benchmarks/policy/figures.ts';
import { leastWaitMs, weightings } from '../../../../hack/benchmarks/policy/lower-bound.ts';
import { PeerNode } from '../../../../hack/benchmarks/policy/node.ts';
import { OurNode } from '../../../../hack/benchmarks/policy/ours.ts';
import { fcfs, lru } from '../../../../hack/benchmarks/policy/peers.ts';
import {
  GB,
  modelOf,
  residueBytes,
  type Scenario,
  scenarioOf,
  stretched,
} from '../../../../hack/benchmarks/policy/scenario.ts';
import { parseTrace } from '../../../../hack/benchmarks/policy/trace.ts';
import { bursts, smallCase, zipfTrace } from '../../../../hack/benchmarks/policy/workloads.ts';

/** Models a, b, … of this size, each asked at the same moments for 10 s. */
const together = (gigabytes: number, models: number, ...atS: number[]): Scenario =>
  scenarioOf(
    'together',
    Array.from({ length: models }, (_, at) => modelOf(`m${at}`, gigabytes * GB)),
    atS.flatMap((at) =>
      Array.from({ length: models }, (_, model) => ({ atMs: at * 1000, model, workMs: 10_000 })),
    ),
  );

describe('the lower bound', () => {
  it.each<[string, Scenario, number, number]>([
    // One is awake, the other's work and wake (3.3 s) come on top of the 10 s.
    ['of two that exclude one another', together(60, 2, 5), 1, 13_300],
    ['of three that exclude one another', together(60, 3, 5), 1, 26_600],
    ['of two that fit together is nothing', together(30, 2, 5), 1, 0],
    // Each weighs a half: 4 × (10 + 1.8) / 2, less one wake and the window.
    ['of four of which two fit', together(30, 4, 5), 1, 11_800],
    ['of half the requests is nothing when half of them need not wait', together(60, 2, 5, 100), 0.5, 0],
    ['of three quarters is what the second pair proves', together(60, 2, 5, 100), 0.75, 13_300],
    ['of one alone is nothing: it may be awake', together(60, 1, 5, 6, 7), 1, 0],
  ])('%s', (_, scenario, share, leastMs) => {
    const found = leastWaitMs(scenario, share);
    expect(found).toBeLessThanOrEqual(leastMs);
    expect(found).toBeGreaterThan(leastMs - 20);
  });

  const rows = parseTrace(readFileSync('test/fixtures/traces/azure-llm-2023-conv.csv', 'utf8'), 400);
  it.each<[string, Scenario]>([
    ['a trace', stretched(zipfTrace(rows, 8, 1), 8)],
    ['bursts', stretched(bursts(rows, 8, 400), 0.5)],
    ...[1, 2, 3, 4, 5, 6, 7, 8].map((seed): [string, Scenario] => [`small case ${seed}`, smallCase(seed)]),
  ])('is kept by every policy: %s', (_, scenario) => {
    const outcomes = [
      new PeerNode(scenario, lru({ residenceMs: 0, patienceMs: 0 })).run(1e9),
      new PeerNode(scenario, lru({ residenceMs: 1_000, patienceMs: 5_000 })).run(1e9),
      new PeerNode(scenario, fcfs({ residenceMs: 0, strict: false })).run(1e9),
      new OurNode(scenario).run(1e9),
      new OurNode(scenario, {
        ...defaultSettings,
        sleep: { ...defaultSettings.sleep, drainTimeoutMs: 1 },
      }).run(1e9),
    ];
    for (const share of [0.9, 0.99, 1]) {
      const least = leastWaitMs(scenario, share);
      for (const { waitsMs } of outcomes)
        expect(percentile(Float64Array.from(waitsMs).sort(), share)).toBeGreaterThanOrEqual(least);
    }
  });

  it.each([4, 8, 12])('weighs what fits together at most 1, %i models', (count) => {
    const scenario = zipfTrace(rows, count, 1);
    const { models, gpuBytes } = scenario;
    const freeBytes = gpuBytes - count * residueBytes;
    for (const weights of weightings(scenario)) {
      for (let set = 0; set < 2 ** count; set++) {
        const chosen = models.flatMap((model, at) =>
          set & (1 << at) ? [{ model, weight: weights[at]! }] : [],
        );
        const bytes = chosen.reduce((sum, { model }) => sum + model.bytes - residueBytes, 0);
        if (bytes > freeBytes) continue;
        const weight = chosen.reduce((sum, one) => sum + one.weight, 0);
        if (weight > 1 + 1e-9) expect.fail(`${chosen.map(({ model }) => model.name)} weigh ${weight}`);
      }
    }
  });
});
