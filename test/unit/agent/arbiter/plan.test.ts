/** One planning of one node: who starts, who drains, who waits with what is promised to it. */
import { describe, expect, it } from 'vitest';
import type { Gpu, Replica } from '../../../../agent/decide/arbiter/state.ts';
import { GiB, MiB, replica } from './pieces.ts';
import { asks, busy, idle, inTurn, now, run, waits } from './planning.ts';

describe('a sleeper that waits', () => {
  it('wakes where it fits to the byte, and says for what it waited', () => {
    const { phases, said } = run([waits('w', 40), idle('a', 39.5)]);
    expect(phases).toEqual({ w: 'waking', a: 'serving' });
    expect(said).toEqual(['w wakes on GPU 0: waited 1.0 s']);
  });

  it('drains another where it does not', () => {
    const { phases, said } = run([waits('w', 40), idle('a', 39.6)]);
    expect(phases).toEqual({ w: 'asleep', a: 'draining' });
    expect(said).toEqual([
      'a sleeps: w waited 1.0 s for 40.0 GiB on GPU 0; idle 100 s, the only one that may go',
    ]);
  });

  it('that is pinned says so', () => {
    expect(run([waits('w', 40, 0, { popular: true, demand: { ...busy, inFlight: 0 } })]).said).toEqual([
      'w wakes on GPU 0: it is pinned',
    ]);
  });

  it('keeps head room beside others, and none where nobody is', () => {
    const measured = { awakeBytes: 79.9 * GiB };
    expect(run([waits('w', 10, 1_000, measured)]).phases.w).toBe('waking');
    expect(
      run([waits('w', 10, 1_000, measured), replica('z', { phase: 'asleep', residueBytes: 0 })]).phases.w,
    ).toBe('waking');
    const half = { awakeBytes: 40 * GiB };
    expect(run([waits('w', 10, 1_000, half), idle('a', 39.5)]).phases.w).toBe('asleep');
    expect(run([waits('w', 10, 1_000, half), idle('a', 39.25)]).phases.w).toBe('waking');
    for (const phase of ['waking', 'draining', 'booting'] as const) {
      const beside = replica('a', { phase, reservedBytes: [39.9 * GiB] });
      expect(run([waits('w', 10, 1_000, half), beside]).phases.w).toBe('asleep');
    }
  });

  it.each<{ why: string; other: Replica; wakes: boolean }>([
    {
      why: 'a sleep beside it',
      other: replica('a', { phase: 'sleeping', reservedBytes: [GiB] }),
      wakes: false,
    },
    {
      why: 'bytes that do not rest yet',
      other: replica('a', { phase: 'freeing', reservedBytes: [GiB] }),
      wakes: false,
    },
    {
      why: 'an engine that is being asked',
      other: replica('a', { phase: 'checking', reservedBytes: [GiB] }),
      wakes: false,
    },
    {
      why: 'a drained one that is about to sleep',
      other: replica('a', {
        phase: 'draining',
        reservedBytes: [GiB],
        leaving: { for: null, forced: true, inFlight: 0, deadlineMs: now + 9 },
      }),
      wakes: false,
    },
    {
      why: 'one that drains',
      other: replica('a', {
        phase: 'draining',
        reservedBytes: [GiB],
        leaving: { for: null, forced: true, inFlight: 1, deadlineMs: now + 9 },
      }),
      wakes: true,
    },
    { why: 'another wake', other: replica('a', { phase: 'waking', reservedBytes: [GiB] }), wakes: true },
    {
      why: 'an engine that ends',
      other: replica('a', { phase: 'restarting', reservedBytes: [GiB] }),
      wakes: true,
    },
    { why: 'a boot', other: replica('a', { phase: 'booting', reservedBytes: [GiB] }), wakes: false },
  ])('for which there is room wakes beside $why: $wakes', ({ other, wakes }) => {
    expect(run([waits('w', 10), other]).phases.w).toBe(wakes ? 'waking' : 'asleep');
  });

  it.each<{ why: string; on: Partial<Gpu>; of?: Partial<Replica> }>([
    { why: 'not listed', on: { listed: false } },
    { why: 'not well', on: { usable: false } },
    { why: 'not measured', on: { freeBytes: null } },
    { why: 'known, its own need is not', on: {}, of: { reservedBytes: [null] } },
    {
      why: 'one of two, the other unknown',
      on: {},
      of: { uuids: ['GPU-0', 'GPU-9'], reservedBytes: [1, 1] },
    },
    { why: 'none', on: {}, of: { uuids: [], reservedBytes: [] } },
  ])('starts nothing and holds nothing where its GPU is $why', ({ on, of = {} }) => {
    const { phases } = run([waits('w', 40, 60_000, of), idle('a', 60)], [on]);
    expect(phases).toEqual({ w: 'asleep', a: 'serving' });
  });

  it('needs all the GPUs of a gang', () => {
    const gang = waits('g', 40, 1_000, { uuids: ['GPU-0', 'GPU-1'] });
    const near = idle('a', 60);
    const far = idle('b', 60, { uuids: ['GPU-1'] });
    expect(run([gang, near, far], [{}, {}]).phases).toEqual({ g: 'asleep', a: 'draining', b: 'draining' });
    expect(
      run(
        [
          waits('g', 40, 1_000, { uuids: ['GPU-0', 'GPU-1'] }),
          idle('a', 60),
          idle('b', 60, { uuids: ['GPU-1'], ...inTurn }),
        ],
        [{}, {}],
      ).phases,
    ).toEqual({ g: 'asleep', a: 'serving', b: 'serving' });
    expect(
      run([waits('g', 40, 1_000, { uuids: ['GPU-0', 'GPU-1'] }), idle('a', 60)], [{}, {}]).phases,
    ).toEqual({ g: 'asleep', a: 'draining' });
  });
});

