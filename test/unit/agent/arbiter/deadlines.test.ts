/** What did not come in time, and what must be ended. */
import { describe, expect, it } from 'vitest';
import {
  bootObstacle,
  isMeasuredFree,
  judgeFailures,
  startBoot,
} from '../../../../agent/decide/arbiter/boot.ts';
import { driveFaults, forgiveStall } from '../../../../agent/decide/arbiter/faults.ts';
import type { ArbiterState, Gpu, Phase, Replica } from '../../../../agent/decide/arbiter/state.ts';
import { GiB, gpu, replica, stateOf, stepOf } from './pieces.ts';

const now = 100_000;
const waits = { inFlight: 0, queued: 1, oldestWaitMs: 5_000, idleMs: 0, requestsTotal: 1 };
const mustRestart = { reason: 'ResidueKept', message: 'it keeps 3 GiB' };

function drive(of: Partial<Replica>, on: Partial<Gpu> = {}, others: Replica[] = []) {
  const one = replica('m', of);
  const step = stepOf(stateOf([gpu(on)], [one, ...others], now));
  driveFaults(step);
  const said = step.effects.flatMap((effect) => (effect.type === 'explain' ? [effect.message] : []));
  const sent = step.effects.flatMap(({ type }) => (type === 'explain' ? [] : [type]));
  return { one, step, said, sent };
}

describe('a deadline', () => {
  it.each<{ of: Partial<Replica>; phase: Phase; said?: string; sent?: string[] }>([
    {
      of: { phase: 'booting', deadlineMs: now },
      phase: 'restarting',
      said: 'm is restarted: not ready after 1800 s',
      sent: ['restart-engine'],
    },
    { of: { phase: 'booting', deadlineMs: now, readyAtMs: now - 9 }, phase: 'serving' },
    {
      of: { phase: 'sleeping', phaseSinceMs: now - 309_000, deadlineMs: now },
      phase: 'checking',
      said: 'm did not fall asleep: no answer for 309 s',
      sent: ['ask-engine'],
    },
    {
      of: { phase: 'waking', phaseSinceMs: now - 265_000, deadlineMs: now },
      phase: 'checking',
      said: 'm did not wake, try 1: no answer for 265 s',
      sent: ['ask-engine'],
    },
    { of: { phase: 'restarting', deadlineMs: now }, phase: 'restarting', sent: ['restart-engine'] },
    { of: { phase: 'restarting', deadlineMs: now, launcher: 'never' }, phase: 'absent' },
    { of: { phase: 'booting', deadlineMs: now + 1 }, phase: 'booting' },
    { of: { phase: 'serving', deadlineMs: now }, phase: 'serving' },
  ])('of one that is $of.phase leads to $phase', ({ of, phase, said, sent = [] }) => {
    const run = drive(of);
    expect(run.one.phase).toBe(phase);
    expect(run.said).toEqual(said ? [said] : []);
    expect(run.sent).toEqual(sent);
    if (of.deadlineMs === now + 1) expect(run.step.nextMs).toBe(now + 1);
    if (phase === 'serving') expect(run.one.deadlineMs).toBeNull();
    if (phase === 'restarting') expect([run.one.deadlineMs, run.one.proven]).toEqual([now + 60_000, false]);
  });

  it('of a question takes the lost one back and asks later', () => {
    const { one } = drive({ phase: 'checking', deadlineMs: now, asking: true, askTries: 1 });
    expect(one).toMatchObject({
      asking: false,
      askTries: 2,
      retryAtMs: now + 1_000,
      deadlineMs: now + 180_000,
    });
  });

  it('of a launcher that has not spoken wakes the step', () => {
    const silent: Partial<Replica> = { phase: 'absent', launcher: 'never', seenAtMs: now - 1_000 };
    expect(drive({ ...silent, bytes: [5] }).step.nextMs).toBe(now + 4_000);
    expect(drive(silent).step.nextMs).toBe(Number.POSITIVE_INFINITY);
  });

  it('that there is none of does not begin because the machine stood still', () => {
    const one = replica('m');
    forgiveStall(stepOf(stateOf([gpu()], [one], now)), now - 8_000, now - 8_000);
    expect(one.deadlineMs).toBeNull();
  });

  it('says why an engine is told to end', () => {
    expect(drive({ phase: 'booting', deadlineMs: now }).step.effects).toMatchObject([
      { reason: 'BootTimeout', level: 'warn' },
      { reason: 'BootTimeout', message: 'not ready after 1800 s' },
    ]);
    const { step } = drive({ phase: 'restarting', deadlineMs: now });
    expect(step.effects).toEqual([
      { type: 'restart-engine', podUid: 'm', reason: 'RestartAgain', message: 'it has not ended yet' },
    ]);
  });

  it('moves by what was lost when the machine stood still, a drain’s too', () => {
    const of = {
      phase: 'draining',
      deadlineMs: 7,
      leaving: { for: null, forced: true, inFlight: 1, deadlineMs: 9 },
    } as const;
    const moved = (timerMs: number | null) => {
      const one = replica('m', { ...of, leaving: { ...of.leaving } });
      forgiveStall(stepOf(stateOf([gpu()], [one, replica('n')], now)), timerMs, now - 8_000);
      return [one.deadlineMs, one.leaving!.deadlineMs];
    };
    expect(moved(now - 5_000)).toEqual([8_007, 8_009]);
    expect(moved(now - 4_999)).toEqual([7, 9]);
    expect(moved(null)).toEqual([7, 9]);
  });
});

