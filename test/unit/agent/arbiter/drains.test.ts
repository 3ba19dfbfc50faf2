/** Drains and sleeps: when they go on, when they are called off, and what the answers do. */
import { describe, expect, it } from 'vitest';
import {
  driveDrains,
  movesBeside,
  onBarrierUp,
  onSlept,
  sleepIdle,
} from '../../../../agent/decide/arbiter/sleep.ts';
import type { Gpu, Phase, Replica } from '../../../../agent/decide/arbiter/state.ts';
import { GiB, gpu, replica, stateOf, stepOf } from './pieces.ts';

const now = 100_000;
const busy = { inFlight: 1, queued: 0, oldestWaitMs: 0, idleMs: 0, requestsTotal: 1 };
const quiet = { ...busy, inFlight: 0, idleMs: 60_000 };

const waiter = replica('w', {
  phase: 'asleep',
  demand: { ...busy, inFlight: 0, queued: 1, oldestWaitMs: 60_000 },
  demandAtMs: now,
});
const leaving = { for: 'w', forced: false, inFlight: 0, deadlineMs: now + 5_000 };

describe('beside one there moves', () => {
  it.each<{ phase: Phase; of?: Partial<Replica>; booting?: boolean; waking?: boolean; sleeping?: boolean }>([
    { phase: 'booting', booting: true },
    { phase: 'waking', waking: true },
    { phase: 'checking', waking: true },
    { phase: 'freeing', of: { found: true }, waking: true },
    { phase: 'freeing', sleeping: true },
    { phase: 'absent', of: { launcher: 'never', seenAtMs: now - 4_999 }, booting: true },
    { phase: 'absent', of: { launcher: 'never', seenAtMs: now - 5_000 } },
    { phase: 'absent', of: { seenAtMs: now } },
    { phase: 'serving' },
    { phase: 'sleeping', sleeping: true },
    { phase: 'booting', of: { uuids: ['GPU-1'] } },
    { phase: 'booting', of: { uuids: ['GPU-1', 'GPU-0'] }, booting: true },
  ])(
    'of one that is $phase $of: a boot $booting, a wake $waking, a sleep $sleeping',
    ({ phase, of, booting = false, waking = false, sleeping = false }) => {
      const one = replica('m', { phase: 'booting' });
      const state = stateOf([gpu()], [one, replica('other', { phase, ...of })], now);
      state.settledAtMs = now - 5_000;
      if (of?.seenAtMs === now - 4_999) state.settledAtMs = now - 4_999;
      expect(movesBeside(stepOf(state), one)).toEqual({ booting, waking, sleeping });
    },
  );
});

