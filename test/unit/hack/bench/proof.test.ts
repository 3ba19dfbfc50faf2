import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { defaultSettings } from '#proto/settings.ts';
import { weightingsOf } from '../../../../hack/benchmarks/policy/lower-bound.ts';
import { PeerNode } from '../../../../hack/benchmarks/policy/node.ts';
import { OurNode } from '../../../../hack/benchmarks/policy/ours.ts';
import { fcfs, lru, reference } from '../../../../hack/benchmarks/policy/peers.ts';
import { type ProofLimits, proveLate } from '../../../../hack/benchmarks/policy/proof.ts';
import { type Grid, gridOf } from '../../../../hack/benchmarks/policy/proof-grid.ts';
import {
  GB,
  modelOf,
  type Outcome,
  type Scenario,
  scenarioOf,
  stretched,
} from '../../../../hack/benchmarks/policy/scenario.ts';
import { parseTrace } from '../../../../hack/benchmarks/policy/trace.ts';
import { bursts, diurnal, smallCase, zipfTrace } from '../../../../hack/benchmarks/policy/workloads.ts';
import { type Random, randomFor } from '../../../sim/random.ts';
import { fewestLate } from './fewest-late.ts';

const whole: ProofLimits = { levels: 100, statesMax: 1e6, lateEnough: 1e9, timeMs: 1e9 };
/** Simplified wherever it can be: what follows must still be no more than the truth. */
const simplified: ProofLimits[] = [
  { ...whole, levels: 1 },
  { ...whole, levels: 2 },
  { ...whole, statesMax: 2 },
  { ...whole, levels: 2, statesMax: 6 },
];

/** 2 or 3 models of which some fit together, 4 to 7 requests on a grid of few slots. */
function tinyGrid(random: Random): Grid {
  const models = random.int(2, 3);
  const sizes = Array.from({ length: models }, () => random.int(2, 7));
  const room = random.int(7, 10);
  const fits = Uint8Array.from({ length: 1 << models }, (_, set) =>
    sizes.reduce((sum, size, at) => (set & (1 << at) ? sum + size : sum), 0) <= room ? 1 : 0,
  );
  const span = random.int(4, 14);
  const requests = Array.from({ length: random.int(4, 7) }, () => ({
    model: random.int(0, models - 1),
    from: random.int(0, span),
    need: random.int(1, 4),
    spare: random.int(0, 5),
  })).sort((a, b) => a.from - b.from);
  const weights = weightingsOf(sizes.map((size) => size / room));
  return { models, wakeSlots: Uint8Array.from(sizes, () => random.int(0, 3)), fits, weights, requests };
}

