/** Whom to put to sleep: turns, costs, and the cheapest set that suffices. */
import { describe, expect, it } from 'vitest';
import { openBooks } from '../../../../agent/decide/arbiter/ledger.ts';
import type { Gpu, Replica } from '../../../../agent/decide/arbiter/state.ts';
import {
  type Candidate,
  chooseVictims,
  compareCandidates,
  mayForce,
  maySleep,
  turnEndsMs,
  turnMs,
  wakeCostMs,
} from '../../../../agent/decide/arbiter/victims.ts';
import type { Waiter } from '../../../../agent/decide/arbiter/waiting.ts';
import { GiB, gpu, replica, stateOf, stepOf } from './pieces.ts';

const busy = { inFlight: 1, queued: 0, oldestWaitMs: 0, idleMs: 0, requestsTotal: 1 };
const settings = replica('any').settings;
const withTurn = (minRuntimeMs: number) => ({
  ...settings,
  fairness: { ...settings.fairness, minRuntimeMs },
});

describe('a turn', () => {
  it.each([
    { minRuntimeMs: 10_000, sleepMs: null, wakeMs: null, turn: 10_000 },
    { minRuntimeMs: 10_000, sleepMs: 1_000, wakeMs: 1_400, turn: 10_000 },
    { minRuntimeMs: 10_000, sleepMs: 1_000, wakeMs: 2_000, turn: 12_000 },
    { minRuntimeMs: 0, sleepMs: null, wakeMs: 2_000, turn: 8_000 },
    { minRuntimeMs: 0, sleepMs: 500, wakeMs: null, turn: 2_000 },
    { minRuntimeMs: 0, sleepMs: 10_000, wakeMs: 10_000, turn: 60_000 },
    { minRuntimeMs: 90_000, sleepMs: null, wakeMs: null, turn: 60_000 },
  ])('of minRuntime $minRuntimeMs ms and a switch of $sleepMs + $wakeMs ms is $turn ms', (row) => {
    const { minRuntimeMs, sleepMs, wakeMs, turn } = row;
    const one = replica('m', { settings: withTurn(minRuntimeMs), sleepMs, wakeMs, becameServingAtMs: 5_000 });
    expect(turnMs(one)).toBe(turn);
    expect(turnEndsMs(one)).toBe(5_000 + turn);
  });
});

describe('what a wake costs', () => {
  it.each<{ of: Partial<Replica>; ms: number; why: string }>([
    { of: { wakeMs: 1_234, awakeBytes: 40e9 }, ms: 1_234, why: 'as measured' },
    { of: { awakeBytes: 40e9, vramBytes: 2e9, askedBytes: 1e9 }, ms: 2_300, why: 'by its measured bytes' },
    { of: { vramBytes: 2e9, askedBytes: 1e9 }, ms: 400, why: 'by the annotation' },
    { of: { vramBytes: null, askedBytes: 1e9 }, ms: 350, why: 'by what its launcher asked for' },
  ])('is $ms ms: $why', ({ of, ms }) => {
    expect(wakeCostMs(replica('m', of))).toBe(ms);
  });
});

