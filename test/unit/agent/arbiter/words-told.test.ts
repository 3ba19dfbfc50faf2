/** What sidecars and launchers are told, phase by phase; sentences and their figures. */
import { describe, expect, it } from 'vitest';
import { formatGiB } from '#platform/quantity.ts';
import { explain, onGpus, seconds } from '../../../../agent/decide/arbiter/explain.ts';
import type { Replica, Step } from '../../../../agent/decide/arbiter/state.ts';
import { tellAll } from '../../../../agent/decide/arbiter/tell.ts';
import type { ArbiterEffect } from '../../../../agent/decide/arbiter/words.ts';
import { GiB, gpu, replica, stateOf, stepOf } from './pieces.ts';

const now = 100_000;
const waits = { inFlight: 0, queued: 1, oldestWaitMs: 1, idleMs: 0, requestsTotal: 1 };

function tell(one: Replica, nowMs = now): { step: Step; told: ArbiterEffect[] } {
  const step = stepOf(stateOf([gpu()], [one], nowMs));
  tellAll(step);
  return { step, told: step.effects };
}
const stateTold = (one: Replica) => {
  const [effect] = tell(one).told;
  return effect?.type === 'tell' ? effect.state : null;
};

describe('figures in sentences', () => {
  it.each([
    [0, '0.0 s'],
    [-5, '0.0 s'],
    [1_250, '1.3 s'],
    [9_940, '9.9 s'],
    [10_000, '10 s'],
    [61_400, '61 s'],
  ])('%i ms are %s', (ms, text) => {
    expect(seconds(ms)).toBe(text);
  });

  it('are GiB with one place, and GPUs in order', () => {
    expect(formatGiB(1.25 * GiB)).toBe('1.3 GiB');
    expect(onGpus([gpu({ index: 10 }), gpu({ index: 2 }), gpu({ index: 1 })])).toBe('GPU 1, 2, 10');
  });

  it('are told as information unless they warn', () => {
    const one = replica('m');
    const step = stepOf(stateOf([gpu()], [one]));
    explain(step, one, 'Wake', 'm wakes');
    explain(step, one, 'WakeFailed', 'm did not', 'warn');
    expect(step.effects).toEqual([
      { type: 'explain', podUid: 'm', reason: 'Wake', message: 'm wakes', level: 'info' },
      { type: 'explain', podUid: 'm', reason: 'WakeFailed', message: 'm did not', level: 'warn' },
    ]);
  });
});

