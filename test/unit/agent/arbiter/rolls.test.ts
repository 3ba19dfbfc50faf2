/** Two pods of one replica: whose turn it is while the new one boots, and who gets the queue afterwards. */
import { describe, expect, it } from 'vitest';
import type { Replica } from '../../../../agent/decide/arbiter/state.ts';
import { asWaiter, siblings } from '../../../../agent/decide/arbiter/waiting.ts';
import { gpu, replica, stateOf, stepOf } from './pieces.ts';

const waits = { inFlight: 0, queued: 1, oldestWaitMs: 5_000, idleMs: 0, requestsTotal: 1 };
const frozen = { inFlight: 1, queued: 0, oldestWaitMs: 0, idleMs: 0, requestsTotal: 1 };
const key = 'default/m/0';
const now = 200_000;

/** The old pod sleeps and has had a client for 5 s; the new one is as said. */
function roll(newer: Partial<Replica>, older: Partial<Replica> = {}) {
  const old = replica('old', { key, phase: 'asleep', order: 1, demand: waits, demandAtMs: now, ...older });
  const made = replica('new', {
    key,
    phase: 'asking',
    order: 2,
    bootReady: false,
    askedAtMs: now - 20_000,
    ...newer,
  });
  const step = stepOf(stateOf([gpu()], [old, made, replica('other')], now));
  return { old, made, step, waiter: asWaiter(step, old) };
}

describe('the pods of one replica', () => {
  it('are each other, and nobody else', () => {
    const { old, made, step } = roll({});
    expect(siblings(step, old)).toEqual([made]);
    expect(siblings(step, made)).toEqual([old]);
    expect(siblings(step, step.state.replicas.get('other')!)).toEqual([]);
    expect(siblings(step, replica('stranger', { key: 'default/none/0' }))).toEqual([]);
    step.state.replicas.delete('new');
    expect(siblings(step, old)).toEqual([]);
  });
});

describe('while the new pod boots, the old one', () => {
  const behind = { rank: 'boot', sinceMs: now - 20_000 + 1, aged: false };
  const byItself = { rank: 'wake', sinceMs: now - 5_000 };
  it.each<{ why: string; newer: Partial<Replica>; older?: Partial<Replica>; stands: object }>([
    { why: 'waits behind it when it asks', newer: {}, stands: behind },
    { why: 'waits behind it when it boots', newer: { phase: 'booting' }, stands: behind },
    {
      why: 'waits behind it as old as it is',
      newer: { askedAtMs: now - 70_000 },
      stands: { ...behind, sinceMs: now - 70_000 + 1, aged: true },
    },
    { why: 'waits by itself after two minutes', newer: { askedAtMs: now - 120_000 }, stands: byItself },
    { why: 'waits behind it until then', newer: { askedAtMs: now - 119_999 }, stands: { rank: 'boot' } },
    { why: 'waits by itself when its boot has failed once', newer: { failures: 1 }, stands: byItself },
    { why: 'waits by itself when it has booted before', newer: { bootReady: true }, stands: byItself },
    {
      why: 'waits by itself when it has no launcher that asks',
      newer: { phase: 'absent' },
      stands: byItself,
    },
    { why: 'waits by itself when the other is the older', newer: { order: 0 }, stands: byItself },
    {
      why: 'waits by itself when it ends and has streams to finish',
      newer: {},
      older: {
        demand: frozen,
        stoppedAtMs: now - 9_000,
        ending: { sinceMs: 0, endSent: true, drained: false, released: false },
      },
      stands: { rank: 'wake', last: true },
    },
  ])('$why', ({ newer, older, stands }) => {
    expect(roll(newer, older).waiter).toMatchObject(stands);
  });

  it('has the priority of the new one, and its clients are its own', () => {
    const { made, step, old } = roll({});
    made.settings = { ...made.settings, fairness: { ...made.settings.fairness, priority: 7 } };
    expect(asWaiter(step, old)).toMatchObject({ priority: 7, clients: true, replica: old });
  });
});

describe('once the new pod serves, the old one', () => {
  const serves = { phase: 'serving', bootReady: true, readyAtMs: now - 10_000 } as const;
  it.each<{ why: string; newer: Partial<Replica>; older?: Partial<Replica>; wakes: boolean }>([
    { why: 'leaves its queue to it', newer: serves, wakes: false },
    {
      why: 'leaves its queue to it until 30 s after',
      newer: { ...serves, readyAtMs: now - 29_999 },
      wakes: false,
    },
    {
      why: 'wakes for a queue that is still there then',
      newer: { ...serves, readyAtMs: now - 30_000 },
      wakes: true,
    },
    {
      why: 'leaves it what came when it slept a moment ago',
      newer: { ...serves, readyAtMs: null },
      older: { stoppedAtMs: now - 10_000 },
      wakes: false,
    },
    {
      why: 'wakes when neither was of late',
      newer: { ...serves, readyAtMs: null },
      older: { stoppedAtMs: now - 30_000 },
      wakes: true,
    },
    { why: 'wakes for frozen streams at once', newer: serves, older: { demand: frozen }, wakes: true },
    { why: 'wakes when the new one sleeps', newer: { ...serves, phase: 'asleep' }, wakes: true },
    { why: 'wakes when the new one was never ready', newer: { ...serves, bootReady: false }, wakes: true },
    { why: 'wakes when the other is the older', newer: { ...serves, order: 0 }, wakes: true },
  ])('$why', ({ newer, older, wakes }) => {
    expect(roll(newer, older).waiter !== null).toBe(wakes);
  });
});