describe('of several that wait', () => {
  it('all start that fit, in their order', () => {
    expect(
      run([waits('late', 30, 1_000), waits('early', 30, 2_000), waits('third', 30, 500)]).phases,
    ).toEqual({ late: 'waking', early: 'waking', third: 'asleep' });
  });

  it('what the first made room for is not there for the second', () => {
    const { phases } = run([waits('first', 60, 2_000), waits('second', 20, 1_000), idle('a', 55)]);
    // 24.5 GiB are free now; the first takes all but what a gives back.
    expect(phases).toEqual({ first: 'asleep', second: 'asleep', a: 'draining' });
  });

  it('what is free is kept for the first as long as others leave for it', () => {
    const { phases } = run([waits('first', 60, 2_000), waits('second', 17, 1_000), idle('a', 59)]);
    expect(phases).toEqual({ first: 'asleep', second: 'asleep', a: 'draining' });
  });

  it('what leaves already is promised to the first, and nobody else goes for it', () => {
    const leaving = { for: 'first', forced: true, inFlight: 1, deadlineMs: now + 9 };
    const a = idle('a', 50, { phase: 'draining', leaving });
    expect(run([waits('first', 58, 2_000), a, idle('b', 20)]).phases).toEqual({
      first: 'asleep',
      a: 'draining',
      b: 'serving',
    });
    const c = idle('c', 30, { phase: 'draining', leaving });
    expect(run([waits('first', 70, 2_000), c, idle('b', 45)]).phases).toEqual({
      first: 'asleep',
      c: 'draining',
      b: 'draining',
    });
  });

  it('behind one that no set can serve nobody chooses victims, not even where one would do', () => {
    const { phases } = run([
      waits('first', 78, 2_000),
      waits('second', 40, 1_000),
      idle('a', 50),
      idle('b', 20, inTurn),
    ]);
    expect(phases).toEqual({ first: 'asleep', second: 'asleep', a: 'serving', b: 'serving' });
  });

  it('behind it another may take what is left beside whole occupants that will go', () => {
    // first lacks 30.5 of what a (40) will give back: 9.5 are over, and 9 may be had now.
    const free = [waits('first', 70, 2_000), waits('second', 9, 1_000), idle('a', 40, inTurn)];
    expect(run(free).phases.second).toBe('waking');
    expect(
      run([waits('first', 70, 2_000), waits('second', 11, 1_000), idle('a', 40, inTurn)]).phases.second,
    ).toBe('asleep');
    // A pinned one gives nothing back.
    expect(
      run([
        waits('first', 30, 2_000),
        waits('second', 9, 1_000),
        idle('p', 45, { popular: true }),
        idle('a', 5, inTurn),
      ]).phases.second,
    ).toBe('asleep');
  });

  it('an aged one lets nobody start behind it', () => {
    const others = () => [waits('second', 4, 1_000), idle('a', 40, inTurn)];
    expect(run([waits('first', 60, 29_999), ...others()]).phases.second).toBe('waking');
    expect(run([waits('first', 60, 30_000), ...others()]).phases.second).toBe('asleep');
  });

  it('victims on other GPUs are theirs alone', () => {
    const far = { uuids: ['GPU-1'] };
    const { phases } = run(
      [waits('first', 78, 2_000), waits('second', 40, 1_000, far), idle('a', 50, inTurn), idle('b', 50, far)],
      [{}, {}],
    );
    expect(phases).toEqual({ first: 'asleep', second: 'asleep', a: 'serving', b: 'draining' });
  });

  it('a victim that lies on two GPUs gives back on both', () => {
    const both = { uuids: ['GPU-0', 'GPU-1'] };
    const { phases } = run(
      [
        waits('first', 60, 2_000),
        waits('second', 60, 1_000, { uuids: ['GPU-1'] }),
        idle('a', 50, both),
        idle('b', 10, { uuids: ['GPU-1'] }),
      ],
      [{}, {}],
    );
    expect(phases).toEqual({ first: 'asleep', second: 'asleep', a: 'draining', b: 'serving' });
  });
});