describe('a drain', () => {
  function drain(of: Partial<Replica>, on: Partial<Gpu> = {}, others: Replica[] = [waiter]) {
    const one = replica('m', {
      phase: 'draining',
      leaving: { ...leaving },
      demand: quiet,
      becameServingAtMs: 0,
      ...of,
    });
    const copies = others.map((other) => ({ ...other, roomMade: true }));
    const step = stepOf(stateOf([gpu(on)], [one, ...copies], now));
    driveDrains(step);
    const said = step.effects.flatMap((effect) => (effect.type === 'explain' ? [effect.message] : []));
    return { one, step, said, waiter: copies[0] };
  }

  it.each<{
    why: string;
    of?: Partial<Replica>;
    on?: Partial<Gpu>;
    others?: Replica[];
    phase: Phase;
    said?: string;
  }>([
    { why: 'goes on to sleep when it is empty', phase: 'sleeping' },
    {
      why: 'waits for the last to end',
      of: { leaving: { ...leaving, forced: true, inFlight: 1 } },
      phase: 'draining',
    },
    {
      why: 'freezes what runs when its time is over',
      of: { leaving: { ...leaving, forced: true, inFlight: 1, deadlineMs: now } },
      phase: 'sleeping',
    },
    {
      why: 'waits for a boot beside it',
      others: [waiter, replica('b', { phase: 'booting' })],
      phase: 'draining',
    },
    {
      why: 'waits for a wake beside it',
      others: [waiter, replica('b', { phase: 'waking' })],
      phase: 'draining',
    },
    {
      why: 'is called off when its pod ends',
      of: { ending: { sinceMs: 0, endSent: true, drained: false, released: false } },
      phase: 'serving',
      said: 'm goes on: the pod is being ended',
    },
    {
      why: 'is called off when its GPU resource is gone',
      on: { resource: false },
      phase: 'serving',
      said: 'm goes on: a GPU of its is out of use',
    },
    {
      why: 'is called off when the driver lists its GPU no more',
      on: { listed: false },
      phase: 'serving',
      said: 'm goes on: a GPU of its is out of use',
    },
    {
      why: 'is called off when its GPU is unwell',
      on: { usable: false },
      phase: 'serving',
      said: 'm goes on: a GPU of its is out of use',
    },
    {
      why: 'is called off when nobody waits any more',
      others: [{ ...waiter, demand: quiet }],
      phase: 'serving',
      said: 'm goes on: nobody waits for its room any more',
    },
    {
      why: 'is called off when the waiter is gone',
      others: [],
      phase: 'serving',
      said: 'm goes on: nobody waits for its room any more',
    },
    {
      why: 'is called off when a request came in its turn',
      of: { demand: busy, becameServingAtMs: now - 1 },
      phase: 'serving',
      said: 'm goes on: a request came before its turn was over',
    },
    { why: 'goes on when one came after its turn', of: { demand: busy }, phase: 'sleeping' },
    {
      why: 'is called off for one that runs, told by the barrier',
      of: { leaving: { ...leaving, inFlight: 1 }, becameServingAtMs: now - 1 },
      phase: 'serving',
      said: 'm goes on: a request came before its turn was over',
    },
    {
      why: 'goes on though busy where it was forced',
      of: { leaving: { ...leaving, forced: true }, demand: busy, becameServingAtMs: now - 1 },
      phase: 'sleeping',
    },
    {
      why: 'is called off when its sidecar does not answer',
      of: { leaving: { ...leaving, inFlight: null, deadlineMs: now } },
      phase: 'serving',
      said: 'm goes on: its sidecar did not answer',
    },
    {
      why: 'waits for its sidecar until then',
      of: { leaving: { ...leaving, inFlight: null, deadlineMs: now + 1 } },
      phase: 'draining',
    },
    {
      why: 'goes on without its word where it was forced',
      of: { leaving: { ...leaving, forced: true, inFlight: null, deadlineMs: now } },
      phase: 'sleeping',
    },
    {
      why: 'for idleness is called off by a request',
      of: { leaving: { ...leaving, for: null }, demand: busy },
      phase: 'serving',
      said: 'm goes on: a request came',
    },
    {
      why: 'for idleness is called off by a pin',
      of: { leaving: { ...leaving, for: null }, popular: true },
      phase: 'serving',
      said: 'm goes on: it is pinned now',
    },
    {
      why: 'does not freeze what runs at its last try',
      of: { leaving: { ...leaving, last: true, forced: true, inFlight: 1, deadlineMs: now - 99_000 } },
      phase: 'draining',
    },
    {
      why: 'goes on at its last try when nothing runs',
      of: { leaving: { ...leaving, last: true, forced: true } },
      phase: 'sleeping',
    },
    {
      why: 'waits at its last try for a sidecar that is not heard',
      of: {
        leaving: { ...leaving, last: true, forced: true, inFlight: null, deadlineMs: now - 29_999 },
      },
      phase: 'draining',
    },
    {
      why: 'waits for it no longer than 30 s',
      of: {
        leaving: { ...leaving, last: true, forced: true, inFlight: null, deadlineMs: now - 30_000 },
      },
      phase: 'sleeping',
    },
    { why: 'for idleness goes on else', of: { leaving: { ...leaving, for: null } }, phase: 'sleeping' },
  ])('$why', ({ of = {}, on, others, phase, said }) => {
    const run = drain(of, on, others);
    expect(run.one.phase).toBe(phase);
    expect(run.said).toEqual(said ? [said] : []);
    if (phase === 'sleeping')
      expect(run.step.effects).toEqual([{ type: 'sleep-engine', podUid: 'm', level: 1, bytes: 20 * GiB }]);
  });

  it('called off for a waiter no longer makes room for it; a forced one may be sent again at once', () => {
    const ended = { sinceMs: 0, endSent: true, drained: false, released: false };
    const idle = drain({ ending: ended });
    expect(idle.waiter?.roomMade).toBe(false);
    expect(idle.one.notSleepBeforeMs).toBeGreaterThan(now);
    const forced = drain({ ending: ended, leaving: { ...leaving, forced: true } });
    expect(forced.one.notSleepBeforeMs).toBe(0);
  });

  it('of one whose weights are discarded is a deep sleep', () => {
    const { settings } = replica('any');
    const { step } = drain({ settings: { ...settings, sleep: { ...settings.sleep, level: 'discard' } } });
    expect(step.effects).toEqual([{ type: 'sleep-engine', podUid: 'm', level: 2, bytes: 20 * GiB }]);
  });

  it.each<{ why: string; of?: Partial<Replica>; uuids?: string[]; phase: Phase }>([
    { why: 'goes on for who waits on the other', phase: 'sleeping' },
    { why: 'is called off for who waits on both', uuids: ['GPU-0', 'GPU-1'], phase: 'serving' },
    {
      why: 'is called off when a request came, its turn over or not',
      of: { demand: busy },
      phase: 'serving',
    },
    {
      why: 'is called off where it was forced',
      of: { leaving: { ...leaving, forced: true } },
      phase: 'serving',
    },
    { why: 'is called off where nobody waits', of: { leaving: { ...leaving, for: null } }, phase: 'serving' },
  ])('of a gang one of whose GPUs is out of use $why', ({ of, uuids = ['GPU-0'], phase }) => {
    for (const lost of [{ listed: false }, { usable: false }]) {
      const draining = { phase: 'draining', leaving: { ...leaving }, demand: quiet } as const;
      const gang = replica('m', { ...draining, uuids: ['GPU-0', 'GPU-1'], ...of });
      const gpus = [gpu(), gpu({ uuid: 'GPU-1', ...lost })];
      const step = stepOf(stateOf(gpus, [gang, { ...waiter, uuids }], now));
      driveDrains(step);
      expect(gang.phase).toBe(phase);
      if (phase === 'serving')
        expect(step.effects).toMatchObject([{ reason: 'SleepCalledOff', level: 'info' }]);
    }
  });

  it('hears the barrier of its own epoch alone', () => {
    const { one, step } = drain({ leaving: { ...leaving, inFlight: null }, epoch: 7 });
    const up = (epoch: number, inFlight: number) =>
      onBarrierUp(step, one, { type: 'barrier-up', podUid: 'm', barrier: { epoch, inFlight }, atMs: now });
    up(6, 3);
    expect(one.leaving?.inFlight).toBeNull();
    up(7, 3);
    expect([one.leaving?.inFlight, one.demand.inFlight]).toEqual([3, 3]);
    one.phase = 'serving';
    up(7, 1);
    expect(one.demand.inFlight).toBe(3);
  });
});