describe('a restart', () => {
  it.each<{ why: string; of: Partial<Replica>; others?: Replica[]; ends: boolean }>([
    { why: 'of a sleeper', of: { phase: 'asleep' }, ends: true },
    { why: 'of one that serves', of: {}, ends: true },
    { why: 'of one whose state is not known', of: { phase: 'checking' }, ends: true },
    { why: 'not in a transition', of: { phase: 'waking' }, ends: false },
    {
      why: 'not of one that ends anyway',
      of: { phase: 'asleep', ending: { sinceMs: 0, endSent: true, drained: false, released: false } },
      ends: false,
    },
    { why: 'not without its launcher', of: { phase: 'asleep', launcher: 'never' }, ends: false },
    {
      why: 'not beside a boot',
      of: { phase: 'asleep' },
      others: [replica('b', { phase: 'booting' })],
      ends: false,
    },
  ])('$ends: $why', ({ of, others, ends }) => {
    const { one, sent, said } = drive({ mustRestart, ...of }, {}, others);
    expect(sent).toEqual(ends ? ['restart-engine'] : []);
    expect(one.mustRestart).toEqual(ends ? null : mustRestart);
    expect(said).toEqual(ends ? ['m is restarted: it keeps 3 GiB'] : []);
  });

  it.each<{ reason: string; of?: Partial<Replica>; kind: 'failures' | 'chosenRestarts' }>([
    { reason: 'ResidueKept', kind: 'chosenRestarts' },
    { reason: 'SleepFailed', kind: 'chosenRestarts' },
    { reason: 'ResidueKept', of: { wakeFailures: 1 }, kind: 'failures' },
    { reason: 'WakeFailed', of: { wakeFailures: 3 }, kind: 'failures' },
    { reason: 'EngineUnreachable', kind: 'failures' },
  ])('for $reason counts as $kind', ({ reason, of, kind }) => {
    const { one } = drive({
      phase: 'asleep',
      mustRestart: { reason, message: 'why' },
      failureLine: 'old words',
      ...of,
    });
    expect([one.failures, one.chosenRestarts]).toEqual(kind === 'failures' ? [1, 0] : [0, 1]);
    expect([one.failureText, one.failureLine, one.notBootBeforeMs]).toEqual(['why', '', now + 1_000]);
  });
});

describe('a launcher that is away for 5 s', () => {
  const gone = { launcher: 'gone', launcherGoneAtMs: now - 5_000 } as const;
  it.each<{ of: Partial<Replica>; phase: Phase; failures: number }>([
    { of: {}, phase: 'checking', failures: 0 },
    { of: { phase: 'asleep' }, phase: 'checking', failures: 0 },
    { of: { phase: 'booting' }, phase: 'absent', failures: 1 },
    { of: { phase: 'restarting' }, phase: 'absent', failures: 1 },
    { of: { phase: 'waking' }, phase: 'waking', failures: 0 },
    { of: { phase: 'absent' }, phase: 'absent', failures: 0 },
    { of: { launcherGoneAtMs: now - 4_999 }, phase: 'serving', failures: 0 },
    { of: { launcher: 'connected' }, phase: 'serving', failures: 0 },
  ])('leaves one that is $of.phase as $phase', ({ of, phase, failures }) => {
    const { one, step } = drive({ ...gone, ...of });
    expect([one.phase, one.failures]).toEqual([phase, failures]);
    if (phase === 'checking') expect(one.launcher).toBe('never');
    if (failures) expect(one.failureText).toBe('its launcher went away');
    if (of.launcherGoneAtMs === now - 4_999) expect(step.nextMs).toBe(now + 1);
  });
});