describe('sleeping one is possible', () => {
  it.each<{ why: string; of?: Partial<Replica>; on?: Partial<Gpu>; may: boolean }>([
    { why: 'it serves', may: true },
    { why: 'it drains already', of: { phase: 'draining' }, may: false },
    {
      why: 'its pod ends',
      of: { ending: { sinceMs: 0, endSent: true, drained: false, released: false } },
      may: false,
    },
    { why: 'it must be restarted', of: { mustRestart: { reason: 'x', message: 'x' } }, may: false },
    { why: 'its last sleep failed a moment ago', of: { notSleepBeforeMs: 100_001 }, may: false },
    { why: 'the pause after that is over', of: { notSleepBeforeMs: 100_000 }, may: true },
    { why: 'its GPU resource is gone', on: { resource: false }, may: false },
  ])('$may: $why', ({ of, on, may }) => {
    const one = replica('m', of);
    const step = stepOf(stateOf([gpu(on)], [one]));
    expect(maySleep(step, one)).toBe(may);
  });

  it('only where all its GPUs have their resource', () => {
    const gang = replica('m', { uuids: ['GPU-0', 'GPU-1'] });
    const step = stepOf(stateOf([gpu(), gpu({ uuid: 'GPU-1', resource: false })], [gang]));
    expect(maySleep(step, gang)).toBe(false);
  });

  it.each<{ why: string; on: Partial<Gpu>; of?: Partial<Replica>; goes: boolean }>([
    { why: 'idle, on one that the driver does not list', on: { listed: false }, goes: true },
    { why: 'idle, on one that is not healthy', on: { usable: false }, goes: true },
    {
      why: 'busy, on one that the driver does not list',
      on: { listed: false },
      of: { demand: busy },
      goes: false,
    },
    { why: 'busy, on one that is not healthy', on: { usable: false }, of: { demand: busy }, goes: false },
    { why: 'busy, where all are well', on: {}, of: { demand: busy }, goes: true },
  ])('$goes for who waits on its other GPU: $why', ({ on, of, goes }) => {
    const gang = replica('m', { uuids: ['GPU-0', 'GPU-1'], ...of });
    const asleep = replica('w', { phase: 'asleep' });
    const state = stateOf([gpu(), gpu({ uuid: 'GPU-1', ...on })], [gang, asleep]);
    const rooms = [openBooks(state).get('GPU-0')!];
    const choice = chooseVictims(stepOf(state), waiterFor(asleep), rooms, [GiB]);
    expect(choice !== null).toBe(goes);
  });
});

function waiterFor(one: Replica, rest: Partial<Waiter> = {}): Waiter {
  return {
    replica: one,
    rank: 'wake',
    sinceMs: 90_000,
    forceAtMs: 95_000,
    aged: false,
    priority: 0,
    last: false,
    clients: true,
    ...rest,
  };
}

describe('a busy one may be forced', () => {
  it.each([
    { forceAtMs: 100_000, servingSinceMs: 90_000, may: true, wakesAtMs: null },
    { forceAtMs: 100_001, servingSinceMs: 0, may: false, wakesAtMs: 100_001 },
    { forceAtMs: 0, servingSinceMs: 90_001, may: false, wakesAtMs: 100_001 },
  ])('$may: from $forceAtMs on, with a turn of 10 s since $servingSinceMs', (row) => {
    const victim = replica('v', { becameServingAtMs: row.servingSinceMs });
    const asleep = replica('w', { phase: 'asleep' });
    const step = stepOf(stateOf([gpu()], [victim, asleep]));
    expect(mayForce(step, victim, waiterFor(asleep, { forceAtMs: row.forceAtMs }))).toBe(row.may);
    expect(step.nextMs).toBe(row.wakesAtMs ?? Number.POSITIVE_INFINITY);
  });

  it.each([
    { why: 'not before its clients were told that it serves', of: { turnTold: false }, may: false },
    {
      why: 'but always where nobody is there to be told',
      of: { turnTold: false, attached: false },
      may: true,
    },
  ])('$why', ({ of, may }) => {
    const fairness = { ...replica('v').settings.fairness, minRuntimeMs: 0 };
    const settings = { ...replica('v').settings, fairness };
    const victim = replica('v', { settings, becameServingAtMs: 0, ...of });
    const asleep = replica('w', { phase: 'asleep' });
    const step = stepOf(stateOf([gpu()], [victim, asleep]));
    expect(mayForce(step, victim, waiterFor(asleep, { forceAtMs: 0 }))).toBe(may);
  });
});

describe('of two that may go, goes first', () => {
  const one = (rest: Partial<Candidate> & { order?: number; uid?: string }): Candidate => ({
    replica: replica(rest.uid ?? 'm', { order: rest.order ?? 0 }),
    busy: false,
    costMs: 100,
    idleMs: 0,
    bytes: [GiB],
    ...rest,
  });
  it.each<{ why: string; first: Parameters<typeof one>[0]; second: Parameters<typeof one>[0] }>([
    { why: 'the idle one, dear as it may be', first: { costMs: 900 }, second: { busy: true, idleMs: 9 } },
    { why: 'the cheaper one', first: { costMs: 99 }, second: { idleMs: 9 } },
    { why: 'the one idle for longer', first: { idleMs: 9, order: 5 }, second: { idleMs: 8 } },
    { why: 'the one that appeared first', first: { order: 1, uid: 'z' }, second: { order: 2, uid: 'a' } },
    { why: 'the one whose UID is less', first: { uid: 'a' }, second: { uid: 'z' } },
  ])('$why', ({ first, second }) => {
    expect(compareCandidates(one(first), one(second))).toBeLessThan(0);
    expect(compareCandidates(one(second), one(first))).toBeGreaterThan(0);
  });
});

