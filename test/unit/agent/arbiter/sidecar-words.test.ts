/** What a sidecar says when it comes, and what its going leaves behind. */

import { describe, expect, it } from 'vitest';
import { linkProtocol } from '#proto/link.ts';
import { defaultSettings } from '#proto/settings.ts';
import { onAttached, onDetached } from '../../../../agent/decide/arbiter/restart.ts';
import type { Phase, Replica, Step } from '../../../../agent/decide/arbiter/state.ts';
import { beginDrain } from '../../../../agent/decide/arbiter/transitions.ts';
import { gpu, replica, stateOf, stepOf } from './pieces.ts';

const now = 100_000;
const stepWith = (one: Replica): Step => stepOf(stateOf([gpu()], [one], now));
const quiet = { inFlight: 0, queued: 0, oldestWaitMs: 0, idleMs: 0, requestsTotal: 0 };

describe('a sidecar', () => {
  const hello = {
    protocol: linkProtocol,
    release: '',
    podUid: 'm',
    pod: 'm-pod',
    namespace: 'team',
    model: 'm',
    replica: 2,
    gpuUuids: ['GPU-3'],
    settings: '',
    state: 'SLEEPING' as const,
    epoch: 9,
    bootReady: true,
    demand: quiet,
  };
  const attach = (
    of: Partial<Replica>,
    rest: Partial<Omit<typeof hello, 'state'>> & { state?: 'SLEEPING' | 'WAKING' } = {},
  ) => {
    const one = replica('m', { attached: false, ...of });
    const step = stepWith(one);
    onAttached(step, one, { type: 'attached', hello: { ...hello, ...rest }, atMs: now });
    return { one, step };
  };
  it('that says hello names its replica, unless the API server has', () => {
    expect(attach({ listed: false, key: '', uuids: [] }).one).toMatchObject({
      key: 'team/m/2',
      uuids: ['GPU-3'],
      attached: true,
      mustTell: true,
    });
    expect(attach({ listed: true }).one).toMatchObject({ key: 'default/m/0', uuids: ['GPU-0'] });
  });
  it('keeps of an unlisted pod the GPUs and settings that are known, where it has none to say', () => {
    const settings = { ...defaultSettings, fairness: { ...defaultSettings.fairness, priority: 3 } };
    const { one } = attach({ listed: false, settings }, { settings: 'no' });
    expect([one.uuids, one.settings]).toEqual([['GPU-0'], settings]);
    const said = attach({ listed: false, settings }, { settings: '{"fairness":{"priority":7}}' });
    expect(said.one.settings.fairness.priority).toBe(7);
    expect(attach({ settings }, { settings: '{"fairness":{"priority":7}}' }).one.settings).toBe(settings);
  });
  it('says what it was told last and what its clients want, and lets that count at once', () => {
    const { one, step } = attach({}, { demand: { ...quiet, queued: 2 } });
    expect(one.told).toEqual({
      state: 'SLEEPING',
      bootReady: true,
      reason: '',
      message: '',
      retryAtMs: null,
    });
    expect(one.demand.queued).toBe(2);
    expect([step.state.bindingsStale, step.changed]).toEqual([true, true]);
  });
  it('goes on above the highest epoch, ready if either says so', () => {
    expect(attach({ epoch: 4 }).one.epoch).toBe(9);
    expect(attach({ epoch: 12 }).one.epoch).toBe(12);
    expect(attach({ bootReady: false }, { bootReady: false }).one.bootReady).toBe(false);
    expect(attach({ bootReady: false }).one.bootReady).toBe(true);
    expect(attach({ bootReady: true }, { bootReady: false }).one.bootReady).toBe(true);
  });
  it.each<{ why: string; of: Partial<Replica>; bootReady?: boolean; phase: Phase }>([
    {
      why: 'of an engine that answered once, its launcher silent',
      of: { phase: 'absent', launcher: 'never' },
      phase: 'checking',
    },
    {
      why: 'of one that never did',
      of: { phase: 'absent', launcher: 'never' },
      bootReady: false,
      phase: 'absent',
    },
    { why: 'of one whose launcher said that none runs', of: { phase: 'absent' }, phase: 'absent' },
    { why: 'of one that serves', of: {}, phase: 'serving' },
    {
      why: 'of a sleeper whose launcher is silent',
      of: { phase: 'asleep', launcher: 'never' },
      phase: 'asleep',
    },
  ])('$why: $phase', ({ of, bootReady = true, phase }) => {
    expect(attach(of, { bootReady }).one.phase).toBe(phase);
  });
  it.each<{ of: Partial<Replica>; phase: Phase; wakeLeft: boolean }>([
    { of: { phase: 'checking' }, phase: 'checking', wakeLeft: true },
    { of: { phase: 'absent', launcher: 'never' }, phase: 'checking', wakeLeft: true },
    { of: { phase: 'freeing', found: true }, phase: 'waking', wakeLeft: false },
    { of: { phase: 'asleep', found: true }, phase: 'asleep', wakeLeft: false },
    { of: { phase: 'freeing', found: false }, phase: 'freeing', wakeLeft: false },
    { of: { phase: 'checking', wakeFailures: 1 }, phase: 'checking', wakeLeft: false },
    { of: { phase: 'asleep' }, phase: 'asleep', wakeLeft: false },
  ])('that was told of a wake by an agent before us: $of', ({ of, phase, wakeLeft }) => {
    expect(attach(of, { state: 'WAKING' }).one).toMatchObject({ phase, wakeLeft });
    expect(attach({ ...of, launcher: 'connected' }, { state: 'WAKING', bootReady: false }).one.wakeLeft).toBe(
      false,
    );
  });
  it.each<{ phase: Phase; of?: Partial<Replica>; barrierMs: number | null }>([
    {
      phase: 'draining',
      of: { leaving: { for: null, forced: true, inFlight: 3, deadlineMs: now + 700 } },
      barrierMs: 700,
    },
    {
      phase: 'draining',
      of: { leaving: { for: null, forced: true, inFlight: 3, deadlineMs: now - 700 } },
      barrierMs: 0,
    },
    { phase: 'sleeping', barrierMs: 0 },
    { phase: 'freeing', barrierMs: 0 },
    { phase: 'freeing', of: { found: true }, barrierMs: null },
    { phase: 'serving', barrierMs: null },
  ])(
    'that comes back while its engine is $phase gets a barrier of $barrierMs ms',
    ({ phase, of, barrierMs }) => {
      const { one, step } = attach({ phase, ...of });
      expect(step.effects).toEqual(
        barrierMs === null ? [] : [{ type: 'barrier', podUid: 'm', epoch: 10, drainTimeoutMs: barrierMs }],
      );
      if (barrierMs !== null) expect([one.told.state, one.mustTell]).toEqual(['DEACTIVATING', false]);
      if (one.leaving) expect(one.leaving.inFlight).toBeNull();
    },
  );
  it('that comes back to a pod that ends is told again', () => {
    expect(
      attach({ ending: { sinceMs: 0, endSent: true, drained: false, released: false } }).one.ending?.endSent,
    ).toBe(false);
  });
  it('that goes leaves what still runs unknown', () => {
    const one = replica('m', { leaving: { for: null, forced: true, inFlight: 3, deadlineMs: 1 } });
    const step = stepWith(one);
    onDetached(step, one);
    expect([one.attached, one.detachedAtMs, one.leaving?.inFlight, step.changed]).toEqual([
      false,
      now,
      null,
      true,
    ]);
  });
  it('that cannot be heard gets no barrier; its engine drains all the same', () => {
    const { settings } = replica('any');
    for (const attached of [true, false]) {
      const one = replica('m', {
        attached,
        epoch: 3,
        settings: { ...settings, sleep: { ...settings.sleep, drainTimeoutMs: 7_000 } },
      });
      const step = stepWith(one);
      beginDrain(step, one, { for: 'w', forced: true });
      expect(one).toMatchObject({
        phase: 'draining',
        leaving: { for: 'w', forced: true, inFlight: null, deadlineMs: now + 7_000 },
      });
      expect(step.effects).toEqual(
        attached ? [{ type: 'barrier', podUid: 'm', epoch: 4, drainTimeoutMs: 7_000 }] : [],
      );
    }
  });
});
