/**
 * The one place where the controller's state changes: events come in, a tick soon after them plans, effects go out, their
 * results come back as events.
 */

import { KubernetesError, type KubernetesObject } from '#platform/kubernetes/client.ts';
import { errorText, type Log } from '#platform/log.ts';
import type { Effect } from './decide/effects.ts';
import type { ControllerSettings } from './decide/settings.ts';
import { type ControllerEvent, emptyState, isSynced, type State, step } from './decide/step.ts';

/** Changes that come together are planned together; ms. */
const coalesceMs = 50;
/** Of the process' time at most a fifth goes into planning: after a long plan the next one waits this many times as long. */
const restAfterPlan = 4;
/** A timer asked for is set no further ahead than this, ms: setTimeout has a limit of its own. */
const timerMsMax = 3_600_000;

export interface Loop {
  dispatch(event: ControllerEvent): void;
  isSynced(): boolean;
  /** For metrics: how many Models are in which phase. */
  phases(): Map<string, number>;
  /** No event is taken any more. */
  stop(): void;
}

export interface LoopOptions {
  settings: ControllerSettings;
  perform(effect: Effect): Promise<KubernetesObject | null>;
  onPlanned(seconds: number, effects: number): void;
  onPerformed(effect: Effect, result: 'ok' | 'failed'): void;
  log: Log;
}

export function createLoop(options: LoopOptions): Loop {
  const { settings, perform, onPlanned, onPerformed, log } = options;
  const state: State = emptyState();
  let soon: NodeJS.Timeout | null = null;
  let later: NodeJS.Timeout | null = null;
  let planMs = 0;
  let stopped = false;

  function dispatch(event: ControllerEvent): void {
    if (stopped) return;
    const began = performance.now();
    const { effects, isDirty, wakeAtMs } = step(state, event, settings, Date.now());
    if (event.type === 'tick') {
      planMs = performance.now() - began;
      onPlanned(planMs / 1000, effects.length);
    }
    for (const effect of effects) void carryOut(effect);
    if (isDirty && !soon) soon = setTimeout(tick, Math.max(coalesceMs, planMs * restAfterPlan));
    if (event.type === 'tick') wakeAt(wakeAtMs);
  }

  function tick(): void {
    soon = null;
    try {
      dispatch({ type: 'tick' });
    } catch (error) {
      // A programmer's error: one bad object must not silence the controller for ever, so the next change tries again.
      log.error('a plan threw', {
        error: error instanceof Error ? (error.stack ?? error.message) : errorText(error),
      });
    }
  }

  function wakeAt(atMs: number | null): void {
    if (later) clearTimeout(later);
    later =
      atMs === null ? null : setTimeout(tick, Math.min(Math.max(atMs - Date.now(), coalesceMs), timerMsMax));
  }

  async function carryOut(effect: Effect): Promise<void> {
    try {
      const object = await perform(effect);
      onPerformed(effect, 'ok');
      dispatch({ type: 'done', effect, object });
    } catch (error) {
      onPerformed(effect, 'failed');
      const status = error instanceof KubernetesError ? error.status : 0;
      dispatch({ type: 'failed', effect, message: errorText(error), status });
    }
  }

  return {
    dispatch,
    isSynced: () => isSynced(state),
    phases() {
      const counts = new Map<string, number>();
      for (const model of state.caches.models.values()) {
        const phase = (model.status as { phase?: string } | undefined)?.phase ?? 'Pending';
        counts.set(phase, (counts.get(phase) ?? 0) + 1);
      }
      return counts;
    },
    stop() {
      stopped = true;
      if (soon) clearTimeout(soon);
      if (later) clearTimeout(later);
    },
  };
}