/** Those that go for a sleeper that lacks so many GiB on each of its GPUs. */
function chosen(
  others: Replica[],
  missingGib: number[] = [10],
  options: { waiter?: Partial<Replica>; gpus?: Gpu[] } = {},
): { names: string[]; of: number } | null {
  const { waiter = {}, gpus = missingGib.map((_, at) => gpu({ uuid: `GPU-${at}`, index: at })) } = options;
  const asleep = replica('waits', { phase: 'asleep', uuids: gpus.map(({ uuid }) => uuid), ...waiter });
  const state = stateOf(gpus, [asleep, ...others]);
  const books = openBooks(state);
  const choice = chooseVictims(
    stepOf(state),
    waiterFor(asleep),
    gpus.map(({ uuid }) => books.get(uuid)!),
    missingGib.map((missing) => missing * GiB),
  );
  return choice && { names: choice.victims.map((one) => one.replica.podUid).sort(), of: choice.candidates };
}

/** Serves, idle since `idleSinceMs`, gives back so many GiB, and its wake costs so many ms. */
const idle = (name: string, gib: number, wakeMs = 300, rest: Partial<Replica> = {}): Replica =>
  replica(name, {
    reservedBytes: (rest.uuids ?? ['GPU-0']).map(() => (gib + 1) * GiB),
    residueBytes: GiB,
    sleepMs: 100,
    wakeMs,
    ...rest,
  });

