/** What launchers say of engines, boots and ends. */
import { describe, expect, it } from 'vitest';
import { finishBoot, onAsked, onExited, onReady, onStarted } from '../../../../agent/decide/arbiter/boot.ts';
import { onHolding } from '../../../../agent/decide/arbiter/restart.ts';
import type { Phase, Replica, Step } from '../../../../agent/decide/arbiter/state.ts';
import { sendGrant } from '../../../../agent/decide/arbiter/transitions.ts';
import { GiB, gpu, replica, stateOf, stepOf } from './pieces.ts';

const now = 100_000;
const stepWith = (one: Replica): Step => stepOf(stateOf([gpu()], [one], now));

describe('a launcher that holds an engine', () => {
  const hold = (of: Partial<Replica>, ready: boolean) => {
    const one = replica('m', { phase: 'absent', launcher: 'never', uuids: [], ...of });
    const step = stepWith(one);
    onHolding(step, one, {
      type: 'holding',
      podUid: 'm',
      uuids: ['GPU-0'],
      bytes: 7,
      restarts: 3,
      grant: 'g',
      ready,
      atMs: now,
    });
    expect(one).toMatchObject({ launcher: 'connected', restarts: 3, askedBytes: 7, askedUuids: ['GPU-0'] });
    expect([step.state.bindingsStale, step.changed]).toEqual([true, true]);
    return { one, step };
  };
  it.each<{ from: Phase; ready: boolean; to: Phase }>([
    { from: 'absent', ready: true, to: 'checking' },
    { from: 'asking', ready: true, to: 'checking' },
    { from: 'absent', ready: false, to: 'booting' },
    { from: 'booting', ready: false, to: 'booting' },
    { from: 'booting', ready: true, to: 'booting' },
    { from: 'checking', ready: true, to: 'checking' },
    { from: 'checking', ready: false, to: 'booting' },
    { from: 'serving', ready: true, to: 'serving' },
    { from: 'asleep', ready: false, to: 'asleep' },
    { from: 'restarting', ready: true, to: 'restarting' },
  ])('ready $ready, of one that is $from: $to', ({ from, ready, to }) => {
    const { one } = hold({ phase: from, readyAtMs: from === 'booting' ? null : 4 }, ready);
    expect(one.phase).toBe(to);
    if (from === 'booting') expect(one.readyAtMs).toBe(ready ? now : null);
    else if (to === 'booting') expect([one.readyAtMs, one.deadlineMs]).toEqual([null, now + 30 * 60_000]);
    if (from === 'absent' && ready) expect(one.stoppedAtMs).toBe(now);
    if (from === 'restarting') expect(one.deadlineMs).toBe(now);
  });
  it('of a boot that goes on makes what was measured before stale', () => {
    const { one, step } = hold({ phase: 'absent' }, false);
    expect([one.proven, one.changedAtMs, step.state.measureWantedMs]).toEqual([false, now, now]);
  });
  it('names its GPUs, where nobody has', () => {
    expect(hold({}, true).one.uuids).toEqual(['GPU-0']);
    expect(hold({ uuids: ['GPU-1'] }, true).one.uuids).toEqual(['GPU-1']);
  });
});

describe('a launcher that asks', () => {
  const ask = (of: Partial<Replica>, restarts = 1) => {
    const one = replica('m', { phase: 'absent', askedAtMs: 5, restarts: 1, waitTold: 'x', ...of });
    const step = stepWith(one);
    onAsked(step, one, { type: 'asked', podUid: 'm', uuids: ['GPU-0'], bytes: 9, restarts, atMs: now });
    expect(one).toMatchObject({
      launcher: 'connected',
      askedBytes: 9,
      askedUuids: ['GPU-0'],
      restarts,
      waitTold: null,
      phase: 'asking',
    });
    return one;
  };
  it.each<{ why: string; of: Partial<Replica>; keeps: boolean }>([
    { why: 'anew', of: {}, keeps: false },
    { why: 'again', of: { phase: 'asking' }, keeps: true },
    {
      why: 'after its connection broke for a moment',
      of: { launcher: 'gone', launcherGoneAtMs: now - 4_999 },
      keeps: true,
    },
    {
      why: 'after its connection was away for 5 s',
      of: { launcher: 'gone', launcherGoneAtMs: now - 5_000 },
      keeps: false,
    },
    {
      why: 'after an engine of which that was the end',
      of: { phase: 'serving', launcher: 'gone', launcherGoneAtMs: now },
      keeps: false,
    },
  ])('$why keeps its place: $keeps', ({ of, keeps }) => {
    expect(ask(of).askedAtMs).toBe(keeps ? 5 : now);
  });
  it.each<{ why: string; of: Partial<Replica>; restarts: number; failures: number }>([
    { why: 'had started', of: { phase: 'serving' }, restarts: 2, failures: 1 },
    { why: 'was never started', of: { phase: 'booting' }, restarts: 1, failures: 0 },
    { why: 'was told to end', of: { phase: 'restarting' }, restarts: 2, failures: 0 },
    { why: 'was in doubt', of: { phase: 'checking' }, restarts: 2, failures: 0 },
    { why: 'had ended', of: { phase: 'absent' }, restarts: 2, failures: 0 },
  ])('of one that $why: $failures failures', ({ of, restarts, failures }) => {
    const one = ask(of, restarts);
    expect(one.failures).toBe(failures);
    if (failures) expect(one.failureText).toBe('its end was not heard');
    if (of.phase !== 'absent') expect(one.proven).toBe(false);
  });
});