describe('a proof on a grid', () => {
  it('never claims more late requests than the best of all schedules has, and seldom fewer', () => {
    const random = randomFor(1, 'tiny grids');
    let late = 0;
    let equal = 0;
    const cases = 100;
    for (let at = 0; at < cases; at++) {
      const grid = tinyGrid(random);
      const truth = fewestLate(grid);
      const found = proveLate(grid, whole).late;
      const claims = [found, ...simplified.map((limits) => proveLate(grid, limits).late)];
      for (const claim of claims)
        if (claim > truth) expect.fail(`${claim} claimed, ${truth} true: ${JSON.stringify(grid)}`);
      if (truth > 0) late++;
      if (truth === found) equal++;
    }
    // The cases say something: many have late ones, and the proof finds them.
    expect(late).toBeGreaterThan(cases / 3);
    expect(equal).toBeGreaterThan(cases * 0.9);
  });
});
describe('the grid', () => {
  const { models, sleepMs } = scenarioOf('one', [modelOf('m', 30 * GB)], []);
  const { wakeMs } = models[0]!;

  /** What a model did: it took its memory, woke, served, slept and gave it back. */
  interface Stay {
    takenMs: number;
    readyMs: number;
    untilMs: number;
    goneMs: number;
  }

  function staysOf(run: { pauseMs: number; serveMs: number }[]): Stay[] {
    let nowMs = 0;
    return run.map(({ pauseMs, serveMs }) => {
      const takenMs = nowMs + pauseMs;
      const readyMs = takenMs + wakeMs;
      const untilMs = readyMs + serveMs;
      nowMs = untilMs + sleepMs;
      return { takenMs, readyMs, untilMs, goneMs: nowMs };
    });
  }

  /** Time in which a request that came at this moment can be served. */
  const servedOf = (stays: Stay[], atMs: number): [fromMs: number, toMs: number][] =>
    stays
      .map(({ readyMs, untilMs }): [number, number] => [Math.max(readyMs, atMs), untilMs])
      .filter(([fromMs, toMs]) => toMs > fromMs);

  function endOf(served: [fromMs: number, toMs: number][], workMs: number): number {
    let leftMs = workMs;
    let endMs = 0;
    for (const [fromMs, toMs] of served) {
      if (leftMs <= 0) break;
      endMs = Math.min(toMs, fromMs + leftMs);
      leftMs -= endMs - fromMs;
    }
    return endMs;
  }

  function servedSlots(stays: Stay[], { wakeSlots, requests }: Grid, slotMs: number): number {
    const { from, need, spare } = requests[0]!;
    return stays.reduce((sum, { takenMs, goneMs }) => {
      const first = Math.max(from, Math.ceil(takenMs / slotMs) + wakeSlots[0]!);
      const end = Math.min(from + need + spare, Math.ceil(goneMs / slotMs));
      return sum + Math.max(0, end - first);
    }, 0);
  }

  const lasting = fc.oneof(
    fc.double({ min: 0, max: 4_000, noNaN: true }),
    fc.integer({ min: 0, max: 80 }).map((steps) => steps * 50),
  );
  const run = fc.array(fc.record({ pauseMs: lasting, serveMs: lasting }), { minLength: 1, maxLength: 6 });
  const share = fc.oneof(
    fc.double({ min: 0, max: 1, noNaN: true }),
    fc.integer({ min: 0, max: 40 }).map((part) => part / 40),
  );
  const slot = fc.oneof(
    fc.constantFrom(150, 200, 250, 400, 500, 1_000),
    fc.double({ min: 150, max: 1_500, noNaN: true }),
  );

  it('serves in time whatever a real run did, to the microsecond and with slots of any length', () => {
    fc.assert(
      fc.property(run, slot, share, share, (stretches, slotMs, arrival, part) => {
        const stays = staysOf(stretches);
        const atMs = arrival * stays.at(-1)!.goneMs;
        const served = servedOf(stays, atMs);
        const workMs = part * served.reduce((sum, [fromMs, toMs]) => sum + toMs - fromMs, 0);
        fc.pre(workMs >= 1);
        const waitMs = endOf(served, workMs) - atMs - workMs;
        fc.pre(waitMs / slotMs < 110);
        const scenario = scenarioOf('run', models, [{ atMs, model: 0, workMs }]);
        const grid = gridOf(scenario, waitMs, slotMs);
        expect(servedSlots(stays, grid, slotMs)).toBeGreaterThanOrEqual(grid.requests[0]!.need);
      }),
      { numRuns: 10_000 },
    );
  });
});

