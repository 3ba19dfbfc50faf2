import { describe, expect, it } from 'vitest';
import { leastLongestWaitMs, leastSwitchMs } from '../../../../hack/benchmarks/policy/optimum.ts';
import {
  type Arrival,
  GB,
  modelOf,
  type Scenario,
  scenarioOf,
} from '../../../../hack/benchmarks/policy/scenario.ts';
import { randomFor } from '../../../sim/random.ts';

/** Two models of 60 GB: a wake takes 3.3 s, a sleep 0.1 s. */
const wakeMs = 3_300;
const switchMs = 3_400;

function slot(...arrivals: [model: string, atS: number, workS: number][]): Scenario {
  const names = [...new Set(arrivals.map(([model]) => model))].sort();
  return scenarioOf(
    'slot',
    names.map((name) => modelOf(name, 60 * GB)),
    arrivals.map(([model, atS, workS]) => ({
      atMs: atS * 1000,
      model: names.indexOf(model),
      workMs: workS * 1000,
    })),
  );
}

const anyWaitMs = 1e9;

describe('the optimum on one slot', () => {
  it.each<[string, Scenario, number, number | null]>([
    ['wakes once for one model', slot(['a', 5, 1], ['a', 9, 1]), anyWaitMs, wakeMs],
    [
      'switches once when waits do not matter',
      slot(['a', 5, 1], ['b', 6, 1], ['a', 7, 1]),
      anyWaitMs,
      wakeMs + switchMs,
    ],
    [
      'goes back when the other may not wait so long',
      slot(['a', 5, 1], ['b', 30, 1], ['a', 60, 1]),
      20_000,
      wakeMs + 2 * switchMs,
    ],
    ['is ahead of time where it can', slot(['a', 5, 1]), 0, wakeMs],
    // b first: a waits for b's end and the switch, 6 + 1 + 3.4 − 5 s. a first: b waits 5 + 5 + 3.4 − 6 s.
    ['cuts nothing', slot(['a', 5, 5], ['b', 6, 1]), 5_399, null],
    ['turns the order round where that is shorter', slot(['a', 5, 5], ['b', 6, 1]), 5_400, wakeMs + switchMs],
  ])('%s', (_, scenario, waitMsMax, least) => {
    expect(leastSwitchMs(scenario, waitMsMax)).toBe(least);
  });

  it('finds the shortest longest wait', () => {
    expect(leastLongestWaitMs(slot(['a', 5, 5], ['b', 6, 1]), 60_000)).toBeCloseTo(5_400, -1);
    expect(leastLongestWaitMs(slot(['a', 5, 1]), 60_000)).toBe(0);
  });

  it('refuses models that fit beside one another', () => {
    const small = { ...slot(['a', 1, 1], ['b', 2, 1]), gpuBytes: 120 * GB };
    expect(() => leastSwitchMs(small, anyWaitMs)).toThrow('two models fit together');
  });

  it.each(Array.from({ length: 12 }, (_, seed) => seed))(
    'agrees with trying every second, case %i',
    (seed) => {
      const random = randomFor(seed, 'every second');
      const models = ['a', 'b', 'c'].map((name) => ({
        name,
        bytes: 60 * GB,
        wakeMs: random.int(1, 3) * 1000,
      }));
      const arrivals: Arrival[] = Array.from({ length: random.int(3, 5) }, () => ({
        atMs: random.int(3, 18) * 1000,
        model: random.int(0, 2),
        workMs: random.int(1, 6) * 1000,
      }));
      const scenario = { ...scenarioOf('seconds', models, arrivals), sleepMs: 1000 };
      const waitS = random.int(0, 25);
      expect(leastSwitchMs(scenario, waitS * 1000)).toBe(everySecond(scenario, waitS));
    },
  );
});

const never = Number.POSITIVE_INFINITY;

/** The same question answered by brute force: at each second stay, stop taking requests, or leave. Times in whole seconds. */
function everySecond({ models, arrivals, sleepMs }: Scenario, waitS: number): number | null {
  const endS = 90;
  const own = models.map((_, at) =>
    arrivals
      .filter(({ model }) => model === at)
      .map(({ atMs, workMs }) => [atMs / 1000, workMs / 1000] as const),
  );
  /** The model takes all that have come; null: one of them has waited too long. */
  const take = (at: number, model: number, busyS: number, taken: number[]) => {
    const due = own[model]!.slice(taken[model]!).filter(([arrivedS]) => arrivedS <= at);
    if (due.some(([arrivedS]) => at - arrivedS > waitS)) return null;
    const busy = due.reduce((until, [, workS]) => Math.max(until, at + workS), busyS);
    return { busy, now: taken.with(model, taken[model]! + due.length) };
  };
  const known = new Map<string, number>();
  /** From second `at` on, `model` awake and busy until `busyS`; `taken` of each; `stops`: it takes no more. */
  const least = (at: number, model: number, busyS: number, taken: number[], stops: boolean): number => {
    const key = [at, model, busyS, taken, stops].join();
    const before = known.get(key);
    if (before !== undefined) return before;
    const took = stops ? { busy: busyS, now: taken } : take(at, model, busyS, taken);
    const found = at > endS || took === null ? never : choose(at, model, took.busy, took.now, stops);
    known.set(key, found);
    return found;
  };
  const choose = (at: number, model: number, busy: number, now: number[], stops: boolean): number => {
    if (now.every((count, one) => count === own[one]!.length)) return 0;
    const stay = least(at + 1, model, busy, now, stops);
    const stop = stops ? never : least(at + 1, model, busy, now, true);
    const others = busy > at ? [] : models.flatMap((_, other) => (other === model ? [] : [other]));
    const leave = others.map((other) => {
      const costMs = sleepMs + models[other]!.wakeMs;
      return costMs + least(at + costMs / 1000, other, 0, now, false);
    });
    return Math.min(stay, stop, ...leave);
  };
  const none = models.map(() => 0);
  const found = Math.min(...models.map(({ wakeMs }, model) => wakeMs + least(0, model, 0, none, false)));
  return found === never ? null : found;
}