describe('a sidecar is told', () => {
  it.each<{ what: string; of: Partial<Replica>; bytes: number[] }>([
    { what: 'what is reserved on each GPU', of: {}, bytes: [20 * GiB] },
    { what: 'what was measured where that is more', of: { awakeBytes: 22 * GiB }, bytes: [22 * GiB] },
    { what: '0 while nobody knows', of: { reservedBytes: [null] }, bytes: [0] },
    { what: '0 for a GPU that is gone', of: { uuids: ['GPU-9'] }, bytes: [0] },
  ])('of its VRAM: $what', ({ of, bytes }) => {
    expect(stateTold(replica('m', of))?.vramBytes).toEqual(bytes);
  });

  const failure = { reason: 'NeverFits', message: 'too large', retryAtMs: null };
  it.each<{ of: Partial<Replica>; says: object | null }>([
    {
      of: { phase: 'absent', bootMs: 41_000.4 },
      says: {
        state: 'PENDING',
        reason: 'WaitsToBoot',
        message: 'its engine waits for room to boot',
        expectedMs: 41_000,
      },
    },
    { of: { phase: 'asking' }, says: { state: 'PENDING', reason: 'WaitsToBoot', expectedMs: 0 } },
    {
      of: { phase: 'asking', failure },
      says: { state: 'FAILED', reason: 'NeverFits', message: 'too large', retryAfterMs: 0 },
    },
    {
      of: { phase: 'booting', bootMs: 5_000 },
      says: { state: 'WAKING', reason: 'Boots', message: 'its engine boots', expectedMs: 5_000 },
    },
    { of: { phase: 'booting', failure }, says: { state: 'WAKING' } },
    {
      of: { phase: 'serving' },
      says: { state: 'SERVING', reason: '', message: '', expectedMs: 0, retryAfterMs: 0 },
    },
    { of: { phase: 'asleep' }, says: { state: 'SLEEPING', reason: '', message: '' } },
    {
      of: { phase: 'asleep', demand: waits },
      says: { state: 'PENDING', reason: 'WaitsForRoom', message: 'it waits for room on its GPUs' },
    },
    { of: { phase: 'asleep', popular: true }, says: { state: 'PENDING', reason: 'WaitsForRoom' } },
    { of: { phase: 'asleep', failure }, says: { state: 'FAILED' } },
    { of: { phase: 'asleep', failure, demand: waits }, says: { state: 'FAILED' } },
    {
      of: { phase: 'waking', wakeMs: 812.6 },
      says: { state: 'WAKING', reason: '', message: '', expectedMs: 813 },
    },
    { of: { phase: 'freeing' }, says: null },
    { of: { phase: 'freeing', found: true }, says: { state: 'SLEEPING' } },
    { of: { phase: 'freeing', found: true, demand: waits }, says: { state: 'PENDING' } },
    {
      of: { phase: 'restarting', bootMs: 9 },
      says: { state: 'PENDING', reason: 'Restarts', message: 'its engine is restarted', expectedMs: 9 },
    },
    { of: { phase: 'draining' }, says: null },
    { of: { phase: 'sleeping' }, says: null },
    { of: { phase: 'checking' }, says: null },
    { of: { phase: 'serving', attached: false }, says: null },
  ])('$says.state $says.reason while $of.phase', ({ of, says }) => {
    const state = stateTold(replica('m', of));
    if (says === null) expect(state).toBeNull();
    else expect(state).toMatchObject(says);
  });

  it('in how many ms to try again, a second at least', () => {
    const failed = (retryAtMs: number) =>
      stateTold(replica('m', { phase: 'asleep', failure: { ...failure, retryAtMs } }));
    expect(failed(now + 30_000.4)?.retryAfterMs).toBe(30_000);
    expect(failed(now + 10)?.retryAfterMs).toBe(1_000);
  });

  it('that it may wait again, once it failed, tried again and its time is over', () => {
    const engineFailed = { reason: 'EngineFailed', message: 'it failed', retryAtMs: now };
    const of = { phase: 'asking' as const, demand: waits, failure: engineFailed };
    expect(stateTold(replica('m', of))).toMatchObject({ state: 'PENDING' });
    expect(
      stateTold(replica('m', { ...of, failure: { ...engineFailed, retryAtMs: now + 1 } })),
    ).toMatchObject({ state: 'FAILED' });
    expect(stateTold(replica('m', { ...of, demand: replica('x').demand }))).toMatchObject({
      state: 'FAILED',
    });
    expect(
      stateTold(replica('m', { ...of, failure: { ...engineFailed, reason: 'NeverFits' } })),
    ).toMatchObject({ state: 'FAILED' });
  });

  it.each<{ why: string; change: Partial<Replica>; again: boolean }>([
    { why: 'nothing changed', change: {}, again: false },
    { why: 'it has just attached', change: { mustTell: true }, again: true },
    { why: 'its state did', change: { phase: 'asleep' }, again: true },
    { why: 'it has booted', change: { bootReady: false }, again: true },
    { why: 'the reason did', change: { phase: 'restarting' }, again: true },
  ])('again: $again, when $why', ({ change, again }) => {
    const one = replica('m', { phase: 'absent' });
    const { told } = tell(one);
    expect(told).toHaveLength(1);
    expect(one.epoch).toBe(1);
    Object.assign(one, change);
    const second = tell(one).told.filter(({ type }) => type === 'tell');
    expect(second.length).toBe(again ? 1 : 0);
    expect(one.epoch).toBe(again ? 2 : 1);
    expect(one.mustTell).toBe(false);
  });

  it('of a later time to try again', () => {
    const one = replica('m', { phase: 'asleep', failure: { ...failure, retryAtMs: now + 5_000 } });
    tell(one);
    expect(tell(one).told).toEqual([]);
    one.failure = { ...failure, retryAtMs: now + 9_000 };
    expect(tell(one).told).toHaveLength(1);
  });

  it('that it serves, at which moment its turn begins, once', () => {
    const one = replica('m', { becameServingAtMs: 7, turnTold: false });
    tell(one);
    expect([one.turnTold, one.becameServingAtMs]).toEqual([true, now]);
    one.mustTell = true;
    tell(one, now + 5_000);
    expect(one.becameServingAtMs).toBe(now);
    const asleep = replica('s', { phase: 'asleep', becameServingAtMs: 7 });
    tell(asleep);
    expect([asleep.turnTold, asleep.becameServingAtMs]).toEqual([false, 7]);
  });
});

describe('a launcher that waits is told', () => {
  const asks = (of: Partial<Replica> = {}): Replica =>
    replica('m', { phase: 'asking', attached: false, askedUuids: ['GPU-0'], ...of });
  it.each<{ of: Partial<Replica>; says: object | null }>([
    { of: {}, says: { reason: 'WaitsForRoom', message: 'no room on its GPUs yet' } },
    { of: { deleting: true }, says: { reason: 'Ending', message: 'the pod is being ended' } },
    {
      of: { notBootBeforeMs: now + 1, failureText: 'code 1' },
      says: { reason: 'BackOff', message: 'its engine ended, code 1: a pause before the next boot' },
    },
    {
      of: { key: '' },
      says: { reason: 'PodUnknown', message: 'neither the API server nor its sidecar has named it' },
    },
    {
      of: { askedUuids: ['GPU-1', 'GPU-2'] },
      says: { reason: 'UuidMismatch', message: 'the pod runs with GPU-1, GPU-2, its annotation says GPU-0' },
    },
    {
      of: { uuids: ['GPU-8', 'GPU-9'], askedUuids: ['GPU-9', 'GPU-8'] },
      says: { reason: 'GpuMissing', message: 'the driver does not list all of GPU-8, GPU-9' },
    },
    {
      of: { failure: { reason: 'NeverFits', message: 'too large', retryAtMs: null } },
      says: { reason: 'NeverFits', message: 'too large' },
    },
    {
      of: { failure: { reason: 'GpuUnusable', message: 'away', retryAtMs: 1 } },
      says: { reason: 'WaitsForRoom' },
    },
    { of: { waitTold: 'WaitsForRoom' }, says: null },
    { of: { launcher: 'gone' }, says: null },
    { of: { phase: 'booting' }, says: null },
  ])('$says.reason', ({ of, says }) => {
    const state = stateOf([gpu()], [asks(of)], now);
    const step = stepOf(state);
    tellAll(step);
    if (says === null) expect(step.effects).toEqual([]);
    else expect(step.effects).toEqual([expect.objectContaining({ type: 'wait', podUid: 'm', ...says })]);
  });
});
