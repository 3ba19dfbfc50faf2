/** What hack/bench wake says of its rounds. */
import { describe, expect, it } from 'vitest';
import { type Round, resultLines, turnsOf } from '../../../../hack/benchmarks/wake/rounds.ts';

const round = (over: Partial<Round>): Round => ({
  ...{ sleepMs: 30, sleepHttpMs: 35, wakeMs: 200, wakeCpuMs: 100, wakeHttpMs: 210 },
  ...{ first: 'wake', memcpyMs: 180, memcpyCpuMs: 100, ...over },
});
const copied = [1_000, 200, 190, 210, 205, 195].map((wakeMs) => round({ wakeMs }));
const mapped = [900, 5, 4, 6, 5, 5].map((wakeHttpMs) => round({ wakeHttpMs }));

describe('the result of hack/bench wake', () => {
  it('is by the clock, of medians, without the first round', () => {
    expect(resultLines(copied, mapped, 1_200_000_000).at(-1)).toBe(
      'result: wake_vs_memcpy=0.900 sleep_ms=30.0 map_wake_ms=5.0',
    );
  });

  it('has the ratio by CPU time beside it, under its own name', () => {
    const side = resultLines(copied, mapped, 1_200_000_000).join('\n');
    expect(side).toContain('wake_vs_memcpy_cpu=1.000');
    expect(side).toContain('copies 6.00 GB/s');
  });

  it('counts rounds in which the copy went first as often as those in which the wake did', () => {
    const counted = Array.from({ length: 8 }, (_, n) => turnsOf(n + 1));
    expect(counted.filter(([first]) => first === 'wake')).toHaveLength(4);
    expect(counted[0]).toEqual(['memcpy', 'wake']);
    expect(counted[1]).toEqual(['wake', 'memcpy']);
  });
});
