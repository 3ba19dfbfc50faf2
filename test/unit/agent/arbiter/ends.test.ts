/** The end of a pod, moment by moment: who is told, who is waited for, and for how long. */
import { describe, expect, it } from 'vitest';
import { driveEndings, onLauncherEnding, onSidecarEnding } from '../../../../agent/decide/arbiter/ending.ts';
import type { Replica } from '../../../../agent/decide/arbiter/state.ts';
import { gpu, replica, stateOf, stepOf } from './pieces.ts';

const now = 100_000;
const ending = { sinceMs: now, endSent: false, drained: false, released: false };

function drive(one: Replica, others: Replica[] = [], nowMs = now) {
  const step = stepOf(stateOf([gpu()], [one, ...others], nowMs));
  driveEndings(step);
  return { step, sent: step.effects.map(({ type }) => type) };
}
const withDrain = (drainTimeoutMs: number) => {
  const { settings } = replica('any');
  return { ...settings, sleep: { ...settings.sleep, drainTimeoutMs } };
};

describe('the sidecar of a pod that ends', () => {
  it.each([
    { drainTimeoutMs: 30_000, graceMs: null, told: 50_000, why: 'its drainTimeout and 20 s' },
    { drainTimeoutMs: 30_000, graceMs: 60_000, told: 50_000, why: 'the same within a grace of 60 s' },
    { drainTimeoutMs: 60_000, graceMs: 60_000, told: 50_000, why: 'no more than the grace less 10 s' },
    { drainTimeoutMs: 60_000, graceMs: 15_000, told: 10_000, why: 'of a short grace two thirds' },
    { drainTimeoutMs: 0, graceMs: 600_000, told: 20_000, why: 'no more than it needs of a long grace' },
  ])('is told once how long it has: $told ms, $why', ({ drainTimeoutMs, graceMs, told }) => {
    const one = replica('m', { ending: { ...ending }, settings: withDrain(drainTimeoutMs), graceMs });
    const { step } = drive(one);
    expect(step.effects).toEqual([{ type: 'end', podUid: 'm', graceMs: told }]);
    expect(step.nextMs).toBe(now + told);
    expect(drive(one).sent).toEqual([]);
  });

  it('has a millisecond at least', () => {
    const one = replica('m', { ending: { ...ending, sinceMs: 0 }, settings: withDrain(0) });
    expect(drive(one).step.effects).toContainEqual({ type: 'end', podUid: 'm', graceMs: 1 });
  });

  it('is not told while it is away', () => {
    const one = replica('m', { ending: { ...ending }, attached: false, detachedAtMs: now });
    expect(drive(one).sent).toEqual([]);
    expect(one.ending?.endSent).toBe(false);
  });
});

describe('its launcher is released', () => {
  const sent = { ...ending, endSent: true };
  it.each<{ why: string; of: Partial<Replica>; atMs?: number; released: boolean }>([
    { why: 'when all is drained', of: { ending: { ...sent, drained: true } }, released: true },
    { why: 'not before', of: { ending: { ...sent } }, released: false },
    { why: 'when no engine runs', of: { ending: { ...sent }, phase: 'absent' }, released: true },
    { why: 'when it waits to boot', of: { ending: { ...sent }, phase: 'asking' }, released: true },
    { why: 'when its time is over', of: { ending: { ...sent } }, atMs: now + 50_000, released: true },
    { why: 'not a moment earlier', of: { ending: { ...sent } }, atMs: now + 49_999, released: false },
    {
      why: 'when its sidecar has been away for 3 s',
      of: { ending: { ...sent }, attached: false, detachedAtMs: 0 },
      atMs: now + 3_000,
      released: true,
    },
    {
      why: 'not before those are over',
      of: { ending: { ...sent }, attached: false, detachedAtMs: 0 },
      atMs: now + 2_999,
      released: false,
    },
    {
      why: 'not before 3 s since it went',
      of: { ending: { ...sent }, attached: false, detachedAtMs: now + 500 },
      atMs: now + 3_499,
      released: false,
    },
    {
      why: 'not when its launcher is away',
      of: { ending: { ...sent, drained: true }, launcher: 'gone' },
      released: false,
    },
    { why: 'only once', of: { ending: { ...sent, drained: true, released: true } }, released: false },
    { why: 'not where nothing ends', of: {}, released: false },
  ])('$released: $why', ({ of, atMs = now, released }) => {
    const one = replica('m', of);
    expect(drive(one, [], atMs).sent).toEqual(released ? ['release-launcher'] : []);
    expect(one.ending?.released ?? false).toBe(released || (of.ending?.released ?? false));
  });

  it.each<{ why: string; of: Partial<Replica>; atMs: number; boots?: Partial<Replica>; released: boolean }>([
    { why: 'not beside a boot', of: {}, atMs: now + 9_999, released: false },
    { why: 'beside one that lasts longer than 10 s', of: {}, atMs: now + 10_000, released: true },
    { why: 'beside one on another GPU', of: {}, atMs: now, boots: { uuids: ['GPU-1'] }, released: true },
    { why: 'beside one that has no engine to end', of: { phase: 'absent' }, atMs: now, released: true },
  ])('$released: $why', ({ of, atMs, boots, released }) => {
    const one = replica('m', { ending: { ...sent, drained: true }, ...of });
    const other = replica('boots', { phase: 'booting', ...boots });
    expect(drive(one, [other], atMs).sent).toEqual(released ? ['release-launcher'] : []);
  });
});

