/** Strangers, and when the GPUs are measured. */
import { describe, expect, it } from 'vitest';
import { driveMeasuring } from '../../../../agent/decide/arbiter/measure.ts';
import type { ArbiterState, Gpu, Replica } from '../../../../agent/decide/arbiter/state.ts';
import type { GpuMeasurement } from '../../../../agent/decide/facts.ts';
import { hear, measured } from './hearing.ts';
import { GiB, gpu, MiB, replica, stateOf, stepOf } from './pieces.ts';

const now = 100_000;

describe('what belongs to nobody here', () => {
  const state = (rest: Partial<Gpu> = {}) =>
    stateOf([gpu({ foreignSinceMs: 5, ...rest })], [replica('m'), replica('far', { uuids: ['GPU-1'] })], now);
  it.each<{ why: string; seen: GpuMeasurement; gib: number }>([
    { why: 'nothing, where pods account for all', seen: measured({ m: 20 * GiB }), gib: 0 },
    { why: 'what no process accounts for', seen: measured({ m: 20 * GiB }, { usedBytes: 23 * GiB }), gib: 3 },
    {
      why: 'what processes of no pod hold',
      seen: measured({ m: 20 * GiB }, { foreignBytes: 4 * GiB }),
      gib: 4,
    },
    {
      why: 'what a pod holds that is not known here',
      seen: measured({ m: 20 * GiB, gone: 6 * GiB }),
      gib: 6,
    },
    { why: 'what a pod holds whose GPU is another', seen: measured({ far: 7 * GiB }), gib: 7 },
    { why: 'never less than nothing', seen: measured({ m: 20 * GiB }, { usedBytes: 10 * GiB }), gib: 0 },
  ])('is $gib GiB: $why', ({ seen, gib }) => {
    const node = state();
    hear(node, [seen]);
    expect(node.gpus.get('GPU-0')!.foreignBytes / GiB).toBe(gib);
  });

  it('counts since it changed by more than a trifle', () => {
    const node = state({ foreignBytes: 4 * GiB });
    hear(node, [measured({}, { foreignBytes: 4 * GiB + 16 * MiB })]);
    expect(node.gpus.get('GPU-0')!.foreignSinceMs).toBe(5);
    hear(node, [measured({}, { foreignBytes: 4 * GiB - 17 * MiB })]);
    expect(node.gpus.get('GPU-0')!.foreignSinceMs).toBe(now);
  });
});

describe('a measurement is asked for', () => {
  const slowMs = 12_000;
  it.each<{
    why: string;
    of?: Partial<Replica>;
    on?: Partial<Gpu>;
    state?: Partial<ArbiterState>;
    asked: boolean;
    againMs?: number;
  }>([
    { why: 'not where nobody waits for one', asked: false },
    { why: 'of one that falls asleep', of: { phase: 'freeing', changedAtMs: now }, asked: true },
    { why: 'of one that ended', of: { phase: 'absent', proven: false, changedAtMs: now }, asked: true },
    {
      why: 'of one that ended and asks',
      of: { phase: 'asking', proven: false, changedAtMs: now },
      asked: true,
    },
    { why: 'not of one that ended and was measured', of: { phase: 'absent', proven: true }, asked: false },
    {
      why: 'of a boot that is ready',
      of: { phase: 'booting', readyAtMs: now, changedAtMs: now },
      asked: true,
    },
    { why: 'not of a boot that is not', of: { phase: 'booting', proven: false }, asked: false },
    { why: 'of a GPU whose figures are hoped for', on: { wantedMs: 50, measuredAtMs: 49 }, asked: true },
    { why: 'not of a GPU that has told', on: { wantedMs: 50, measuredAtMs: 50 }, asked: false },
    {
      why: 'not of a GPU that the driver does not list',
      on: { wantedMs: 50, measuredAtMs: 49, listed: false },
      asked: false,
    },
    {
      why: 'not while one is under way',
      of: { phase: 'freeing', changedAtMs: now },
      state: { measuring: true, measureSentAtMs: now - 10 },
      asked: false,
      againMs: now - 10 + 180_000,
    },
    {
      why: 'when the one under way was lost',
      of: { phase: 'freeing', changedAtMs: now },
      state: { measuring: true, measureSentAtMs: now - 180_000 },
      asked: true,
    },
    {
      why: 'not so soon after another',
      of: { phase: 'freeing', changedAtMs: now },
      state: { measureAgainAtMs: now + 50 },
      asked: false,
      againMs: now + 50,
    },
    {
      why: 'seldom of one that takes long',
      of: { phase: 'freeing', changedAtMs: now - slowMs - 1 },
      state: { measureAgainAtMs: now },
      asked: false,
      againMs: now + 1_950,
    },
    {
      why: 'seldom, but it is',
      of: { phase: 'freeing', changedAtMs: now - slowMs - 1 },
      state: { measureAgainAtMs: now - 1_950 },
      asked: true,
    },
    {
      why: 'often of one that does not take long yet',
      of: { phase: 'freeing', changedAtMs: now - slowMs },
      state: { measureAgainAtMs: now },
      asked: true,
    },
    {
      why: 'often where a GPU is hoped for too',
      of: { phase: 'freeing', changedAtMs: now - slowMs - 1 },
      on: { wantedMs: 50, measuredAtMs: 49 },
      state: { measureAgainAtMs: now },
      asked: true,
    },
  ])('$asked: $why', ({ of = {}, on = {}, state: rest = {}, asked, againMs }) => {
    const state = Object.assign(
      stateOf([gpu({ measuredAtMs: 0, wantedMs: 0, ...on })], [replica('m', of)], now),
      rest,
    );
    const step = stepOf(state);
    driveMeasuring(step);
    expect(step.effects).toEqual(asked ? [{ type: 'measure' }] : []);
    expect(step.nextMs).toBe(againMs ?? Number.POSITIVE_INFINITY);
    if (asked) expect([state.measuring, state.measureSentAtMs]).toEqual([true, now]);
  });

  it('and is over with the answer to it, not with an older one', () => {
    const state = Object.assign(stateOf([gpu()], [], now), {
      measuring: true,
      measureSentAtMs: 90_000,
      measureWantedMs: 95_000,
    });
    hear(state, [], 89_999);
    expect(state.measuring).toBe(true);
    hear(state, [], 90_000);
    expect([state.measuring, state.measureAgainAtMs]).toEqual([false, 0]);
    hear(state, [], 95_000);
    expect(state.measureAgainAtMs).toBe(now + 50);
  });
});