describe('a proof on a scenario', () => {
  const rows = parseTrace(readFileSync('test/fixtures/traces/azure-llm-2023-conv.csv', 'utf8'), 300);
  const waitsOf = (scenario: Scenario): Outcome['waitsMs'][] =>
    [
      new PeerNode(scenario, lru({ residenceMs: 0, patienceMs: 0 })),
      new PeerNode(scenario, lru({ residenceMs: 1_000, patienceMs: 5_000 })),
      new PeerNode(scenario, fcfs({ residenceMs: 0, strict: false })),
      new PeerNode(scenario, reference()),
      new OurNode(scenario),
      new OurNode(scenario, { ...defaultSettings, sleep: { ...defaultSettings.sleep, drainTimeoutMs: 1 } }),
    ].map((node) => node.run(1e9).waitsMs);

  it.each<[string, Scenario, number[]]>([
    ['a trace on 4 models', stretched(zipfTrace(rows, 4, 1), 8), [1_000, 4_000, 8_000]],
    ['a trace on 8 models', stretched(zipfTrace(rows, 8, 1), 19), [1_000, 4_000, 8_000]],
    ['bursts', stretched(bursts(rows, 8, 300), 0.5), [1_000, 2_000]],
    ['a day', stretched(diurnal(rows, 8, 300), 1.6), [1_000, 4_000]],
    ...[1, 2, 3, 4, 5, 6].map((seed): [string, Scenario, number[]] => [
      `small case ${seed}`,
      smallCase(seed),
      [500, 2_000, 5_000],
    ]),
  ])('is kept by every policy, and by every beginning of its requests: %s', (_, scenario, limitsMs) => {
    const all = waitsOf(scenario);
    let proven = 0;
    for (const waitMs of limitsMs) {
      for (const part of [1, 0.5, 0.25]) {
        const arrivals = scenario.arrivals.slice(0, Math.ceil(scenario.arrivals.length * part));
        const grid = gridOf({ ...scenario, arrivals }, waitMs, 500);
        const { late } = proveLate(grid, { levels: 2, statesMax: 50, lateEnough: 1e9, timeMs: 1e9 });
        proven += late;
        for (const waitsMs of all)
          expect(
            [...waitsMs.subarray(0, arrivals.length)].filter((ms) => ms > waitMs).length,
          ).toBeGreaterThanOrEqual(late);
      }
    }
    expect(proven).toBeGreaterThan(0);
  });

  /** Two models that exclude one another, each asked for 10 s at once, again and again. */
  const pairs = (count: number): Scenario =>
    scenarioOf(
      'pairs',
      [modelOf('a', 60 * GB), modelOf('b', 60 * GB)],
      Array.from({ length: count }, (_, at) =>
        [0, 1].map((model) => ({ atMs: at * 60_000, model, workMs: 10_000 })),
      ).flat(),
    );

  it.each([
    // Whoever is second waits for the other's 10 s, its sleep (0.1 s) and its own wake (3.3 s).
    ['proves one late of each pair that must wait 13.4 s', 12_900, 5],
    ['and none where both can be served', 13_401, 0],
  ])('%s', (_, waitMs, late) => {
    expect(proveLate(gridOf(pairs(5), waitMs, 150), whole)).toMatchObject({ late, requests: 10 });
  });

  it('counts one late as soon as it is certain, not when it has waited too long', () => {
    const scenario = scenarioOf(
      'two pairs',
      [modelOf('a', 60 * GB), modelOf('b', 60 * GB)],
      [0, 0, 3_000, 3_000].map((atMs, at) => ({ atMs, model: at % 2, workMs: 10_000 })),
    );
    // The first pair is beyond help at once; counted after its 5 s, the second would be open by then and given away with it.
    expect(proveLate(gridOf(scenario, 5_000, 250), { ...whole, levels: 1 })).toMatchObject({ late: 2 });
  });

  it('stops when enough are late, and when its time is over', () => {
    const grid = gridOf(pairs(50), 5_000, 250);
    expect(proveLate(grid, { ...whole, lateEnough: 3 })).toMatchObject({ late: 3 });
    expect(proveLate(grid, { ...whole, timeMs: 0 })).toMatchObject({ late: 0, requests: 0 });
  });

  it('leaves out what is open beyond its columns', () => {
    const scenario = scenarioOf(
      'crowd',
      [modelOf('a', 60 * GB), modelOf('b', 60 * GB)],
      Array.from({ length: 400 }, (_, at) => ({ atMs: at, model: at % 2, workMs: 10_000 })),
    );
    const { late, requests } = proveLate(gridOf(scenario, 5_000, 500), whole);
    expect(requests).toBe(400);
    expect(late).toBeGreaterThan(0);
    expect(late).toBeLessThanOrEqual(200);
  });

  it.each<[string, () => Grid, string]>([
    [
      'more models than sets are counted of',
      () => gridOf({ ...pairs(1), models: new Array(21).fill(modelOf('m', GB)) }, 1_000, 250),
      'at most 20',
    ],
    ['waits of more slots than a byte counts', () => gridOf(pairs(1), 100_000, 500), 'at most 120 slots'],
    // A wake of 3.3 s, a sleep of 0.1 s: one slot more and a stay may show in none for all its service.
    ['slots longer than a wake and a sleep', () => gridOf(pairs(1), 10_000, 3_401), 'at most the 3400 ms'],
  ])('refuses %s', (_, make, message) => {
    expect(make).toThrow(message);
  });
});