describe('the books while a step plans', () => {
  const far = { uuids: ['GPU-1'] };
  const both = { uuids: ['GPU-0', 'GPU-1'] };

  it('fill up to the byte', () => {
    const three = [waits('early', 40, 3_000), waits('late', 39.5, 2_000), waits('third', 1, 1_000)];
    expect(run(three).phases).toEqual({ early: 'waking', late: 'waking', third: 'asleep' });
  });

  it('give what is over of one that leaves to the next, who drains only what it still lacks', () => {
    const first = waits('first', 40, 2_000);
    const { phases } = run([first, waits('second', 30, 1_000), idle('a', 45), idle('b', 30)]);
    expect(phases).toEqual({ first: 'asleep', second: 'asleep', a: 'draining', b: 'draining' });
  });

  it('make no room where enough leaves already', () => {
    const leaving = { for: 'x', forced: true, inFlight: 1, deadlineMs: now + 9 };
    const first = waits('first', 58, 2_000);
    run([first, idle('a', 50, { phase: 'draining', leaving })]);
    expect(first.roomMade).toBe(false);
  });

  it('count as many occupants as will go, no more', () => {
    const others = () => [idle('a', 30, inTurn), idle('b', 30, inTurn)];
    expect(run([waits('first', 40, 2_000), waits('second', 12, 1_000), ...others()]).phases.second).toBe(
      'asleep',
    );
    expect(run([waits('first', 40, 2_000), waits('second', 9, 1_000), ...others()]).phases.second).toBe(
      'waking',
    );
  });

  it('let a gang choose no victims where an older one waits for its own on one of its GPUs', () => {
    const gang = waits('gang', 60, 1_000, both);
    const { phases } = run(
      [waits('first', 78, 2_000), gang, idle('a', 20, inTurn), idle('b', 50), idle('c', 50, far)],
      [{}, {}],
    );
    expect(phases).toEqual({ first: 'asleep', gang: 'asleep', a: 'serving', b: 'serving', c: 'serving' });
  });

  it('keep head room beside any two others', () => {
    const half = { awakeBytes: 40 * GiB };
    for (const phases of [
      ['serving', 'waking'],
      ['waking', 'draining'],
      ['serving', 'draining'],
    ] as const) {
      const others = phases.map((phase, at) =>
        replica(`o${at}`, { phase, reservedBytes: [(phase === 'waking' ? 19.9 : 20) * GiB], ...inTurn }),
      );
      expect(run([waits('w', 10, 1_000, half), ...others]).phases.w).toBe('asleep');
    }
  });

  it('are not quiet while any two move', () => {
    for (const phases of [
      ['sleeping', 'waking'],
      ['waking', 'draining'],
      ['draining', 'checking'],
      ['checking', 'restarting'],
      ['waking', 'checking'],
      ['draining', 'restarting'],
    ] as const) {
      const others = phases.map((phase, at) => replica(`o${at}`, { phase }));
      expect(run([asks('b', 20), ...others]).phases.b).toBe('asking');
    }
  });

  it('let a gang start only where nothing is in the way on any of its GPUs', () => {
    const sleeping = replica('s', { phase: 'sleeping', ...far });
    expect(run([waits('gang', 20, 1_000, both), sleeping], [{}, {}]).phases.gang).toBe('asleep');
    const boots = asks('gang', 20, { ...both, askedUuids: ['GPU-0', 'GPU-1'], reservedBytes: [GiB, GiB] });
    expect(run([boots, replica('w', { phase: 'waking', ...far })], [{}, {}]).phases.gang).toBe('asking');
  });

  it('take a boot for what its launcher asked', () => {
    const { phases } = run([asks('b', 20, { askedBytes: 50 * GiB }), idle('a', 35)]);
    expect(phases).toEqual({ b: 'asking', a: 'draining' });
  });

  it('let a boot that has no room yet keep no smaller one behind it waiting', () => {
    const { phases } = run([
      asks('large', 70),
      asks('small', 9, { askedAtMs: now - 500 }),
      idle('a', 60, inTurn),
    ]);
    expect(phases).toEqual({ large: 'asking', small: 'booting', a: 'serving' });
  });
});

