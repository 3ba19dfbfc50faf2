/** One step of the arbiter: events in, timers out, and what a state remembers. */
import { describe, expect, it } from 'vitest';
import { decide } from '../../../../agent/decide/arbiter/decide.ts';
import {
  type ArbiterState,
  bindingOn,
  enter,
  gpusOf,
  hasEngine,
  initialState,
  isDue,
  memoryMoves,
  newReplica,
  type Phase,
  smooth,
} from '../../../../agent/decide/arbiter/state.ts';
import type { ArbiterEffect, ArbiterEvent } from '../../../../agent/decide/arbiter/words.ts';
import { GiB, gpu, replica, stateOf, stepOf } from './pieces.ts';

const now = 100_000;
const busy = { inFlight: 1, queued: 0, oldestWaitMs: 0, idleMs: 0, requestsTotal: 1 };
const types = (state: ArbiterState, event: object): string[] =>
  decide(state, { atMs: now, ...event } as ArbiterEvent).effects.map(({ type }) => type);

describe('a step', () => {
  it('leaves what it has decided with its caller, should it throw', () => {
    const wakes = replica('w', { phase: 'asleep', demand: { ...busy, inFlight: 0, queued: 1 }, order: 1 });
    const broken = Object.assign(replica('b', { uuids: [], order: 2 }), { told: null });
    const state = stateOf([gpu({ measuredAtMs: now })], [wakes, broken], now);
    const effects: ArbiterEffect[] = [];
    expect(() => decide(state, { type: 'tick', atMs: now }, effects)).toThrow();
    expect(wakes.phase).toBe('waking');
    expect(effects.map(({ type }) => type)).toContain('wake-engine');
  });

  it('never goes back in time', () => {
    const state = initialState({ startedAtMs: 500 });
    expect([state.nowMs, state.startedAtMs, initialState().nowMs, initialState().startedAtMs]).toEqual([
      500,
      500,
      0,
      null,
    ]);
    decide(state, { type: 'tick', atMs: 400 });
    expect(state.nowMs).toBe(500);
    decide(state, { type: 'tick', atMs: 600 });
    expect(state.nowMs).toBe(600);
  });

  it('begins nothing before the start has settled, which happens once', () => {
    const one = replica('m', { mustTell: true, probedAtMs: now });
    const state = Object.assign(stateOf([gpu({ measuredAtMs: now })], [one], now), {
      settled: false,
      settledAtMs: 0,
    });
    expect(types(state, { type: 'tick' })).toEqual([]);
    expect(types(state, { type: 'settled' })).toEqual(['tell', 'timer']);
    expect(state.settledAtMs).toBe(now);
    expect(types(state, { type: 'settled', atMs: now + 5 })).toEqual([]);
    expect(state.settledAtMs).toBe(now);
  });

  it('hears nothing of a pod that nobody knows, save what makes it known', () => {
    const state = stateOf([gpu()], [], now);
    for (const type of ['detached', 'demand', 'started', 'ready', 'launcher-gone', 'slept', 'exited'])
      expect(types(state, { type, podUid: 'x' })).toEqual([]);
    expect(state.replicas.size).toBe(0);
    types(state, { type: 'launcher-ending', podUid: 'x' });
    expect(state.replicas.get('x')!.ending).toMatchObject({ sinceMs: now, drained: false });
  });

  it('keeps one timer, for the first moment at which time alone changes something', () => {
    const one = replica('m', {
      demandAtMs: now - 1_000,
      turnTold: true,
      becameServingAtMs: 0,
      probedAtMs: now,
      phaseSinceMs: now,
    });
    one.settings = { ...one.settings, sleep: { ...one.settings.sleep, idleTimeoutMs: 5_000 } };
    const state = stateOf([gpu({ measuredAtMs: now })], [one], now);
    const first = decide(state, { type: 'tick', atMs: now }).effects.filter(({ type }) => type === 'timer');
    expect(first).toEqual([{ type: 'timer', atMs: now + 4_000 }]);
    expect(types(state, { type: 'tick', atMs: now + 1 })).toEqual([]);
    // Its ring is a step of its own, whatever came with it.
    const rung = decide(state, {
      type: 'demand',
      podUid: 'm',
      demand: { ...one.demand, idleMs: 5_000 },
      atMs: now + 4_000,
    });
    expect(rung.effects.map(({ type }) => type)).toContain('barrier');
    expect(rung.effects.at(-1)?.type).toBe('timer');
  });

  it('takes its timer back when nothing is to come', () => {
    const one = replica('m', { popular: true, launcher: 'never' });
    const state = Object.assign(stateOf([gpu({ measuredAtMs: now })], [one], now), { timerMs: now + 9 });
    expect(decide(state, { type: 'tick', atMs: now }).effects).toContainEqual({ type: 'timer', atMs: null });
    expect(state.timerMs).toBeNull();
  });

  it('that changes nothing says nothing', () => {
    const one = replica('m', { demand: busy, demandAtMs: now, turnTold: true, mustTell: false });
    const state = stateOf([gpu({ measuredAtMs: now })], [one], now);
    types(state, { type: 'tick' });
    expect(types(state, { type: 'demand', podUid: 'm', demand: { ...busy, inFlight: 2 } })).toEqual([]);
    expect(one.demand.inFlight).toBe(2);
  });

  it('lets one move make the next possible at once', () => {
    // b drains, is empty and sleeps in the step in which its barrier is up.
    const demand = { ...busy, inFlight: 0, queued: 1, oldestWaitMs: 9_000 };
    const w = replica('w', { phase: 'asleep', demand, demandAtMs: now, reservedBytes: [60 * GiB] });
    const b = replica('b', {
      phase: 'draining',
      epoch: 4,
      leaving: { for: 'w', forced: false, inFlight: null, deadlineMs: now + 9 },
      reservedBytes: [60 * GiB],
    });
    const state = stateOf([gpu({ measuredAtMs: now })], [w, b], now);
    expect(types(state, { type: 'barrier-up', podUid: 'b', barrier: { epoch: 4, inFlight: 0 } })).toContain(
      'sleep-engine',
    );
  });

  it('of a launcher that goes leaves its place to nobody, and its engine alone', () => {
    const asks = replica('a', { phase: 'asking' });
    const runs = replica('r', { phase: 'asleep' });
    const state = stateOf([gpu({ measuredAtMs: now })], [asks, runs], now);
    for (const podUid of ['a', 'r']) types(state, { type: 'launcher-gone', podUid });
    expect([asks.phase, runs.phase]).toEqual(['absent', 'asleep']);
    expect([asks.launcher, asks.launcherGoneAtMs, runs.launcher]).toEqual(['gone', now, 'gone']);
  });
});

