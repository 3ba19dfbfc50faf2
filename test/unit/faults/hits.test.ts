/** A run of test/faults in which nobody was killed is no run. */
import { describe, expect, it } from 'vitest';
import { hitFaults, type Planned } from '../../faults/hits.ts';
import type { Hit } from '../../faults/killing.ts';
import type { Kill, Kind, Phase, Victim } from '../../faults/plan.ts';

interface Of {
  kind?: Kind;
  victim?: Victim;
  phase?: Phase;
}

const planned = (hits: Partial<Record<Hit, number>>, of: Of = {}): Planned[] => {
  const { kind = 'sim', victim = 'agent', phase = 'wake' } = of;
  const kill: Kill = { victim, model: 'red', part: 'core', when: { phase, share: 0.5, nth: 1 } };
  return Object.entries(hits).flatMap(([hit, n]) =>
    Array.from({ length: n }, () => ({ kind, kill, hit: hit as Hit })),
  );
};

describe('a run whose kills do not strike', () => {
  it('passes with half of them', () => {
    expect(hitFaults(planned({ hit: 4, late: 2, nobody: 1, missed: 1 }))).toEqual([]);
  });

  it('fails with fewer, and says how many', () => {
    expect(hitFaults(planned({ hit: 3, late: 2, nobody: 1, missed: 2 }))).toEqual([
      'sim: 3 of 8 kills struck in time, fewer than 50 %',
    ]);
  });

  it('fails when nobody was ever killed', () => {
    expect(hitFaults(planned({ missed: 1 }))).toEqual(['sim: 0 of 1 kills struck in time, fewer than 50 %']);
  });

  it('is seen for the real engine beside a simulated one of many hits', () => {
    const faults = hitFaults([...planned({ hit: 100 }), ...planned({ missed: 2 }, { kind: 'vllm' })]);
    expect(faults).toEqual(['vllm: 0 of 2 kills struck in time, fewer than 50 %']);
  });

  it('is seen for one victim among others', () => {
    const faults = hitFaults([
      ...planned({ hit: 10 }),
      ...planned({ hit: 1, nobody: 5 }, { victim: 'converter' }),
    ]);
    expect(faults).toEqual(['sim, converter: 1 of 6 kills struck in time, fewer than 33 %']);
  });

  it('is seen for one phase among others', () => {
    const faults = hitFaults([...planned({ hit: 20 }), ...planned({ late: 6 }, { phase: 'stage' })]);
    expect(faults).toEqual(['sim, stage: 0 of 6 kills struck in time, fewer than 10 %']);
  });

  it('is not told from few kills of one victim or phase', () => {
    const few = planned({ missed: 5 }, { phase: 'stage', victim: 'engine' });
    expect(hitFaults([...planned({ hit: 20 }), ...few])).toEqual([]);
  });
});
