/** What engines answer, and what it does to a replica in each phase. */
import { describe, expect, it } from 'vitest';
import { askAgain, onEngineState } from '../../../../agent/decide/arbiter/restart.ts';
import type { Phase, Replica, Step } from '../../../../agent/decide/arbiter/state.ts';
import {
  askEngine,
  backoffMs,
  beginChecking,
  sendSleep,
  sendWake,
} from '../../../../agent/decide/arbiter/transitions.ts';
import { onWoken } from '../../../../agent/decide/arbiter/wake.ts';
import type { EngineState } from '../../../../agent/decide/arbiter/words.ts';
import { sleepMsMax, wakeMsMax } from '../../../../agent/decide/engine-times.ts';
import { GiB, gpu, replica, stateOf, stepOf } from './pieces.ts';

const now = 100_000;
const stepWith = (one: Replica, others: Replica[] = []): Step =>
  stepOf(stateOf([gpu()], [one, ...others], now));
const sent = (step: Step) => step.effects.map(({ type }) => type).filter((type) => type !== 'explain');

describe('pauses', () => {
  it.each([
    [0, 500],
    [1, 500],
    [2, 1_000],
    [3, 2_000],
    [7, 30_000],
    [2_000, 30_000],
  ])('after %i tries are %i ms', (tries, ms) => {
    expect(backoffMs(tries, 500, 30_000)).toBe(ms);
  });
});

describe('a question to an engine', () => {
  it('is asked once; an answer to an older one does not count', () => {
    const one = replica('m', { phase: 'checking', askStale: true });
    const step = stepWith(one);
    askEngine(step, one);
    expect([one.asking, one.askStale, sent(step)]).toEqual([true, false, ['ask-engine']]);
    askEngine(step, one);
    expect([one.askStale, sent(step)]).toEqual([true, ['ask-engine']]);
    onEngineState(step, one, { type: 'engine-state', podUid: 'm', state: 'awake', atMs: now });
    expect([one.phase, one.asking, one.askStale, sent(step)]).toEqual([
      'checking',
      true,
      false,
      ['ask-engine', 'ask-engine'],
    ]);
  });

  it.each<{ why: string; of: Partial<Replica>; asked: boolean; againMs?: number }>([
    {
      why: 'one that serves, half a minute after the last',
      of: { probedAtMs: now - 30_000, phaseSinceMs: 0 },
      asked: true,
    },
    { why: 'not earlier', of: { probedAtMs: now - 29_999, phaseSinceMs: 0 }, asked: false, againMs: now + 1 },
    {
      why: 'not so soon after it began to serve',
      of: { probedAtMs: 0, phaseSinceMs: now - 29_999 },
      asked: false,
      againMs: now + 1,
    },
    { why: 'not one whose launcher could not end it', of: { launcher: 'gone' }, asked: false },
    {
      why: 'not one that ends',
      of: { ending: { sinceMs: 0, endSent: true, drained: false, released: false } },
      asked: false,
    },
    { why: 'not twice at a time', of: { asking: true }, asked: false },
    { why: 'not a sleeper', of: { phase: 'asleep' }, asked: false },
    {
      why: 'one whose state is not known, when its pause is over',
      of: { phase: 'checking', retryAtMs: now },
      asked: true,
    },
    {
      why: 'not in its pause',
      of: { phase: 'checking', retryAtMs: now + 9 },
      asked: false,
      againMs: now + 9,
    },
    {
      why: 'not one that is to be restarted',
      of: { phase: 'checking', mustRestart: { reason: 'x', message: 'x' } },
      asked: false,
    },
    { why: 'not one that was asked', of: { phase: 'checking', asking: true }, asked: false },
  ])('goes to $why: $asked', ({ of, asked, againMs }) => {
    const one = replica('m', of);
    const step = stepWith(one);
    askAgain(step);
    expect(sent(step)).toEqual(asked ? ['ask-engine'] : []);
    expect(step.nextMs).toBe(againMs ?? Number.POSITIVE_INFINITY);
    if (asked && one.phase === 'serving') expect(one.probedAtMs).toBe(now);
  });
});

