/**
 * The one place where the arbiter's state changes: an event, one decision, its effects. Effects are started, never waited
 * for; what they lead to comes back as an event.
 */
import { errorText, type Log } from '#platform/log.ts';
import type { ArbiterEffect, ArbiterEvent } from './decide/arbiter/words.ts';
import type { Untimed } from './decide/launcher-line.ts';

/** Events that effects may cause in one go, before control returns; more is a programmer's error. */
const queuedEventsMax = 10_000;
/** Node's longest timer, ms. */
const timerMsMax = 2 ** 31 - 1;

export interface Loop<State> {
  /** Handled before this returns, unless an event is being handled: then right after it. */
  post(event: Untimed<ArbiterEvent>): void;
  state(): State;
  /** Monotonic ms of the last event that was handled; null before the first. */
  handledAtMs(): number | null;
  stop(): void;
}

export interface LoopParts<State> {
  initial: State;
  /** @param effects is filled; what is in it when this throws was begun in the state already */
  decide(state: State, event: ArbiterEvent, effects: ArbiterEffect[]): { state: State };
  /** Every effect but `timer`, which is the loop's own. */
  carryOut(effect: Exclude<ArbiterEffect, { type: 'timer' }>, atMs: number): void;
  /** After each step, for metrics and for what is published. */
  stepped(event: ArbiterEvent, effects: ArbiterEffect[]): void;
  nowMs(): number;
  log: Log;
}

export function createLoop<State>(parts: LoopParts<State>): Loop<State> {
  const { decide, carryOut, stepped, nowMs, log } = parts;
  let state = parts.initial;
  const queue: ArbiterEvent[] = [];
  let busy = false;
  let stopped = false;
  let timer: NodeJS.Timeout | undefined;
  let handledAtMs: number | null = null;

  const wakeAt = (atMs: number | null): void => {
    clearTimeout(timer);
    if (atMs === null || stopped) return;
    const waitMs = Math.min(Math.max(0, Math.ceil(atMs - nowMs())), timerMsMax);
    timer = setTimeout(() => {
      // Node's timers may fire a little early.
      if (nowMs() < atMs) wakeAt(atMs);
      else post({ type: 'tick' });
    }, waitMs);
  };

  /** A part that throws costs its own work alone: the loop is what everything on this node hangs on. */
  const guarded = (what: string, work: () => void): void => {
    try {
      work();
    } catch (error) {
      log.error('a step of the loop failed', { what, error: errorText(error) });
    }
  };

  const step = (event: ArbiterEvent): void => {
    handledAtMs = event.atMs;
    const effects: ArbiterEffect[] = [];
    guarded(`decide ${event.type}`, () => {
      ({ state } = decide(state, event, effects));
    });
    for (const effect of effects) {
      guarded(`effect ${effect.type}`, () => {
        if (effect.type === 'timer') wakeAt(effect.atMs);
        else carryOut(effect, event.atMs);
      });
    }
    guarded('observers', () => stepped(event, effects));
  };

  function post(event: Untimed<ArbiterEvent>): void {
    if (stopped) return;
    if (queue.length >= queuedEventsMax) {
      log.error('too many events at once, one is lost', { most: queuedEventsMax, lost: event.type });
      return;
    }
    queue.push({ ...event, atMs: nowMs() } as ArbiterEvent);
    if (busy) return;
    busy = true;
    try {
      for (let next = queue.shift(); next && !stopped; next = queue.shift()) step(next);
    } finally {
      busy = false;
    }
  }

  return {
    post,
    state: () => state,
    handledAtMs: () => handledAtMs,
    stop() {
      stopped = true;
      clearTimeout(timer);
      queue.length = 0;
    },
  };
}
