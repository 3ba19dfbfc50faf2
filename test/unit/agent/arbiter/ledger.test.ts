/** The ledger's figures one by one. */
import { describe, expect, it } from 'vitest';
import {
  attainableBytes,
  awakeClaimBytes,
  awakeNeedBytes,
  bootNeedBytes,
  capacityBytes,
  claimBytes,
  givenBackBytes,
  isNeedKnown,
  isSleepDue,
  ledgerView,
  openBooks,
} from '../../../../agent/decide/arbiter/ledger.ts';
import type { Gpu, Replica } from '../../../../agent/decide/arbiter/state.ts';
import { GiB, gpu, MiB, replica, stateOf } from './pieces.ts';

const gib = (bytes: number): number => bytes / GiB;

describe('what a GPU can hold', () => {
  it.each<{ why: string; of: Partial<Gpu>; holds: number }>([
    { why: 'all of it before it was measured', of: { freeBytes: null, usedBytes: null }, holds: 80 },
    { why: 'all of it while half a measurement is there', of: { freeBytes: null, usedBytes: 3 }, holds: 80 },
    { why: 'the same the other way round', of: { freeBytes: 3, usedBytes: null }, holds: 80 },
    { why: 'not what the driver keeps', of: { freeBytes: 70 * GiB, usedBytes: 9 * GiB }, holds: 79 },
    { why: 'never more than there is', of: { freeBytes: 70 * GiB, usedBytes: 15 * GiB }, holds: 80 },
  ])('is $holds GiB: $why', ({ of, holds }) => {
    expect(gib(capacityBytes(gpu(of)))).toBe(holds);
  });
});

describe('what an engine needs awake', () => {
  it.each<{ why: string; of: Partial<Replica>; claim: number; need: number; boot: number }>([
    { why: 'its reservation', of: {}, claim: 20, need: 20, boot: 20 },
    {
      why: 'what was measured, if that is more',
      of: { awakeBytes: 21 * GiB },
      claim: 21,
      need: 21.25,
      boot: 21,
    },
    {
      why: 'head room is within the reservation where that is larger',
      of: { awakeBytes: 19.5 * GiB },
      claim: 20,
      need: 20,
      boot: 20,
    },
    {
      why: 'head room beyond the reservation as far as it goes',
      of: { awakeBytes: 19.875 * GiB },
      claim: 20,
      need: 20.125,
      boot: 20,
    },
    { why: 'what it holds now, if that is most', of: { bytes: [23 * GiB] }, claim: 23, need: 23, boot: 23 },
    {
      why: 'what its launcher asked for, for a boot',
      of: { askedBytes: 25 * GiB },
      claim: 20,
      need: 20,
      boot: 25,
    },
    {
      why: 'all of the GPU while nobody has said',
      of: { reservedBytes: [null] },
      claim: 80,
      need: 80,
      boot: 80,
    },
    {
      why: 'what was measured where nobody has said',
      of: { reservedBytes: [null], awakeBytes: 4 * GiB },
      claim: 4,
      need: 4.25,
      boot: 4,
    },
  ])('is $need GiB: $why', ({ of, claim, need, boot }) => {
    const one = replica('m', of);
    expect(gib(awakeClaimBytes(one, gpu()))).toBe(claim);
    expect(gib(awakeNeedBytes(one, gpu()))).toBe(need);
    expect(gib(bootNeedBytes(one, gpu()))).toBe(boot);
  });

  it('is looked up by the GPU', () => {
    const gang = replica('m', {
      uuids: ['GPU-0', 'GPU-1'],
      reservedBytes: [10 * GiB, 30 * GiB],
      bytes: [12 * GiB, 1 * GiB],
    });
    expect(gib(awakeClaimBytes(gang, gpu()))).toBe(12);
    expect(gib(awakeClaimBytes(gang, gpu({ uuid: 'GPU-1' })))).toBe(30);
  });

  it.each([
    { reservedBytes: [null], awakeBytes: null, known: false },
    { reservedBytes: [GiB, null], awakeBytes: null, known: false },
    { reservedBytes: [GiB, GiB], awakeBytes: null, known: true },
    { reservedBytes: [null], awakeBytes: GiB, known: true },
  ])('is known: $known with $reservedBytes reserved and $awakeBytes measured', ({ known, ...of }) => {
    expect(isNeedKnown(replica('m', of))).toBe(known);
  });
});