describe('clients of one whose engine fails again and again', () => {
  const failing = {
    phase: 'absent',
    failures: 3,
    failureText: 'code 1',
    notBootBeforeMs: now + 4_000,
    phaseSinceMs: now,
  } as const;
  const judge = (of: Partial<Replica>) => {
    const one = replica('m', { ...failing, ...of });
    const step = stepOf(stateOf([gpu()], [one], now));
    judgeFailures(step, one);
    return { one, step };
  };
  it.each<{ why: string; of: Partial<Replica>; told: boolean }>([
    { why: 'the third time', of: {}, told: true },
    { why: 'while it asks again', of: { phase: 'asking' }, told: true },
    { why: 'not the second', of: { failures: 2 }, told: false },
    { why: 'not while it boots', of: { phase: 'booting' }, told: false },
    {
      why: 'not where it can never fit',
      of: { failure: { reason: 'NeverFits', message: 'x', retryAtMs: null } },
      told: false,
    },
    {
      why: 'not where a stranger is in the way',
      of: { failure: { reason: 'StrangerHoldsMemory', message: 'x', retryAtMs: 1 } },
      told: false,
    },
    {
      why: 'also where its GPU was out of use',
      of: { failure: { reason: 'GpuUnusable', message: 'x', retryAtMs: 1 } },
      told: true,
    },
  ])('are told so: $told, $why', ({ of, told }) => {
    const { one, step } = judge(of);
    expect(one.failure?.reason === 'EngineFailed').toBe(told);
    expect(step.effects).toHaveLength(told ? 1 : 0);
  });
  it('with when to try again, the last words for operators alone, and once', () => {
    const { one, step } = judge({ failureLine: 'no such dtype' });
    const message = 'the engine of m failed 3 times, last: code 1';
    expect(one.failure).toEqual({
      reason: 'EngineFailed',
      message,
      retryAtMs: now + 5_000,
      words: 'no such dtype',
    });
    expect(step.effects[0]).toMatchObject({ message: `${message}: no such dtype`, level: 'warn' });
    judgeFailures(step, one);
    expect(step.effects).toHaveLength(1);
    expect(judge({ notBootBeforeMs: 0 }).one.failure).toEqual({
      reason: 'EngineFailed',
      message,
      retryAtMs: now + 1_000,
    });
  });
});

describe('clients of one whose GPU is out of use', () => {
  const out = { unusableSinceMs: now - 60_000, usable: false };
  const sleeper = { phase: 'asleep', demand: waits, demandAtMs: now } as const;
  const failure = { reason: 'GpuUnusable', message: 'x', retryAtMs: now };
  it.each<{ why: string; of: Partial<Replica>; on?: Partial<Gpu>; said: number; reason: string | null }>([
    { why: 'after a minute', of: sleeper, said: 1, reason: 'GpuUnusable' },
    { why: 'not before', of: sleeper, on: { ...out, unusableSinceMs: now - 59_999 }, said: 0, reason: null },
    { why: 'of one that asks', of: { phase: 'asking' }, said: 1, reason: 'GpuUnusable' },
    { why: 'not of one that nobody wants', of: { phase: 'asleep' }, said: 0, reason: null },
    { why: 'not of one that serves', of: {}, said: 0, reason: null },
    { why: 'again when they try again', of: { ...sleeper, failure }, said: 1, reason: 'GpuUnusable' },
    {
      why: 'not again before they may',
      of: { ...sleeper, failure: { ...failure, retryAtMs: now + 1 } },
      said: 0,
      reason: 'GpuUnusable',
    },
    { why: 'not again when nobody tries', of: { phase: 'asking', failure }, said: 0, reason: 'GpuUnusable' },
    {
      why: 'not over another failure',
      of: { ...sleeper, failure: { ...failure, reason: 'NeverFits' } },
      said: 0,
      reason: 'NeverFits',
    },
    { why: 'no more when it is back', of: { ...sleeper, failure }, on: {}, said: 0, reason: null },
    {
      why: 'but for another failure',
      of: { ...sleeper, failure: { ...failure, reason: 'NeverFits' } },
      on: {},
      said: 0,
      reason: 'NeverFits',
    },
  ])('are told so $why', ({ of, on = out, said, reason }) => {
    const run = drive(of, on);
    expect(run.said).toHaveLength(said);
    expect(run.one.failure?.reason ?? null).toBe(reason);
    if (!said) return;
    expect(run.said[0]).toBe('GPU 0 (GPU-0) has been out of use for 60 s');
    expect(run.one.failure?.retryAtMs).toBe(now + 30_000);
  });
});

