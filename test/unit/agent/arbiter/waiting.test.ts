/** The order of waiters, one criterion at a time: each row breaks the tie of all that stand before it. */
import { describe, expect, it } from 'vitest';
import { newReplica } from '../../../../agent/decide/arbiter/state.ts';
import { compareWaiters, type Waiter } from '../../../../agent/decide/arbiter/waiting.ts';
import { ScenarioNode } from './node-with-models.ts';

interface Wish extends Partial<Omit<Waiter, 'replica'>> {
  roomMade?: boolean;
  order?: number;
  uid?: string;
}

function waiter({ roomMade = false, order = 0, uid = 'm', ...rest }: Wish): Waiter {
  const replica = newReplica(uid, 0, order);
  replica.roomMade = roomMade;
  return {
    replica,
    rank: 'wake',
    sinceMs: 0,
    forceAtMs: 0,
    aged: false,
    priority: 0,
    last: false,
    clients: true,
    ...rest,
  };
}

describe('of two waiters goes first', () => {
  it.each<{ why: string; first: Wish; second: Wish }>([
    {
      why: 'the one for which room is being made, before one that finishes streams',
      first: { roomMade: true, sinceMs: 9 },
      second: { last: true },
    },
    {
      why: 'the one that finishes streams of a pod that ends, before one past its age bound',
      first: { last: true, sinceMs: 9 },
      second: { aged: true },
    },
    {
      why: 'the one past its age bound, whatever the priority of the other',
      first: { aged: true, sinceMs: 9, priority: -100 },
      second: { priority: 100 },
    },
    {
      why: 'a boot past its age bound, before a wake that is not',
      first: { aged: true, rank: 'boot', clients: false, sinceMs: 9 },
      second: {},
    },
    {
      why: 'of two past it the older, whatever its rank and priority',
      first: { aged: true, sinceMs: 1, rank: 'boot', priority: -100 },
      second: { aged: true, sinceMs: 2, priority: 100 },
    },
    {
      why: 'a wake before a boot of higher priority that is older',
      first: { sinceMs: 9 },
      second: { rank: 'boot', priority: 100 },
    },
    {
      why: 'a boot with clients before one of higher priority without',
      first: { rank: 'boot', sinceMs: 9 },
      second: { rank: 'boot', clients: false, priority: 100 },
    },
    {
      why: 'of wakes the one of higher priority, whether clients or a pin want it',
      first: { priority: 1, clients: false, sinceMs: 9 },
      second: {},
    },
    { why: 'the one that waits longer', first: { sinceMs: 1, order: 9 }, second: { sinceMs: 2 } },
    { why: 'the one that appeared first', first: { order: 1, uid: 'z' }, second: { order: 2, uid: 'a' } },
    { why: 'the one whose UID is less', first: { uid: 'a' }, second: { uid: 'z' } },
  ])('$why', ({ first, second }) => {
    expect(compareWaiters(waiter(first), waiter(second))).toBeLessThan(0);
    expect(compareWaiters(waiter(second), waiter(first))).toBeGreaterThan(0);
  });
});

/** a, b and c each fill the GPU; c serves a client, which keeps the others waiting for as long as the test likes. */
function queue(priorities: { a: number; b: number }): ScenarioNode {
  const node = new ScenarioNode(1).start();
  const fairness = { maxWaitTimeMs: 600_000, minRuntimeMs: 60_000 };
  for (const name of ['a', 'b', 'c'] as const) {
    const priority = name === 'c' ? 0 : priorities[name];
    node.add(name, { bootMs: 1_000, fairness: { ...fairness, priority } }).booted(name);
  }
  node.demand('c', 1, 0);
  return node.forget();
}

describe('a waiter of low priority', () => {
  it.each([
    { laterMs: 29_000, first: 'b', why: 'is behind one of higher priority until it has waited 30 s' },
    { laterMs: 31_000, first: 'a', why: 'is before one that has not, once it has waited 30 s' },
  ])('$why', ({ laterMs, first }) => {
    const node = queue({ a: 0, b: 50 });
    node.demand('a', 0, 1);
    node.pass(laterMs - 100);
    node.demand('b', 0, 1);
    node.pass(100);
    node.demand('c', 0, 0);
    node.pass(400);
    expect(node.sent('wake-engine')).toEqual([first]);
  });
});