describe('a pod that is deleted and says nothing', () => {
  const deleted = { deleting: true, deletingSinceMs: now - 2_000, phase: 'absent' } as const;
  it.each<{ why: string; of: Partial<Replica>; ends: boolean }>([
    { why: 'ends after 2 s', of: deleted, ends: true },
    { why: 'not before', of: { ...deleted, deletingSinceMs: now - 1_999 }, ends: false },
    {
      why: 'not while an engine runs: its launcher will say so',
      of: { ...deleted, phase: 'asleep' },
      ends: false,
    },
    { why: 'not where nobody listens', of: { ...deleted, launcher: 'gone', attached: false }, ends: false },
    { why: 'where only its sidecar listens', of: { ...deleted, launcher: 'gone' }, ends: true },
    { why: 'where only its launcher listens', of: { ...deleted, attached: false }, ends: true },
    { why: 'not when the API server lists it no more', of: { ...deleted, listed: false }, ends: false },
    { why: 'not when it is not deleted', of: { ...deleted, deleting: false }, ends: false },
  ])('$ends: $why', ({ of, ends }) => {
    const one = replica('m', of);
    const { step } = drive(one);
    expect(one.ending !== null).toBe(ends);
    expect(step.changed).toBe(ends);
  });

  it('that ends already goes on as it did', () => {
    const one = replica('m', { ...deleted, ending: { ...ending, sinceMs: 5, endSent: true, drained: true } });
    drive(one);
    expect(one.ending).toEqual({ sinceMs: 5, endSent: true, drained: true, released: true });
  });
});

describe('the words of an end', () => {
  it('begin it once, and a launcher that says it again did not hear its release', () => {
    const one = replica('m', { launcher: 'gone' });
    const step = stepOf(stateOf([gpu()], [one], now));
    onLauncherEnding(step, one);
    expect([one.launcher, one.ending, step.changed]).toEqual(['connected', ending, true]);
    one.ending = { sinceMs: 5, endSent: true, drained: true, released: true };
    onLauncherEnding(step, one);
    expect(one.ending).toEqual({ sinceMs: 5, endSent: true, drained: true, released: false });
  });

  it('of a sidecar count only where its pod ends', () => {
    const one = replica('m');
    const step = stepOf(stateOf([gpu()], [one], now));
    onSidecarEnding(step, one, { type: 'sidecar-ending', podUid: 'm', drained: true, atMs: now });
    expect(one.ending).toBeNull();
    one.ending = { ...ending };
    onSidecarEnding(step, one, { type: 'sidecar-ending', podUid: 'm', drained: true, atMs: now });
    expect(one.ending.drained).toBe(true);
    onSidecarEnding(step, one, { type: 'sidecar-ending', podUid: 'm', drained: false, atMs: now });
    expect(one.ending.drained).toBe(false);
    expect(step.changed).toBe(true);
  });
});
