/** Wakes: what the engine answered. */
import { explain } from './explain.ts';
import { averageWeight, retryMsFirst, retryMsMax } from './limits.ts';
import { serveProven } from './prove.ts';
import { type Replica, type Step, smooth } from './state.ts';
import { backoffMs, beginChecking } from './transitions.ts';
import type { ArbiterEvent } from './words.ts';

export function onWoken(step: Step, replica: Replica, event: ArbiterEvent & { type: 'woken' }): void {
  if (replica.phase !== 'waking') return;
  if (!event.ok) {
    wakeFailed(step, replica, event.message);
    return;
  }
  replica.wakeMs = smooth(replica.wakeMs, event.tookMs, averageWeight);
  woke(step, replica);
}

/** It serves from now on, by setting once it has answered as it should; its turn begins. */
export function woke(step: Step, replica: Replica): void {
  replica.wakeFailures = 0;
  replica.retryAtMs = 0;
  serveProven(step, replica, 'wake', true);
}

/** The engine says what it is, the measurement what it leaked; then it is tried again after a pause, or restarted. */
export function wakeFailed(step: Step, replica: Replica, message: string): void {
  replica.wakeFailures++;
  explain(
    step,
    replica,
    'WakeFailed',
    `${replica.model} did not wake, try ${replica.wakeFailures}: ${message}`,
    'warn',
  );
  beginChecking(step, replica);
}

/** Found asleep after a failed wake: when it may be tried again. */
export function pauseAfterFailedWake(step: Step, replica: Replica): void {
  if (replica.wakeFailures === 0) return;
  replica.retryAtMs = step.now + backoffMs(replica.wakeFailures, retryMsFirst, retryMsMax);
}