describe('a boot is not thought of', () => {
  const asks: Partial<Replica> = { phase: 'asking', askedUuids: ['GPU-0'] };
  const bindings = [{ namespace: 'default', model: 'm', replica: 0, reservedBytes: GiB, popular: false }];
  const lists = { podsListed: true, resourcesListed: true };
  it.each<{
    why: string;
    of?: Partial<Replica>;
    on?: Partial<Gpu>;
    state?: Partial<ArbiterState>;
    reason: string | null;
  }>([
    { why: 'unless all agrees', reason: null },
    {
      why: 'while its pod ends',
      of: { ending: { sinceMs: 0, endSent: true, drained: false, released: false } },
      reason: 'Ending',
    },
    { why: 'while its launcher is away', of: { launcher: 'gone' }, reason: 'LauncherAway' },
    { why: 'in the pause after an end', of: { notBootBeforeMs: now + 1 }, reason: 'BackOff' },
    {
      why: 'before pods are listed',
      state: { podsListed: false, settledAtMs: now - 9_999 },
      reason: 'NotListed',
    },
    {
      why: 'before resources are listed',
      state: { resourcesListed: false, settledAtMs: now - 9_999 },
      reason: 'NotListed',
    },
    {
      why: 'unless that has lasted for 10 s',
      state: { podsListed: false, resourcesListed: false, settledAtMs: now - 10_000 },
      of: { listed: false },
      on: { bindings: [] },
      reason: null,
    },
    { why: 'of a pod that is not listed', of: { listed: false }, reason: 'PodNotListed' },
    {
      why: 'of a pod with fewer GPUs than its annotation',
      of: { uuids: ['GPU-0', 'GPU-1'] },
      reason: 'UuidMismatch',
    },
    {
      why: 'of a pod with other GPUs than its annotation',
      of: { askedUuids: ['GPU-1'] },
      reason: 'UuidMismatch',
    },
    { why: 'of a pod without GPUs', of: { uuids: [], askedUuids: [] }, reason: 'GpuMissing' },
    { why: 'on a GPU without its resource', on: { resource: false, bindings }, reason: 'GpuResourceMissing' },
    { why: 'of one that is not bound', on: { bindings: [] }, reason: 'NotBound' },
    {
      why: 'of one of which another replica is bound',
      on: { bindings: [{ ...bindings[0]!, replica: 1 }] },
      reason: 'NotBound',
    },
    {
      why: 'of one whose namesake is bound',
      on: { bindings: [{ ...bindings[0]!, namespace: 'other' }] },
      reason: 'NotBound',
    },
    {
      why: 'of one beside which another is bound',
      on: { bindings: [{ ...bindings[0]!, model: 'n' }] },
      reason: 'NotBound',
    },
  ])('$why: $reason', ({ of, on = { bindings }, state = {}, reason }) => {
    const one = replica('m', { ...asks, ...of });
    const node = Object.assign(stateOf([gpu(on)], [one], now), lists, state);
    expect(bootObstacle(stepOf(node), one)?.reason ?? null).toBe(reason);
  });

  it.each<{ why: string; on: Partial<Gpu>; free: boolean; wantedMs: number; againMs?: number }>([
    { why: 'measured since', on: { measuredAtMs: 50_000, changedAtMs: 50_000 }, free: true, wantedMs: 0 },
    {
      why: 'changed since',
      on: { measuredAtMs: 50_000, changedAtMs: 50_001 },
      free: false,
      wantedMs: 50_001,
    },
    {
      why: 'measured before it asked',
      on: { measuredAtMs: 39_999, changedAtMs: 0 },
      free: false,
      wantedMs: 40_000,
    },
    {
      why: 'measured, and not free',
      on: { measuredAtMs: now - 500, freeBytes: 19 * GiB },
      free: false,
      wantedMs: now,
    },
    {
      why: 'measured a moment ago, and not free',
      on: { measuredAtMs: now - 499, freeBytes: 19 * GiB },
      free: false,
      wantedMs: 0,
      againMs: now + 1,
    },
    {
      why: 'never measured',
      on: { measuredAtMs: now - 499, freeBytes: null },
      free: false,
      wantedMs: 0,
      againMs: now + 1,
    },
    {
      why: 'measured, and free to the byte',
      on: { measuredAtMs: now, freeBytes: 20 * GiB },
      free: true,
      wantedMs: 0,
    },
  ])('on a GPU $why: free $free', ({ on, free, wantedMs, againMs }) => {
    const one = replica('m', { ...asks, askedAtMs: 40_000 });
    const card = gpu(on);
    const step = stepOf(stateOf([card], [one], now));
    expect(isMeasuredFree(step, one, [card])).toBe(free);
    expect([card.wantedMs, step.nextMs]).toEqual([wantedMs, againMs ?? Number.POSITIVE_INFINITY]);
  });

  it('without saying what it takes and how long it waited', () => {
    const one = replica('m', {
      ...asks,
      uuids: ['GPU-0', 'GPU-1'],
      askedAtMs: now - 2_500,
      askedBytes: 19 * GiB,
      bytes: [GiB, 22 * GiB],
    });
    const cards = [gpu(), gpu({ uuid: 'GPU-1', index: 1 })];
    const step = stepOf(stateOf(cards, [one], now));
    startBoot(step, one, cards);
    expect(step.effects).toMatchObject([
      { type: 'grant', bytes: 22 * GiB },
      { reason: 'Boot', message: 'm boots on GPU 0, 1 with 22.0 GiB each: waited 2.5 s' },
    ]);
  });
});
