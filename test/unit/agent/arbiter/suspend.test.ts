/** sleep.level suspend, as the arbiter orders it, and a residue of another kind. */
import { describe, expect, it } from 'vitest';
import { defaultSettings, type SleepLevel } from '#proto/settings.ts';
import { onSlept } from '../../../../agent/decide/arbiter/sleep.ts';
import type { Step } from '../../../../agent/decide/arbiter/state.ts';
import { sendSleep } from '../../../../agent/decide/arbiter/transitions.ts';
import { GiB, gpu, replica, stateOf } from './pieces.ts';

const now = 100_000;

function stepOf(one: ReturnType<typeof replica>): Step {
  return {
    state: stateOf([gpu()], [one], now),
    now,
    effects: [],
    dueMs: null,
    changed: false,
  } as unknown as Step;
}

describe('a sleep', () => {
  it.each<[SleepLevel, object]>([
    ['auto', { level: 1 }],
    ['offload', { level: 1 }],
    ['discard', { level: 2 }],
    ['suspend', { level: 1, suspend: true }],
  ])('of level %s is ordered as %j', (level, ordered) => {
    const sleep = { ...defaultSettings.sleep, level };
    const one = replica('m', { phase: 'draining', settings: { ...defaultSettings, sleep } });
    const step = stepOf(one);
    sendSleep(step, one);
    expect(step.effects).toEqual([{ type: 'sleep-engine', podUid: 'm', bytes: 20 * GiB, ...ordered }]);
  });

  it.each([
    { was: false, is: true, residue: null },
    { was: true, is: false, residue: null },
    { was: true, is: true, residue: GiB },
    { was: false, is: false, residue: GiB },
  ])(
    'with suspended=$was before and $is now is measured anew only when it changes',
    ({ was, is, residue }) => {
      const one = replica('m', {
        phase: 'sleeping',
        suspended: was,
        residueBytes: GiB,
        firstResidueBytes: GiB,
      });
      const step = stepOf(one);
      onSlept(step, one, { type: 'slept', podUid: 'm', ok: true, message: '', suspended: is, atMs: now });
      expect(one).toMatchObject({
        phase: 'freeing',
        suspended: is,
        residueBytes: residue,
        firstResidueBytes: residue,
      });
    },
  );
});