describe('a move of an engine', () => {
  it.each([
    { name: 'a sleep', move: sendSleep, phase: 'sleeping', boundMs: sleepMsMax(20 * GiB) },
    { name: 'a wake', move: sendWake, phase: 'waking', boundMs: wakeMsMax(20 * GiB) },
    { name: 'a doubt', move: beginChecking, phase: 'checking', boundMs: 180_000 },
  ])('makes all that was measured before it stale: $name', ({ move, phase, boundMs }) => {
    const one = replica('m', { found: true, roomMade: true, proven: true });
    const step = stepWith(one);
    move(step, one);
    expect(one).toMatchObject({ phase, proven: false, changedAtMs: now, deadlineMs: now + boundMs });
    expect(step.state.gpus.get('GPU-0')!.changedAtMs).toBe(now);
    if (phase === 'sleeping') expect([one.found, one.stoppedAtMs]).toEqual([false, now]);
    if (phase === 'waking') expect(one.roomMade).toBe(false);
  });
});

describe('the word of an engine about itself', () => {
  const say = (of: Partial<Replica>, state: EngineState, others: Replica[] = []) => {
    const one = replica('m', { asking: true, becameServingAtMs: 5, ...of });
    const step = stepWith(one, others);
    onEngineState(step, one, { type: 'engine-state', podUid: 'm', state, atMs: now });
    return { one, step };
  };

  it.each<{ why: string; of: Partial<Replica>; turnSinceMs: number }>([
    { why: 'met for the first time begins a turn', of: { readyAtMs: null }, turnSinceMs: now },
    {
      why: 'after a wake that failed begins one',
      of: { readyAtMs: 9, wakeFailures: 1, sleepFailures: 1 },
      turnSinceMs: now,
    },
    {
      why: 'after a sleep that failed goes on in its own',
      of: { readyAtMs: 9, sleepFailures: 1 },
      turnSinceMs: 5,
    },
    { why: 'after silence begins one', of: { readyAtMs: 9 }, turnSinceMs: now },
    {
      why: 'met for the first time, whatever failed before, begins one',
      of: { readyAtMs: null, sleepFailures: 1 },
      turnSinceMs: now,
    },
  ])('awake $why', ({ of, turnSinceMs }) => {
    const { one } = say(
      { phase: 'checking', silences: 3, failure: { reason: 'x', message: 'x', retryAtMs: 1 }, ...of },
      'awake',
    );
    expect(one).toMatchObject({
      phase: 'serving',
      silences: 0,
      bootReady: true,
      failure: null,
      asking: false,
    });
    expect(one.becameServingAtMs).toBe(turnSinceMs);
    expect(one.readyAtMs).toBe(of.readyAtMs ?? now);
  });

  it('asleep has it measured, and a failed wake costs a pause', () => {
    const { one } = say({ phase: 'checking', readyAtMs: null, wakeFailures: 2 }, 'asleep');
    expect(one).toMatchObject({ phase: 'freeing', found: true, readyAtMs: now, retryAtMs: now + 1_000 });
    expect(say({ phase: 'checking', retryAtMs: 3 }, 'asleep').one.retryAtMs).toBe(3);
  });

  it('asleep, where an agent before us sent a wake, is woken again', () => {
    const { one, step } = say({ phase: 'checking', wakeLeft: true }, 'asleep');
    expect([one.phase, one.wakeLeft, sent(step)]).toEqual(['waking', false, ['wake-engine']]);
  });

  it.each<{ why: string; of?: Partial<Replica>; others?: Replica[]; phase: Phase; againMs?: number }>([
    { why: 'for half a second, has it woken', of: { phaseSinceMs: now - 500 }, phase: 'waking' },
    {
      why: 'for less, has it asked again: a sleep that begins says so too',
      of: { phaseSinceMs: now - 499 },
      phase: 'checking',
      againMs: now + 1,
    },
    {
      why: 'after a wake that failed, has it woken after a longer pause',
      of: { phaseSinceMs: now - 999, wakeFailures: 1 },
      phase: 'checking',
      againMs: now + 1,
    },
    {
      why: 'waits for a boot beside it',
      others: [replica('b', { phase: 'booting' })],
      phase: 'checking',
      againMs: now + 500,
    },
    {
      why: 'waits for a sleep beside it',
      others: [replica('b', { phase: 'freeing' })],
      phase: 'checking',
      againMs: now + 500,
    },
  ])('paused $why', ({ of, others, phase, againMs }) => {
    const { one, step } = say(
      { phase: 'checking', phaseSinceMs: 0, readyAtMs: null, ...of },
      'paused',
      others,
    );
    expect([one.phase, one.readyAtMs]).toEqual([phase, now]);
    expect(sent(step)).toEqual(phase === 'waking' ? ['wake-engine'] : []);
    if (againMs !== undefined) expect([one.retryAtMs, one.askTries]).toEqual([againMs, 0]);
  });

  it('paused, after three wakes that failed, has it restarted', () => {
    const { one } = say({ phase: 'checking', phaseSinceMs: 0, wakeFailures: 3 }, 'paused');
    expect(one).toMatchObject({
      phase: 'checking',
      mustRestart: { reason: 'WakeFailed', message: 'it failed to wake 3 times' },
    });
  });

  it('awake takes back a restart that was to be while nothing ran in it, and no other', () => {
    const of = (reason: string) =>
      say({ phase: 'checking', mustRestart: { reason, message: 'x' } }, 'awake').one.mustRestart?.reason;
    expect([of('SleepFailed'), of('ResidueKept')]).toEqual([undefined, 'ResidueKept']);
  });

  it('none is tried again after pauses, and ends in a restart', () => {
    const { one } = say({ phase: 'checking', askTries: 3 }, 'unreachable');
    expect(one).toMatchObject({ phase: 'checking', askTries: 4, retryAtMs: now + 4_000, mustRestart: null });
    expect(say({ phase: 'checking', askTries: 4 }, 'unreachable').one).toMatchObject({
      phase: 'checking',
      mustRestart: { reason: 'EngineUnreachable', message: 'it did not answer 5 times' },
    });
  });

  it('none, and no launcher either, is an end', () => {
    const { one } = say({ phase: 'checking', askTries: 4, launcher: 'gone' }, 'unreachable');
    expect(one).toMatchObject({
      phase: 'absent',
      failures: 1,
      failureText: 'neither engine nor launcher answers',
    });
  });

  it('of one that serves leaves no question behind', () => {
    expect(say({ askStale: true }, 'awake').one).toMatchObject({ asking: false, askStale: false });
  });

  it('is not heard of one that nobody asked', () => {
    for (const phase of ['asleep', 'waking', 'sleeping', 'booting'] as const)
      expect(say({ phase }, 'awake').one).toMatchObject({ phase, asking: false });
  });

  it('of one that serves: three silences in a row, and it is asked in earnest', () => {
    expect(say({ silences: 1 }, 'unreachable').one).toMatchObject({ phase: 'serving', silences: 2 });
    expect(say({ silences: 2 }, 'asleep').one).toMatchObject({ phase: 'serving', silences: 0 });
    const { one, step } = say({ silences: 2, askTries: 9 }, 'unreachable');
    expect(one).toMatchObject({ phase: 'checking', askTries: 0, deadlineMs: now + 180_000 });
    expect(step.effects[0]).toMatchObject({
      reason: 'EngineSilent',
      message: 'm did not answer 3 times in a row',
      level: 'warn',
    });
  });
});