describe('an answer to a sleep', () => {
  const slept = (of: Partial<Replica>, ok: boolean, others: Replica[] = []) => {
    const one = replica('m', { phase: 'sleeping', bytes: [GiB], ...of });
    const step = stepOf(stateOf([gpu()], [one, ...others], now));
    onSlept(step, one, { type: 'slept', podUid: 'm', ok, message: 'no', atMs: now });
    return one;
  };
  it('has its bytes measured, for 10 s', () => {
    expect(slept({}, true)).toMatchObject({
      phase: 'freeing',
      found: false,
      bytes: [],
      proven: false,
      deadlineMs: now + 10_000,
    });
  });
  it('that comes too late means nothing', () => {
    expect(slept({ phase: 'serving' }, true).phase).toBe('serving');
    expect(slept({ phase: 'serving' }, false).sleepFailures).toBe(0);
  });
  it.each([
    [0, 500, false],
    [1, 1_000, false],
    [2, 2_000, true],
    [9, 30_000, true],
  ])(
    'that is no, after %i before, is tried again in %i ms; restarted for who waits: %s',
    (before, pauseMs, restarted) => {
      const last = restarted ? { last: true as const } : {};
      const one = slept({ sleepFailures: before, leaving: { ...leaving, ...last } }, false, [waiter]);
      expect([one.phase, one.sleepFailures, one.notSleepBeforeMs]).toEqual([
        'checking',
        before + 1,
        now + pauseMs,
      ]);
      const message = `it failed to sleep ${before + 1} times, and w waits for its room`;
      expect(one.mustRestart).toEqual(restarted ? { reason: 'SleepFailed', message } : null);
    },
  );

  it('that is no makes no room: who waited for it stands in line again', () => {
    const first = { ...waiter, roomMade: true };
    slept({ leaving }, false, [first]);
    expect(first.roomMade).toBe(false);
  });

  it.each<{ why: string; of?: Partial<Replica>; others?: Replica[] }>([
    { why: 'nobody waits for its room', of: { leaving: { ...leaving, for: null, last: true } } },
    { why: 'this agent did not choose it', of: { leaving: null } },
    { why: 'this was no last try', of: { leaving } },
    {
      why: 'it boots again and nobody waits for it',
      others: [replica('w', { phase: 'asking', demand: quiet })],
    },
    { why: 'who waited has gone', others: [] },
    { why: 'who waited waits no more', others: [{ ...waiter, demand: quiet }] },
    { why: 'its launcher is away', of: { launcher: 'gone' } },
  ])('that is no for the tenth time restarts nothing where $why', ({ of, others = [waiter] }) => {
    const last = { ...leaving, last: true as const };
    expect(slept({ sleepFailures: 9, leaving: last, ...of }, false, others).mustRestart).toBeNull();
  });
});

