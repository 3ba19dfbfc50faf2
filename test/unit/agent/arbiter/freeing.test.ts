/** What a sleeper keeps, and memory that contradicts belief. */
import { describe, expect, it } from 'vitest';
import { residueLimitBytes } from '../../../../agent/decide/arbiter/sleep.ts';
import type { Replica } from '../../../../agent/decide/arbiter/state.ts';
import { hear, measured } from './hearing.ts';
import { GiB, gpu, MiB, replica, stateOf } from './pieces.ts';

const now = 100_000;

describe('what a sleeper may keep', () => {
  it.each<{ of: Partial<Replica>; gib: number }>([
    { of: { firstResidueBytes: 0.2 * GiB, awakeBytes: 20 * GiB }, gib: 1 },
    { of: { firstResidueBytes: 2 * GiB, awakeBytes: 20 * GiB }, gib: 2.5 },
    { of: { awakeBytes: 20 * GiB }, gib: 10 },
    { of: { awakeBytes: 1 * GiB }, gib: 1 },
    { of: {}, gib: 1 },
  ])('is $gib GiB', ({ of, gib }) => {
    expect(residueLimitBytes(replica('m', of)) / GiB).toBe(gib);
  });
});

describe('one that falls asleep', () => {
  const falling = {
    phase: 'freeing',
    phaseSinceMs: now - 1_000,
    stoppedAtMs: now - 1_500,
    awakeBytes: 20 * GiB,
  } as const;
  it.each<{ why: string; of: Partial<Replica>; keeps: number; before?: number; rests: boolean }>([
    { why: 'as low as its known residue', of: { residueBytes: GiB }, keeps: GiB, rests: true },
    { why: 'a little above it', of: { residueBytes: GiB }, keeps: GiB + 16 * MiB, rests: true },
    { why: 'more than that above it', of: { residueBytes: GiB }, keeps: GiB + 17 * MiB, rests: false },
    { why: 'seen low for the first time', of: {}, keeps: GiB, rests: false },
    { why: 'seen twice alike', of: {}, keeps: GiB, before: GiB + 16 * MiB, rests: true },
    { why: 'that still moves', of: {}, keeps: GiB, before: GiB + 17 * MiB, rests: false },
    { why: 'that rests too high', of: {}, keeps: 11 * GiB, before: 11 * GiB, rests: false },
    {
      why: 'whose time is over, high as it is',
      of: { phaseSinceMs: now - 10_000 },
      keeps: 11 * GiB,
      rests: true,
    },
    { why: 'whose time is nearly over', of: { phaseSinceMs: now - 9_999 }, keeps: 11 * GiB, rests: false },
    {
      why: 'found so, before its sidecar was heard',
      of: { found: true, attached: false, residueBytes: GiB, seenAtMs: now - 1_000 },
      keeps: GiB,
      rests: false,
    },
    {
      why: 'found so, its sidecar silent for 5 s',
      of: { found: true, attached: false, residueBytes: GiB, seenAtMs: now - 5_000 },
      keeps: GiB,
      rests: true,
    },
    {
      why: 'sent to sleep by us, its sidecar silent',
      of: { attached: false, residueBytes: GiB, seenAtMs: now },
      keeps: GiB,
      rests: true,
    },
  ])('$why: at rest $rests', ({ of, keeps, before, rests }) => {
    const one = replica('m', { ...falling, bytes: before === undefined ? [] : [before], ...of });
    hear(stateOf([gpu()], [one], now), [measured({ m: keeps })]);
    expect(one.phase).toBe(rests ? 'asleep' : 'freeing');
    expect(one.bytes).toEqual([keeps]);
    if (rests) expect(one.proven).toBe(true);
  });

  it('is not judged, when the machine stood still, by a measurement that began before its time was over', () => {
    const one = replica('m', { ...falling, phaseSinceMs: now - 25_000, bytes: [11 * GiB] });
    const state = stateOf([gpu()], [one], now);
    hear(state, [measured({ m: 11 * GiB })], now - 15_001);
    expect([one.phase, one.mustRestart]).toEqual(['freeing', null]);
    hear(state, [measured({ m: 11 * GiB })], now - 15_000);
    expect([one.phase, one.mustRestart?.reason]).toEqual(['asleep', 'ResidueKept']);
  });

  it('keeps its figures: how long it took, what it leaves, and the first of it', () => {
    const one = replica('m', {
      ...falling,
      bytes: [GiB],
      sleepFailures: 2,
      roomMade: true,
      bootReady: false,
    });
    const step = hear(stateOf([gpu()], [one], now), [measured({ m: GiB })]);
    expect(one).toMatchObject({
      sleepMs: 1_500,
      residueBytes: GiB,
      firstResidueBytes: GiB,
      sleepFailures: 0,
      roomMade: false,
      bootReady: true,
      mustRestart: null,
    });
    expect(step.effects).toEqual([
      { type: 'remember', podUid: 'm', awakeBytes: 20 * GiB, residueBytes: GiB },
    ]);
  });

  it('of a gang rests when its bytes do on all its GPUs, and keeps the most of them', () => {
    const rest = { uuids: ['GPU-0', 'GPU-1'], reservedBytes: [20 * GiB, 20 * GiB] };
    const see = (second: number) => {
      const one = replica('m', { ...falling, ...rest, bytes: [GiB, 0.75 * GiB] });
      const gpus = [gpu(), gpu({ uuid: 'GPU-1' })];
      hear(stateOf(gpus, [one], now), [measured({ m: GiB }), measured({ m: second }, { uuid: 'GPU-1' })]);
      return one;
    };
    expect(see(0.25 * GiB).phase).toBe('freeing');
    expect(see(0.75 * GiB)).toMatchObject({ phase: 'asleep', residueBytes: GiB });
  });

  it('does not take for its own a time that nobody began', () => {
    const one = replica('m', { ...falling, found: true, bytes: [GiB], sleepMs: 700 });
    hear(stateOf([gpu()], [one], now), [measured({ m: GiB })]);
    expect(one.sleepMs).toBe(700);
  });

  it.each<{ why: string; of: Partial<Replica>; keeps: number; remembered: boolean }>([
    { why: 'the same as before', of: { residueBytes: GiB }, keeps: GiB + 16 * MiB, remembered: false },
    { why: 'less than before', of: { residueBytes: GiB }, keeps: GiB - 17 * MiB, remembered: true },
    { why: 'the first time', of: { bytes: [GiB] }, keeps: GiB, remembered: true },
    {
      why: 'the first time, of one never measured awake',
      of: { bytes: [GiB], awakeBytes: null },
      keeps: GiB,
      remembered: false,
    },
  ])('is remembered: $remembered, $why', ({ of, keeps, remembered }) => {
    const one = replica('m', { ...falling, ...of });
    const step = hear(stateOf([gpu()], [one], now), [measured({ m: keeps })]);
    expect(one.residueBytes).toBe(keeps);
    expect(step.effects.length).toBe(remembered ? 1 : 0);
  });

  it('and keeps too much is restarted; its residue stays what it was', () => {
    const one = replica('m', {
      ...falling,
      phaseSinceMs: 0,
      residueBytes: GiB,
      firstResidueBytes: GiB,
      sleepFailures: 1,
    });
    hear(stateOf([gpu()], [one], now), [measured({ m: 1.5 * GiB })]);
    expect(one.mustRestart).toEqual({
      reason: 'ResidueKept',
      message: 'it keeps 1.5 GiB while asleep, more than 1.3 GiB',
    });
    expect([one.residueBytes, one.sleepFailures]).toEqual([GiB, 1]);
  });

  it.each([
    [2, null],
    [3, { reason: 'WakeFailed', message: 'it failed to wake 3 times' }],
  ])('after %i failed wakes in a row is restarted or not', (wakeFailures, mustRestart) => {
    const one = replica('m', { ...falling, wakeFailures, residueBytes: GiB });
    hear(stateOf([gpu()], [one], now), [measured({ m: GiB })]);
    expect(one.mustRestart).toEqual(mustRestart);
  });
});