describe('one that goes', () => {
  it('is said to be busy and for how long it was awake, or the cheapest of so many', () => {
    const forced = idle('a', 60, { demand: busy, becameServingAtMs: now - 20_000 });
    expect(run([waits('w', 40, 5_000), forced]).said).toEqual([
      'a sleeps: w waited 5.0 s for 40.0 GiB on GPU 0; busy, awake for 20 s, the only one that may go',
    ]);
    expect(run([asks('w', 40), idle('a', 30, { wakeMs: 1 }), idle('b', 30, { wakeMs: 9_000 })]).said).toEqual(
      ['a sleeps: w waited to boot for 1.0 s for 40.0 GiB on GPU 0; idle 100 s, cheapest of 2'],
    );
  });

  it('leaves for its waiter, forced only if busy; the waiter comes first from then on', () => {
    const w = waits('w', 40, 5_000);
    const a = idle('a', 60);
    run([w, a]);
    expect([w.roomMade, a.leaving]).toEqual([
      true,
      { for: 'w', forced: false, inFlight: null, deadlineMs: now + 5_000 },
    ]);
    const b = idle('b', 60, { demand: busy });
    run([waits('w', 40, 5_000), b]);
    expect(b.leaving).toEqual({ for: 'w', forced: true, inFlight: null, deadlineMs: now + 30_000 });
  });

  it('for one that does not wait any more makes no room', () => {
    const gone = waits('w', 40, 0, { demand: { ...busy, inFlight: 0 }, roomMade: true });
    run([gone, idle('a', 60)]);
    expect(gone.roomMade).toBe(false);
  });
});