describe('a moment', () => {
  it('has come, or the step is woken at it, the earliest of all', () => {
    const step = stepOf(stateOf([], [], now));
    expect([isDue(step, now), isDue(step, now - 1), step.nextMs]).toEqual([
      true,
      true,
      Number.POSITIVE_INFINITY,
    ]);
    expect([isDue(step, now + 9), isDue(step, now + 5), isDue(step, now + 7), step.nextMs]).toEqual([
      false,
      false,
      false,
      now + 5,
    ]);
  });
});

describe('a replica of which nothing is known', () => {
  it('has no name, no GPUs, no engine, and was told nothing', () => {
    expect(newReplica('uid', 7, 3)).toMatchObject({
      podUid: 'uid',
      order: 3,
      seenAtMs: 7,
      pod: '',
      namespace: '',
      model: '',
      key: '',
      uuids: [],
      reservedBytes: [],
      askedUuids: [],
      bytes: [],
      failureText: '',
      failureLine: '',
      told: { state: 'STATE_UNKNOWN', bootReady: false, reason: '', message: '', retryAtMs: null },
      mustTell: false,
      phase: 'absent',
      launcher: 'never',
    });
  });
});

describe('a replica that enters a phase', () => {
  it.each<{ phase: Phase; leaves: boolean; wakeLeft: boolean }>([
    { phase: 'draining', leaves: true, wakeLeft: false },
    { phase: 'sleeping', leaves: true, wakeLeft: false },
    { phase: 'freeing', leaves: false, wakeLeft: false },
    { phase: 'serving', leaves: false, wakeLeft: false },
    { phase: 'checking', leaves: false, wakeLeft: true },
  ])(
    '$phase remembers that it leaves: $leaves, that a wake was left: $wakeLeft',
    ({ phase, leaves, wakeLeft }) => {
      const leaving = { for: null, forced: false, inFlight: 0, deadlineMs: 1 };
      const one = replica('m', { leaving, wakeLeft: true, deadlineMs: 5 });
      const step = stepOf(stateOf([], [one], now));
      enter(step, one, phase);
      expect(one).toMatchObject({ phase, phaseSinceMs: now, deadlineMs: null, wakeLeft });
      expect(one.leaving).toEqual(leaves ? leaving : null);
      expect(step.changed).toBe(true);
      enter(step, one, phase, 77);
      expect(one.deadlineMs).toBe(77);
    },
  );

  it.each<[Phase, boolean]>([
    ['absent', false],
    ['asking', false],
    ['booting', true],
    ['asleep', true],
    ['restarting', true],
  ])('%s has an engine: %s', (phase, has) => {
    expect(hasEngine(replica('m', { phase }))).toBe(has);
  });

  it('whose memory moves counts on all its GPUs that are known', () => {
    const one = replica('m', { uuids: ['GPU-0', 'GPU-9', 'GPU-1'] });
    const cards = [gpu(), gpu({ uuid: 'GPU-1' }), gpu({ uuid: 'GPU-2' })];
    const state = stateOf(cards, [one], now);
    memoryMoves(stepOf(state), one);
    expect([one.changedAtMs, one.proven]).toEqual([now, false]);
    expect([state.measureWantedMs, state.measureAgainAtMs]).toEqual([now, now]);
    expect(cards.map(({ changedAtMs }) => changedAtMs)).toEqual([now, now, 0]);
    expect(gpusOf(state, one).map(({ uuid }) => uuid)).toEqual(['GPU-0', 'GPU-1']);
  });

  it('finds its binding by all three of its names', () => {
    const binding = { namespace: 'default', model: 'm', replica: 0, reservedBytes: 1, popular: false };
    const one = replica('m');
    expect(bindingOn(gpu({ bindings: [{ ...binding, replica: 1 }, binding] }), one)).toBe(binding);
    for (const other of [{ namespace: 'x' }, { model: 'x' }, { replica: 1 }])
      expect(bindingOn(gpu({ bindings: [{ ...binding, ...other }] }), one)).toBeNull();
  });
});

describe('a smoothed figure', () => {
  it.each([
    [null, 8, 8],
    [4, 8, 5],
    [8, 4, 7],
  ])('of %s and then %i is %i', (before, value, after) => {
    expect(smooth(before, value, 0.25)).toBe(after);
  });
});
