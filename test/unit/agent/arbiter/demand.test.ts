/** What a sidecar's word about its clients means. */
import { describe, expect, it } from 'vitest';
import {
  hasClients,
  idleSinceMs,
  isBusy,
  isIdle,
  takeDemand,
} from '../../../../agent/decide/arbiter/demand.ts';
import type { Phase, Replica } from '../../../../agent/decide/arbiter/state.ts';
import { gpu, replica, stateOf, stepOf } from './pieces.ts';

const now = 100_000;
const word = (inFlight: number, queued: number, rest = {}) => ({
  inFlight,
  queued,
  oldestWaitMs: queued > 0 ? 1_000 : 0,
  idleMs: 0,
  requestsTotal: 5,
  ...rest,
});
const stepWith = (one: Replica) => stepOf(stateOf([gpu()], [one], now));

describe('one that is served, or waits, makes it busy', () => {
  it.each([
    { inFlight: 0, queued: 0, busy: false },
    { inFlight: 1, queued: 0, busy: true },
    { inFlight: 0, queued: 1, busy: true },
  ])('$busy with $inFlight served and $queued waiting', ({ inFlight, queued, busy }) => {
    const one = replica('m', { demand: word(inFlight, queued) });
    expect(isBusy(one)).toBe(busy);
    expect(hasClients(one)).toBe(busy);
    expect(hasClients({ ...one, attached: false })).toBe(false);
  });
});

describe('it is idle', () => {
  it.each<{ why: string; of: Partial<Replica>; idle: boolean; againMs?: number }>([
    { why: 'ten ms after its last request', of: { demandAtMs: now - 10 }, idle: true },
    { why: 'not before', of: { demandAtMs: now - 9 }, idle: false, againMs: now + 1 },
    {
      why: 'by what its sidecar says of the time before',
      of: { demandAtMs: now, demand: word(0, 0, { idleMs: 10 }) },
      idle: true,
    },
    { why: 'not while it is busy', of: { demandAtMs: 0, demand: word(1, 0) }, idle: false },
    { why: 'not while nobody hears its sidecar', of: { demandAtMs: 0, attached: false }, idle: false },
  ])('$idle: $why', ({ of, idle, againMs }) => {
    const one = replica('m', of);
    const step = stepWith(one);
    expect(isIdle(step, one)).toBe(idle);
    expect(step.nextMs).toBe(againMs ?? Number.POSITIVE_INFINITY);
  });

  it('since its last request, on the agent’s clock', () => {
    expect(idleSinceMs(replica('m', { demandAtMs: now, demand: word(0, 0, { idleMs: 700 }) }))).toBe(
      now - 700,
    );
  });
});

describe('a word changes a decision', () => {
  const quiet = word(0, 0);
  it.each<{
    why: string;
    phase?: Phase;
    before: ReturnType<typeof word>;
    said: ReturnType<typeof word>;
    changes: boolean;
  }>([
    { why: 'the first client came', before: quiet, said: word(0, 1), changes: true },
    { why: 'the last one left', before: word(0, 1), said: quiet, changes: true },
    { why: 'one of several is served', before: word(0, 2), said: word(1, 1), changes: true },
    { why: 'the queue is empty now', before: word(1, 1), said: word(1, 0), changes: true },
    {
      why: 'somebody queues beside those served',
      before: word(1, 0),
      said: word(1, 1, { oldestWaitMs: 0 }),
      changes: true,
    },
    { why: 'one more is served', before: word(1, 0), said: word(2, 0), changes: false },
    { why: 'one more is frozen', phase: 'draining', before: word(1, 0), said: word(2, 0), changes: true },
    {
      why: 'one more is frozen beside one that waits on',
      phase: 'draining',
      before: word(1, 1, { oldestWaitMs: 500 }),
      said: word(2, 1, { oldestWaitMs: 1_000 }),
      changes: true,
    },
    {
      why: 'the oldest left and the next waits less',
      phase: 'asleep',
      before: word(0, 2),
      said: word(0, 1, { oldestWaitMs: 10 }),
      changes: true,
    },
    {
      why: 'the oldest waits on',
      phase: 'asleep',
      before: word(0, 1),
      said: word(0, 2, { oldestWaitMs: 1_500 }),
      changes: false,
    },
    {
      why: 'the oldest waits on, but for a rounding',
      phase: 'asleep',
      before: word(0, 1),
      said: word(0, 2, { oldestWaitMs: 1_499 }),
      changes: false,
    },
    {
      why: 'a wait that moved by more than that',
      phase: 'asleep',
      before: word(0, 1),
      said: word(0, 2, { oldestWaitMs: 1_498 }),
      changes: true,
    },
    {
      why: 'it serves, and waits mean nothing',
      before: word(0, 2),
      said: word(0, 1, { oldestWaitMs: 10 }),
      changes: false,
    },
    {
      why: 'a request came and went between two words',
      before: quiet,
      said: word(0, 0, { requestsTotal: 6 }),
      changes: true,
    },
    {
      why: 'requests went by while others are served',
      before: word(1, 0),
      said: word(1, 0, { requestsTotal: 6 }),
      changes: false,
    },
    { why: 'nothing is new', before: quiet, said: quiet, changes: false },
  ])('$changes: $why', ({ phase = 'serving', before, said, changes }) => {
    const one = replica('m', { phase, demand: before, demandAtMs: now - 500 });
    expect(takeDemand(stepWith(one), one, said)).toBe(changes);
    expect(one.demand).toEqual(said);
    expect(one.demandAtMs).toBe(now);
  });
});

describe('the history of returns', () => {
  it('is the smoothed time between two comings after idleness', () => {
    const one = replica('m', { demand: word(0, 0) });
    const say = (atMs: number, inFlight: number) => {
      const step = stepWith(one);
      step.now = atMs;
      takeDemand(step, one, word(inFlight, 0));
    };
    say(1_000, 1);
    expect([one.returnedAtMs, one.returnGapMs]).toEqual([1_000, null]);
    say(2_000, 2);
    say(3_000, 0);
    expect([one.returnedAtMs, one.returnGapMs]).toEqual([1_000, null]);
    say(11_000, 1);
    expect([one.returnedAtMs, one.returnGapMs]).toEqual([11_000, 10_000]);
    say(12_000, 0);
    say(31_000, 1);
    expect(one.returnGapMs).toBe(10_000 + 0.3 * (20_000 - 10_000));
  });

  it('tells whether it ever served', () => {
    const one = replica('m');
    takeDemand(stepWith(one), one, word(0, 0, { requestsTotal: 0 }));
    expect(one.served).toBe(false);
    takeDemand(stepWith(one), one, word(0, 0, { requestsTotal: 1 }));
    expect(one.served).toBe(true);
    takeDemand(stepWith(one), one, word(0, 0, { requestsTotal: 0 }));
    expect(one.served).toBe(true);
  });
});