describe('what a replica counts', () => {
  const measured = { awakeBytes: 20 * GiB, bytes: [3 * GiB] };
  it.each<{ of: Partial<Replica>; counts: number; why: string }>([
    { of: { phase: 'asleep', residueBytes: GiB }, counts: 1, why: 'asleep: its residue' },
    { of: { phase: 'asleep' }, counts: 1.5, why: 'asleep and never measured: the guess' },
    {
      of: { phase: 'asleep', residueBytes: GiB, bytes: [2 * GiB] },
      counts: 2,
      why: 'asleep: what it holds, if more',
    },
    { of: { phase: 'booting', askedBytes: 22 * GiB }, counts: 22, why: 'booting: all it was granted' },
    { of: { phase: 'serving', ...measured }, counts: 20.25, why: 'serving: with head room' },
    { of: { phase: 'draining', ...measured }, counts: 20.25, why: 'draining: the same' },
    { of: { phase: 'sleeping', ...measured }, counts: 20.25, why: 'falling asleep: the same' },
    { of: { phase: 'freeing', ...measured }, counts: 20.25, why: 'until its bytes rest: the same' },
    { of: { phase: 'waking', ...measured }, counts: 20.25, why: 'waking: the same' },
    { of: { phase: 'checking', ...measured }, counts: 20.25, why: 'while its state is asked: the same' },
    { of: { phase: 'restarting', ...measured }, counts: 20.25, why: 'while it ends: the same' },
    { of: { phase: 'absent', proven: true, ...measured }, counts: 3, why: 'ended: what is still seen' },
    { of: { phase: 'asking', proven: true, bytes: [0] }, counts: 0, why: 'asking: nothing' },
    {
      of: { phase: 'absent', proven: false, ...measured },
      counts: 20,
      why: 'ended and not measured since: all',
    },
    {
      of: { phase: 'absent', proven: true, launcher: 'never', bytes: [0] },
      counts: 0,
      why: 'never seen: nothing',
    },
    {
      of: { phase: 'absent', proven: true, launcher: 'never', ...measured },
      counts: 20,
      why: 'it may still grow',
    },
    {
      of: { phase: 'absent', proven: true, launcher: 'gone', ...measured },
      counts: 3,
      why: 'its launcher was heard',
    },
  ])('is $counts GiB $why', ({ of, counts }) => {
    expect(gib(claimBytes(replica('m', of), gpu()))).toBe(counts);
  });

  it('and gives back is all but what it leaves behind', () => {
    expect(gib(givenBackBytes(replica('m', { residueBytes: GiB }), gpu()))).toBe(19);
    expect(gib(givenBackBytes(replica('m'), gpu()))).toBe(18.5);
    expect(givenBackBytes(replica('m', { residueBytes: 30 * GiB }), gpu())).toBe(0);
  });
});

describe('a sleep is due', () => {
  const leaving = { for: null, forced: false, inFlight: 1, deadlineMs: 500 };
  it.each<{ of: Partial<Replica>; due: boolean; why: string }>([
    { of: { phase: 'draining', leaving: { ...leaving, inFlight: 0 } }, due: true, why: 'it is drained' },
    { of: { phase: 'draining', leaving }, due: false, why: 'one still runs' },
    {
      of: { phase: 'draining', leaving: { ...leaving, inFlight: null } },
      due: false,
      why: 'it has not said',
    },
    {
      of: { phase: 'draining', leaving: { ...leaving, deadlineMs: 100 } },
      due: true,
      why: 'its time is over',
    },
    { of: { phase: 'draining', leaving: null }, due: false, why: 'it does not leave' },
    {
      of: { phase: 'sleeping', leaving: { ...leaving, inFlight: 0 } },
      due: false,
      why: 'it was sent already',
    },
  ])('$due: $why', ({ of, due }) => {
    expect(isSleepDue(replica('m', of), 100)).toBe(due);
  });
});