describe('memory that contradicts belief', () => {
  it('of a gang counts on the GPU where it is most', () => {
    const one = replica('m', {
      uuids: ['GPU-0', 'GPU-1'],
      reservedBytes: [20 * GiB, 20 * GiB],
      awakeBytes: 20 * GiB,
      becameServingAtMs: 0,
    });
    const gpus = [gpu(), gpu({ uuid: 'GPU-1' })];
    hear(stateOf(gpus, [one], now), [measured({ m: 9 * GiB }), measured({ m: 21 * GiB }, { uuid: 'GPU-1' })]);
    expect([one.phase, one.awakeBytes]).toEqual(['serving', 21 * GiB]);
  });

  it.each<{ why: string; of: Partial<Replica>; keeps: number; asked: boolean }>([
    {
      why: 'a sleeper at its residue',
      of: { phase: 'asleep', residueBytes: GiB, firstResidueBytes: GiB },
      keeps: GiB,
      asked: false,
    },
    {
      why: 'a sleeper within a GiB of it',
      of: { phase: 'asleep', residueBytes: GiB, firstResidueBytes: GiB },
      keeps: 2 * GiB,
      asked: false,
    },
    {
      why: 'a sleeper beyond',
      of: { phase: 'asleep', residueBytes: GiB, firstResidueBytes: GiB },
      keeps: 2 * GiB + 1,
      asked: true,
    },
    {
      why: 'a sleeper within its limit',
      of: { phase: 'asleep', residueBytes: null, awakeBytes: 20 * GiB },
      keeps: 10 * GiB,
      asked: false,
    },
    {
      why: 'a sleeper that is restarted anyway',
      of: { phase: 'asleep', residueBytes: GiB, mustRestart: { reason: 'x', message: 'x' } },
      keeps: 9 * GiB,
      asked: false,
    },
    {
      why: 'one that serves with half of its bytes',
      of: { awakeBytes: 20 * GiB, becameServingAtMs: 0 },
      keeps: 10 * GiB,
      asked: false,
    },
    {
      why: 'one that serves with less',
      of: { awakeBytes: 20 * GiB, becameServingAtMs: 0 },
      keeps: 10 * GiB - 1,
      asked: true,
    },
    {
      why: 'one that has just begun to',
      of: { awakeBytes: 20 * GiB, becameServingAtMs: now - 500 },
      keeps: 0,
      asked: false,
    },
    {
      why: 'one that was never measured',
      of: { awakeBytes: null, becameServingAtMs: 0 },
      keeps: 0,
      asked: false,
    },
    {
      why: 'one that is being asked',
      of: { awakeBytes: 20 * GiB, becameServingAtMs: 0, asking: true },
      keeps: 0,
      asked: false,
    },
  ])('$why: asked $asked', ({ of, keeps, asked }) => {
    const one = replica('m', of);
    const step = hear(stateOf([gpu()], [one], now), [measured({ m: keeps })]);
    expect(one.phase === 'checking').toBe(asked);
    expect(step.effects.some(({ type }) => type === 'ask-engine')).toBe(asked);
  });

  it.each<{ keeps: number; awake: number; remembered: boolean }>([
    { keeps: 20 * GiB, awake: 20 * GiB, remembered: false },
    { keeps: 20 * GiB + 16 * MiB, awake: 20 * GiB + 16 * MiB, remembered: false },
    { keeps: 20 * GiB + 17 * MiB, awake: 20 * GiB + 17 * MiB, remembered: true },
    { keeps: 19 * GiB, awake: 20 * GiB, remembered: false },
  ])('is a later peak at $keeps bytes; remembered $remembered', ({ keeps, awake, remembered }) => {
    const one = replica('m', { awakeBytes: 20 * GiB, becameServingAtMs: 0, residueBytes: 5, proven: false });
    const step = hear(stateOf([gpu()], [one], now), [measured({ m: keeps })]);
    expect([one.awakeBytes, one.proven]).toEqual([awake, true]);
    expect(step.effects).toEqual(
      remembered ? [{ type: 'remember', podUid: 'm', awakeBytes: awake, residueBytes: 5 }] : [],
    );
  });
});