describe('a boot', () => {
  it('is granted with a clean slate', () => {
    const one = replica('m-0123456789', {
      phase: 'asking',
      restarts: 2,
      roomMade: true,
      readyAtMs: 3,
      waitTold: 'x',
      wakeFailures: 1,
      sleepFailures: 1,
      mustRestart: { reason: 'x', message: 'x' },
      failure: { reason: 'x', message: 'x', retryAtMs: 1 },
    });
    const step = stepWith(one);
    sendGrant(step, one, 7);
    expect(one).toMatchObject({
      phase: 'booting',
      roomMade: false,
      readyAtMs: null,
      waitTold: null,
      wakeFailures: 0,
      sleepFailures: 0,
      mustRestart: null,
      failure: null,
      proven: false,
      deadlineMs: now + 30 * 60_000,
    });
    expect(step.effects).toEqual([
      { type: 'grant', podUid: 'm-0123456789', id: 'm-012345-2-100000', bytes: 7 },
    ]);
    expect([step.state.measureWantedMs, step.state.gpus.get('GPU-0')!.changedAtMs]).toEqual([now, now]);
  });
  it('that has started is counted, whatever was believed', () => {
    for (const [from, to] of [
      ['absent', 'booting'],
      ['asking', 'booting'],
      ['booting', 'booting'],
      ['serving', 'serving'],
    ] as const) {
      const one = replica('m', { phase: from, restarts: 1, readyAtMs: 4 });
      onStarted(stepWith(one), one);
      expect([one.phase, one.restarts, one.readyAtMs]).toEqual([
        to,
        2,
        from === 'absent' || from === 'asking' ? null : 4,
      ]);
    }
  });
  it('that is ready is ready once, and measured then', () => {
    const one = replica('m', { phase: 'booting', phaseSinceMs: now - 40_000, bootMs: 20_000 });
    onReady(stepWith(one), one);
    expect(one).toMatchObject({ readyAtMs: now, deadlineMs: now + 10_000, bootMs: 26_000, proven: false });
    one.readyAtMs = 7;
    onReady(stepWith(one), one);
    expect([one.readyAtMs, one.bootMs]).toEqual([7, 26_000]);
    const serving = replica('m', { readyAtMs: null });
    onReady(stepWith(serving), serving);
    expect(serving.readyAtMs).toBeNull();
  });
  it.each([
    [null, null, 0],
    [0, null, 0],
    [20 * GiB, 20 * GiB, 1],
  ])('measured at %s bytes serves', (bytes, awake, remembered) => {
    const one = replica('m', { phase: 'booting', residueBytes: 3 });
    const step = stepWith(one);
    finishBoot(step, one, bytes);
    expect([one.phase, one.awakeBytes, one.becameServingAtMs]).toEqual(['serving', awake, now]);
    expect(step.effects.filter(({ type }) => type === 'remember')).toHaveLength(remembered);
  });
});

describe('an engine that ends', () => {
  const exit = (of: Partial<Replica>, how: { code: number | null; signal: string | null }) => {
    const one = replica('m', { readyAtMs: now - 1_000, ...of });
    const step = stepWith(one);
    onExited(step, one, { type: 'exited', podUid: 'm', ...how, tail: 'last words\n', atMs: now });
    return { one, step };
  };
  it.each<{ of: Partial<Replica>; code: number | null; signal: string | null; text: string }>([
    { of: {}, code: 1, signal: null, text: 'code 1' },
    { of: {}, code: null, signal: 'SIGKILL', text: 'SIGKILL' },
    { of: { phase: 'booting' }, code: null, signal: null, text: 'code unknown' },
  ])('by itself has failed: $text', ({ of, text, ...how }) => {
    const { one, step } = exit(of, how);
    expect(one).toMatchObject({
      phase: 'absent',
      failures: 1,
      failureText: text,
      failureLine: 'last words',
      notBootBeforeMs: now + 1_000,
      proven: false,
      readyAtMs: null,
      retryAtMs: 0,
      mustRestart: null,
    });
    expect(step.effects[0]).toMatchObject({
      reason: 'EngineExited',
      message: `the engine of m ended while ${of.phase ?? 'serving'}, ${text}: last words`,
      level: 'warn',
    });
  });
  it.each<Partial<Replica>>([
    { phase: 'restarting' },
    { ending: { sinceMs: 0, endSent: true, drained: true, released: true } },
  ])('as it was told has not: %o', (of) => {
    const { one, step } = exit(of, { code: 0, signal: null });
    expect([one.phase, one.failures, step.effects]).toEqual(['absent', 0, []]);
  });
  it('after ten minutes begins the count anew', () => {
    const before = { failures: 4, chosenRestarts: 3 };
    expect(exit({ ...before, readyAtMs: now - 600_000 }, { code: 1, signal: null }).one).toMatchObject({
      failures: 1,
      chosenRestarts: 0,
      notBootBeforeMs: now + 1_000,
    });
    expect(exit({ ...before, readyAtMs: now - 599_999 }, { code: 1, signal: null }).one).toMatchObject({
      failures: 5,
      chosenRestarts: 3,
      notBootBeforeMs: now + 128_000,
    });
    expect(exit({ ...before, readyAtMs: null }, { code: 1, signal: null }).one.failures).toBe(5);
  });
  it('that nobody knew of says nothing', () => {
    const { one, step } = exit({ phase: 'asking' }, { code: 1, signal: null });
    expect([one.phase, one.failures, step.effects]).toEqual(['asking', 0, []]);
  });
});