describe('a boot', () => {
  it('starts where its need is free and measured so', () => {
    expect(run([asks('b', 40), idle('a', 39.5)]).phases.b).toBe('booting');
    expect(
      run([asks('b', 40), idle('a', 39.5)], [{ freeBytes: 39 * GiB, usedBytes: 41 * GiB }]).phases.b,
    ).toBe('asking');
    expect(run([asks('b', 40), idle('a', 39.6)]).phases).toEqual({ b: 'asking', a: 'draining' });
  });

  it.each<{ why: string; other: Replica; boots: boolean }>([
    { why: 'one that falls asleep', other: replica('a', { phase: 'sleeping' }), boots: false },
    { why: 'one that wakes', other: replica('a', { phase: 'waking' }), boots: false },
    { why: 'one that drains', other: replica('a', { phase: 'draining' }), boots: false },
    { why: 'one that boots', other: replica('a', { phase: 'booting' }), boots: false },
    { why: 'one that is being asked', other: replica('a', { phase: 'checking' }), boots: false },
    { why: 'one that ends', other: replica('a', { phase: 'restarting' }), boots: false },
    {
      why: 'one that ended unmeasured',
      other: replica('a', { phase: 'absent', proven: false }),
      boots: false,
    },
    { why: 'one that serves', other: replica('a'), boots: true },
    { why: 'a sleeper', other: replica('a', { phase: 'asleep' }), boots: true },
    {
      why: 'one that moves elsewhere',
      other: replica('a', { phase: 'waking', uuids: ['GPU-1'] }),
      boots: true,
    },
  ])('starts beside $why: $boots', ({ other, boots }) => {
    expect(run([asks('b', 20), other], [{}, {}]).phases.b).toBe(boots ? 'booting' : 'asking');
  });

  it('goes behind a wake, and one at a time', () => {
    expect(run([asks('b', 20), waits('w', 20)]).phases).toEqual({ b: 'asking', w: 'waking' });
    expect(run([asks('b', 20), asks('c', 20)]).phases).toEqual({ b: 'booting', c: 'asking' });
  });

  it('holds back others while it waits for quiet, also what its room would leave', () => {
    const moving = replica('a', { phase: 'restarting', reservedBytes: [GiB] });
    const first = asks('b', 20, { roomMade: true });
    expect(run([first, waits('w', 4), moving]).phases).toEqual({ b: 'asking', w: 'asleep', a: 'restarting' });
    expect(
      run([asks('b', 20), waits('w', 4), replica('a', { phase: 'restarting', reservedBytes: [GiB] })]).phases
        .w,
    ).toBe('waking');
  });

  it('in whose way something stands is not thought of', () => {
    expect(run([asks('b', 40, { askedUuids: ['GPU-1'] }), idle('a', 60)]).phases).toEqual({
      b: 'asking',
      a: 'serving',
    });
  });
});

describe('one found never to fit', () => {
  const failure = { reason: 'StrangerHoldsMemory', message: 'x', retryAtMs: 0 };
  it('is judged again though nobody waits for it', () => {
    const one = waits('w', 40, 0, { demand: { ...busy, inFlight: 0 }, failure });
    run([one], [{ foreignBytes: 60 * GiB, foreignSinceMs: 0 }]);
    expect(one.failure).not.toBeNull();
    run([one]);
    expect(one.failure).toBeNull();
  });

  it('holds nothing of what others need', () => {
    const never = waits('never', 79, 60_000);
    const p = replica('p', { popular: true, reservedBytes: [10 * GiB] });
    expect(run([never, waits('w', 20), p]).phases).toMatchObject({ never: 'asleep', w: 'waking' });
    expect(never.failure?.reason).toBe('NeverFits');
  });

  it('where its GPU is away is left as it is', () => {
    const one = waits('w', 40, 0, { demand: { ...busy, inFlight: 0 }, failure });
    run([one], [{ listed: false }]);
    expect(one.failure).toEqual(failure);
  });
});

it('a sliver of room is enough for a residue more or less', () => {
  expect(run([waits('w', 40), idle('a', 39.5 - 64 / 1024)]).phases.w).toBe('waking');
  expect(run([waits('w', 40, 1_000, { residueBytes: 64 * MiB }), idle('a', 39.5)]).phases.w).toBe('waking');
});