describe('the set that goes', () => {
  it.each<{ why: string; others: Replica[]; names: string[] | null }>([
    { why: 'is none when nobody is there', others: [], names: null },
    { why: 'is none when all together do not suffice', others: [idle('a', 4), idle('b', 5)], names: null },
    { why: 'is all when it takes all', others: [idle('a', 5), idle('b', 5)], names: ['a', 'b'] },
    {
      why: 'is one that suffices, not two',
      others: [idle('a', 5), idle('b', 5), idle('c', 10)],
      names: ['c'],
    },
    {
      why: 'is two cheap ones before a dear one',
      others: [idle('a', 5), idle('b', 5), idle('c', 10, 9_000)],
      names: ['a', 'b'],
    },
    {
      why: 'is the cheapest of those that suffice',
      others: [idle('a', 10, 900), idle('b', 12, 600), idle('c', 11, 700)],
      names: ['b'],
    },
    {
      why: 'has no popular one',
      others: [idle('a', 10, 300, { popular: true }), idle('b', 10, 9_000)],
      names: ['b'],
    },
    {
      why: 'has no busy one in its turn',
      others: [idle('a', 10, 300, { demand: busy, becameServingAtMs: 99_000 })],
      names: null,
    },
    {
      why: 'has a busy one whose turn is over',
      others: [idle('a', 10, 300, { demand: busy })],
      names: ['a'],
    },
    {
      why: 'has all idle ones before one busy one',
      others: [idle('a', 5, 60_000), idle('b', 5, 60_000), idle('c', 10, 0, { demand: busy })],
      names: ['a', 'b'],
    },
    {
      why: 'has no idle one that does not help beside a busy one',
      others: [idle('a', 4), idle('c', 10, 0, { demand: busy })],
      names: ['c'],
    },
    {
      why: 'has one that cannot be heard as busy',
      others: [idle('a', 10, 0, { attached: false, becameServingAtMs: 99_000 })],
      names: null,
    },
    {
      why: 'has none that was used 9 ms ago',
      others: [idle('a', 10, 0, { demandAtMs: 99_991, becameServingAtMs: 99_000 })],
      names: null,
    },
    {
      why: 'has one that was used 10 ms ago',
      others: [idle('a', 10, 0, { demandAtMs: 99_990, becameServingAtMs: 99_000 })],
      names: ['a'],
    },
  ])('$why', ({ others, names }) => {
    expect(chosen(others)?.names ?? null).toEqual(names);
  });

  it('is the one whose clients come back later: its wake is due less soon', () => {
    const often = idle('often', 10, 2_000, { returnGapMs: 1_000, demandAtMs: 99_000 });
    const rarely = idle('rarely', 10, 2_000, { returnGapMs: 600_000, demandAtMs: 99_000 });
    expect(chosen([often, rarely])?.names).toEqual(['rarely']);
    // Twice as dear, and twenty times as seldom.
    expect(chosen([often, { ...rarely, wakeMs: 4_000 }])?.names).toEqual(['rarely']);
  });

  it('is the one idle for longer than its gaps say', () => {
    const late = idle('late', 10, 2_000, { returnGapMs: 1_000, demandAtMs: 0 });
    const due = idle('due', 10, 2_000, { returnGapMs: 20_000, demandAtMs: 99_000 });
    expect(chosen([late, due])?.names).toEqual(['late']);
  });

  it('is the least recently used where no gap is known', () => {
    const before = idle('before', 10, 2_000, { demandAtMs: 10_000 });
    const after = idle('after', 10, 2_000, { demandAtMs: 90_000 });
    expect(chosen([after, before])?.names).toEqual(['before']);
  });

  it('is the old pod of its own roll, popular or not, before any other', () => {
    const old = idle('old', 10, 60_000, { key: 'default/m/0', popular: true });
    const waiter = { key: 'default/m/0' };
    expect(chosen([idle('a', 10, 0), old], [10], { waiter })?.names).toEqual(['old']);
  });

  it('suffices on each GPU of a gang', () => {
    const one = { uuids: ['GPU-0'] };
    const two = { uuids: ['GPU-1'] };
    const both = { uuids: ['GPU-0', 'GPU-1'] };
    expect(chosen([idle('a', 10, 300, one)], [10, 10])).toBeNull();
    expect(chosen([idle('a', 10, 300, one), idle('b', 10, 300, two)], [10, 10])?.names).toEqual(['a', 'b']);
    expect(
      chosen([idle('a', 10, 300, one), idle('b', 10, 300, two), idle('c', 10, 500, both)], [10, 10]),
    ).toEqual({
      names: ['c'],
      of: 3,
    });
    // Nothing lacks on the second.
    expect(chosen([idle('a', 10, 300, one), idle('b', 10, 300, two)], [10, 0])?.names).toEqual(['a']);
  });

  it('is one that was never measured asleep, where the guess alone is in the way', () => {
    const unmeasured = (name: string, gib: number) => idle(name, gib - 1, 300, { residueBytes: null });
    expect(chosen([unmeasured('a', 10)], [10])?.names).toEqual(['a']);
    expect(chosen([unmeasured('a', 9.9)], [10])).toBeNull();
    expect(chosen([{ ...unmeasured('a', 10), demand: busy }], [10])).toBeNull();
    // Beside one that was measured, only the other shows something new.
    expect(chosen([unmeasured('a', 6), idle('b', 4)], [10])?.names).toEqual(['a']);
    expect(chosen([unmeasured('a', 6), idle('b', 3.9)], [10])).toBeNull();
    // Nothing to learn where nothing lacks.
    const far = { ...unmeasured('far', 10), uuids: ['GPU-1'] };
    expect(chosen([unmeasured('a', 10), far], [10, 0])?.names).toEqual(['a']);
  });

  it('lets go again of those that are not needed, the dearest first, where there are too many to try all', () => {
    const small = Array.from({ length: 10 }, (_, at) => idle(`s${at}`, 1, 100 + at));
    // The ten cheapest give 10; the eleventh gives all by itself.
    expect(chosen([...small, idle('large', 10.5, 5_000)], [10.5])?.names).toEqual(['large']);
    expect(chosen([...small, idle('large', 3, 5_000)], [12])?.names).toEqual(
      ['large', 's0', 's1', 's2', 's3', 's4', 's5', 's6', 's7', 's8'].sort(),
    );
    expect(chosen([...small, idle('large', 3, 5_000)], [3])?.names).toEqual(['s0', 's1', 's2']);
    const far = Array.from({ length: 11 }, (_, at) => idle(`f${at}`, 9, 1, { uuids: ['GPU-1'] }));
    expect(chosen([...far, idle('near', 4)], [4, 0])?.names).toEqual(['near']);
  });
});