describe('one without a request for its idleTimeout sleeps', () => {
  const { settings } = replica('any');
  const minute = { ...settings, sleep: { ...settings.sleep, idleTimeoutMs: 60_000 } };
  const idle = { settings: minute, demandAtMs: now - 60_000, becameServingAtMs: 0 };
  it.each<{
    why: string;
    of?: Partial<Replica>;
    on?: Partial<Gpu>;
    others?: Replica[];
    sleeps: boolean;
    againMs?: number;
  }>([
    { why: 'from that moment on', sleeps: true },
    { why: 'not before', of: { demandAtMs: now - 59_999 }, sleeps: false, againMs: now + 1 },
    {
      why: 'counted from when it began to serve',
      of: { becameServingAtMs: now - 59_999 },
      sleeps: false,
      againMs: now + 1,
    },
    { why: 'not when it is pinned', of: { popular: true }, sleeps: false },
    { why: 'not when it is busy', of: { demand: busy }, sleeps: false },
    { why: 'not beside a boot', others: [replica('b', { phase: 'booting' })], sleeps: false },
    { why: 'not where its GPU is out of use', on: { usable: false }, sleeps: false },
    {
      why: 'not in the pause after a failure',
      of: { notSleepBeforeMs: now + 7 },
      sleeps: false,
      againMs: now + 7,
    },
    { why: 'not when it sleeps', of: { phase: 'asleep' }, sleeps: false },
  ])('$sleeps: $why', ({ of = {}, on, others = [], sleeps, againMs }) => {
    const one = replica('m', { ...idle, ...of });
    const step = stepOf(stateOf([gpu(on)], [one, ...others], now));
    sleepIdle(step);
    expect(one.phase).toBe(sleeps ? 'draining' : (of.phase ?? 'serving'));
    expect(step.nextMs).toBe(againMs ?? Number.POSITIVE_INFINITY);
    if (!sleeps) return;
    expect(one.leaving).toEqual({ for: null, forced: false, inFlight: null, deadlineMs: now + 5_000 });
    expect(step.effects.map(({ type }) => type)).toEqual(['explain', 'barrier']);
    expect(step.effects[0]).toMatchObject({ reason: 'IdleSleep', message: 'm sleeps: no request for 60 s' });
  });
});