describe('an answer to a wake', () => {
  const woken = (of: Partial<Replica>, ok: boolean) => {
    const one = replica('m', {
      phase: 'waking',
      becameServingAtMs: 5,
      turnTold: true,
      roomMade: true,
      ...of,
    });
    const step = stepWith(one);
    onWoken(step, one, { type: 'woken', podUid: 'm', ok, message: 'no', tookMs: 1_000, atMs: now });
    return { one, step };
  };
  it('begins its turn, and its time is learnt', () => {
    expect(woken({ wakeMs: 2_000, wakeFailures: 2, retryAtMs: 9 }, true).one).toMatchObject({
      phase: 'serving',
      wakeMs: 1_700,
      wakeFailures: 0,
      retryAtMs: 0,
      becameServingAtMs: now,
      turnTold: false,
      roomMade: false,
    });
    expect(woken({}, true).one.wakeMs).toBe(1_000);
  });
  it('that is no has it asked', () => {
    const { one, step } = woken({ wakeFailures: 1 }, false);
    expect([one.phase, one.wakeFailures, one.wakeMs]).toEqual(['checking', 2, null]);
    expect(step.effects[0]).toMatchObject({
      reason: 'WakeFailed',
      message: 'm did not wake, try 2: no',
      level: 'warn',
    });
  });
  it('that comes too late means nothing', () => {
    expect(woken({ phase: 'serving' }, false).one).toMatchObject({ phase: 'serving', wakeFailures: 0 });
    expect(woken({ phase: 'asleep' }, true).one).toMatchObject({ phase: 'asleep', wakeMs: null });
  });
});