describe('a sleeper waits', () => {
  it.each<{ why: string; of: Partial<Replica>; waits: boolean }>([
    { why: 'for its queue', of: {}, waits: true },
    { why: 'for frozen streams', of: { demand: frozen }, waits: true },
    { why: 'because it is pinned', of: { demand: { ...waits, queued: 0 }, popular: true }, waits: true },
    { why: 'not without clients', of: { demand: { ...waits, queued: 0 } }, waits: false },
    { why: 'not for clients of a sidecar that cannot be heard', of: { attached: false }, waits: false },
    { why: 'pinned, heard or not', of: { attached: false, popular: true }, waits: true },
    {
      why: 'not while it must be restarted',
      of: { mustRestart: { reason: 'x', message: 'x' } },
      waits: false,
    },
    { why: 'not in the pause after a failed wake', of: { retryAtMs: now + 1 }, waits: false },
    { why: 'after that pause', of: { retryAtMs: now }, waits: true },
    { why: 'not for the queue of a pod that is deleted', of: { deleting: true }, waits: false },
    {
      why: 'not for the queue of a pod that ends',
      of: { ending: { sinceMs: 0, endSent: true, drained: false, released: false } },
      waits: false,
    },
    { why: 'not for a pin of a pod that is deleted', of: { deleting: true, popular: true }, waits: false },
    { why: 'for the streams of a pod that is deleted', of: { deleting: true, demand: frozen }, waits: true },
    {
      why: 'not for streams of a deleted pod that cannot be heard',
      of: { deleting: true, demand: frozen, attached: false },
      waits: false,
    },
  ])('$waits: $why', ({ of, waits: does }) => {
    const one = replica('m', { phase: 'asleep', demand: waits, demandAtMs: now, ...of });
    expect(asWaiter(stepOf(stateOf([gpu()], [one], now)), one) !== null).toBe(does);
  });

  it.each<{ why: string; of: Partial<Replica>; sinceMs: number }>([
    { why: 'its oldest client came', of: { demandAtMs: now - 1_000 }, sinceMs: now - 6_000 },
    { why: 'it fell asleep, if that is later', of: { stoppedAtMs: now - 2_000 }, sinceMs: now - 2_000 },
    {
      why: 'its streams were frozen',
      of: { demand: { ...frozen, queued: 1, oldestWaitMs: 100 }, stoppedAtMs: now - 7_000 },
      sinceMs: now - 7_000,
    },
    {
      why: 'it fell asleep, where a pin alone wants it',
      of: { demand: { ...waits, queued: 0, oldestWaitMs: 0 }, popular: true, stoppedAtMs: now - 3_000 },
      sinceMs: now - 3_000,
    },
  ])('since $why', ({ of, sinceMs }) => {
    const one = replica('m', { phase: 'asleep', demand: waits, demandAtMs: now, stoppedAtMs: 0, ...of });
    const waiter = asWaiter(stepOf(stateOf([gpu()], [one], now)), one)!;
    expect(waiter).toMatchObject({ sinceMs, forceAtMs: sinceMs + 5_000, rank: 'wake', last: false });
  });
});

describe('one that asks to boot', () => {
  it.each<{ of: Partial<Replica>; maxWaitTimeMs: number; forceAfterMs: number; clients: boolean }>([
    { of: { demand: waits }, maxWaitTimeMs: 5_000, forceAfterMs: 5_000, clients: true },
    { of: {}, maxWaitTimeMs: 5_000, forceAfterMs: 30_000, clients: false },
    { of: {}, maxWaitTimeMs: 45_000, forceAfterMs: 45_000, clients: false },
  ])(
    'may force after $forceAfterMs ms, with a maxWaitTime of $maxWaitTimeMs ms and clients: $clients',
    (row) => {
      const one = replica('m', { phase: 'asking', askedAtMs: now - 59_999, ...row.of });
      one.settings = {
        ...one.settings,
        fairness: { ...one.settings.fairness, maxWaitTimeMs: row.maxWaitTimeMs, priority: 3 },
      };
      const step = stepOf(stateOf([gpu()], [one], now));
      const sinceMs = now - 59_999;
      expect(asWaiter(step, one)).toMatchObject({
        rank: 'boot',
        sinceMs,
        forceAtMs: sinceMs + row.forceAfterMs,
        aged: false,
        priority: 3,
        clients: row.clients,
        last: false,
      });
      expect(step.nextMs).toBe(now + 1);
      one.askedAtMs = now - 60_000;
      expect(asWaiter(step, one)?.aged).toBe(true);
    },
  );

  it('is the only one that waits beside sleepers', () => {
    for (const phase of [
      'absent',
      'booting',
      'serving',
      'draining',
      'sleeping',
      'freeing',
      'waking',
      'checking',
      'restarting',
    ] as const) {
      const one = replica('m', { phase, demand: waits, popular: true });
      expect(asWaiter(stepOf(stateOf([gpu()], [one], now)), one)).toBeNull();
    }
  });
});