describe('the books of a GPU', () => {
  const book = (...replicas: Replica[]) =>
    openBooks(stateOf([gpu({ foreignBytes: GiB })], replicas)).get('GPU-0')!;

  it('hold strangers, and nothing else where nobody is', () => {
    const room = book();
    expect(gib(room.claimedBytes)).toBe(1);
    expect(gib(room.capacityBytes)).toBe(80);
    const counts = [
      room.booting,
      room.sleeping,
      room.waking,
      room.draining,
      room.sleepDue,
      room.checking,
      room.ending,
    ];
    expect(counts).toEqual([0, 0, 0, 0, 0, 0, 0]);
    expect([room.promisedBytes, room.leavingBytes, room.evictableBytes, room.residueBytes]).toEqual([
      0, 0, 0, 0,
    ]);
    expect([room.closed, room.spoken, room.serving]).toEqual([false, false, []]);
  });

  it.each<{ of: Partial<Replica>; leaving?: number; evictable?: number; moves: string | null }>([
    { of: { phase: 'serving' }, evictable: 18.5, moves: null },
    { of: { phase: 'serving', popular: true }, moves: null },
    { of: { phase: 'draining' }, leaving: 18.5, moves: 'draining' },
    { of: { phase: 'sleeping' }, leaving: 18.5, moves: 'sleeping' },
    { of: { phase: 'freeing' }, leaving: 18.5, moves: 'sleeping' },
    { of: { phase: 'booting' }, moves: 'booting' },
    { of: { phase: 'waking' }, moves: 'waking' },
    { of: { phase: 'checking' }, moves: 'checking' },
    { of: { phase: 'restarting' }, leaving: 20, moves: 'ending' },
    { of: { phase: 'absent', proven: false }, leaving: 20, moves: 'ending' },
    { of: { phase: 'asking', proven: false }, leaving: 20, moves: 'ending' },
    { of: { phase: 'absent' }, moves: null },
    { of: { phase: 'asleep' }, moves: null },
  ])(
    'tell of one that is $of.phase what comes free and what moves: $moves',
    ({ of, leaving = 0, evictable = 0, moves }) => {
      const room = book(replica('m', of));
      expect(gib(room.leavingBytes)).toBe(leaving);
      expect(gib(room.evictableBytes)).toBe(evictable);
      const kinds = ['booting', 'sleeping', 'waking', 'draining', 'checking', 'ending'] as const;
      expect(kinds.filter((kind) => room[kind] > 0)).toEqual(moves === null ? [] : [moves]);
      expect(room.serving).toHaveLength(of.phase === 'serving' ? 1 : 0);
    },
  );

  it('take one whose launcher may still speak for one that boots, and promise nothing of it', () => {
    const state = stateOf(
      [gpu()],
      [replica('m', { phase: 'absent', launcher: 'never', proven: false, seenAtMs: 99_000 })],
    );
    state.settledAtMs = 99_500;
    const room = openBooks(state).get('GPU-0')!;
    expect([room.booting, room.ending, room.leavingBytes]).toEqual([1, 0, 0]);
  });

  it('count a drained one as due to sleep', () => {
    const leaving = { for: 'x', forced: true, inFlight: 0, deadlineMs: 900_000 };
    expect(book(replica('m', { phase: 'draining', leaving })).sleepDue).toBe(1);
    expect(book(replica('m', { phase: 'draining', leaving: { ...leaving, inFlight: 1 } })).sleepDue).toBe(0);
  });

  it('leave out a GPU that nobody knows', () => {
    const one = replica('m', { uuids: ['GPU-9', 'GPU-0'] });
    expect(gib(openBooks(stateOf([gpu()], [one])).get('GPU-0')!.claimedBytes)).toBe(20);
  });

  it('know what is pinned, up or only bound, at the larger of both figures', () => {
    const bindings = [
      { namespace: 'default', model: 'up', replica: 0, reservedBytes: 5 * GiB, popular: true },
      { namespace: 'default', model: 'bound', replica: 1, reservedBytes: 7 * GiB, popular: true },
      { namespace: 'default', model: 'plain', replica: 0, reservedBytes: 9 * GiB, popular: false },
    ];
    const up = replica('up', { popular: true });
    const room = openBooks(stateOf([gpu({ bindings })], [up])).get('GPU-0')!;
    expect([...room.popular].map(([key, bytes]) => [key, gib(bytes)])).toEqual([
      ['default/up/0', 20],
      ['default/bound/1', 7],
    ]);
    expect(room.residueBytes).toBe(0);
  });
});

describe('the most that can ever be free', () => {
  const others = [
    replica('asleep', { phase: 'asleep', residueBytes: GiB }),
    replica('serves', { residueBytes: 2 * GiB }),
    replica('unknown', { phase: 'asleep' }),
    replica('gone', { phase: 'absent', residueBytes: 4 * GiB }),
    replica('asks', { phase: 'asking', residueBytes: 4 * GiB }),
    replica('pinned', { popular: true, reservedBytes: [8 * GiB], residueBytes: 4 * GiB }),
  ];
  const attainable = (one: Replica): number => {
    const state = stateOf([gpu({ foreignBytes: 16 * GiB })], [...others, one]);
    return gib(attainableBytes(one, openBooks(state).get('GPU-0')!));
  };

  it('leaves out what is pinned and what sleepers keep, not what strangers hold', () => {
    expect(attainable(replica('m', { phase: 'asking' }))).toBe(80 - 8 - 3);
  });

  it('counts its own residue once: asleep, it is within its need', () => {
    expect(attainable(replica('m', { phase: 'asleep', residueBytes: 0.5 * GiB }))).toBe(80 - 8 - 3);
    expect(attainable(replica('m', { phase: 'asleep' }))).toBe(80 - 8 - 3);
  });

  it('does not hold its own pin against it', () => {
    expect(attainable(replica('m', { phase: 'asking', popular: true }))).toBe(80 - 8 - 3);
    const asleep = replica('m', { phase: 'asleep', popular: true, residueBytes: GiB });
    expect(attainable(asleep)).toBe(80 - 8 - 3);
  });
});

describe('the ledger that is shown', () => {
  it('adds up for each GPU by itself', () => {
    const gpus = [gpu({ foreignBytes: GiB }), gpu({ uuid: 'GPU-1' })];
    const replicas = [
      replica('serves', { awakeBytes: 20 * GiB }),
      replica('asleep', { phase: 'asleep', residueBytes: 512 * MiB }),
      replica('far', { uuids: ['GPU-1'] }),
    ];
    const [first, second] = ledgerView(stateOf(gpus, replicas));
    expect(first).toEqual({
      uuid: 'GPU-0',
      capacityBytes: 80 * GiB,
      reservedBytes: 20.25 * GiB,
      residueBytes: 512 * MiB,
      foreignBytes: GiB,
      roomBytes: (80 - 20.25 - 0.5 - 1) * GiB,
    });
    expect(second).toMatchObject({ reservedBytes: 20 * GiB, residueBytes: 0, roomBytes: 60 * GiB });
  });
});
