/** The end of a pod: the sidecar drains first, then the launcher may end the engine. */
import {
  endBehindBootMsMax,
  endMarginMs,
  endReserveMs,
  endReserveShareMax,
  endUnsaidMs,
  endWithoutSidecarMs,
} from './limits.ts';
import { movesBeside } from './sleep.ts';
import { hasEngine, isDue, type Replica, type Step } from './state.ts';
import type { ArbiterEvent } from './words.ts';

export function onLauncherEnding(step: Step, replica: Replica): void {
  replica.launcher = 'connected';
  replica.ending ??= { sinceMs: step.now, endSent: false, drained: false, released: false };
  // A launcher that says it again after a reconnect did not hear the release.
  replica.ending.released = false;
  step.changed = true;
}

export function onSidecarEnding(
  step: Step,
  replica: Replica,
  event: ArbiterEvent & { type: 'sidecar-ending' },
): void {
  step.changed = true;
  if (!replica.ending) return;
  replica.ending.drained = event.drained;
}

/**
 * When the grace is nearly over: the controller's pods have their drainTimeout and 30 s. drainTimeout may have grown since
 * the pod was made, its grace has not.
 */
function endByMs({ ending, settings, graceMs }: Replica): number {
  const wantedMs = settings.sleep.drainTimeoutMs + endMarginMs;
  if (graceMs === null) return ending!.sinceMs + wantedMs;
  const reserveMs = Math.min(endReserveMs, graceMs * endReserveShareMax);
  return ending!.sinceMs + Math.min(wantedMs, graceMs - reserveMs);
}

function mayRelease(step: Step, replica: Replica): boolean {
  const { sinceMs, drained } = replica.ending!;
  if (drained || !hasEngine(replica)) return true;
  if (isDue(step, endByMs(replica))) return true;
  if (replica.attached) return false;
  return isDue(step, Math.max(sinceMs, replica.detachedAtMs) + endWithoutSidecarMs);
}

/** Ends a pod that has no engine to end and where nobody says that it ends. */
function endUnsaid(step: Step, replica: Replica): void {
  if (!replica.listed || !replica.deleting || replica.ending || hasEngine(replica)) return;
  if (replica.launcher !== 'connected' && !replica.attached) return;
  if (!isDue(step, replica.deletingSinceMs + endUnsaidMs)) return;
  replica.ending = { sinceMs: step.now, endSent: false, drained: false, released: false };
  step.changed = true;
}

/** Tells the sidecar, waits for it within the grace, then releases the launcher, if possible not beside a boot. */
export function driveEndings(step: Step): void {
  for (const replica of step.state.replicas.values()) {
    endUnsaid(step, replica);
    const { ending } = replica;
    if (!ending || ending.released) continue;
    if (!ending.endSent && replica.attached) {
      ending.endSent = true;
      const graceMs = Math.max(1, endByMs(replica) - step.now);
      step.effects.push({ type: 'end', podUid: replica.podUid, graceMs });
    }
    if (replica.launcher !== 'connected' || !mayRelease(step, replica)) continue;
    const grows = hasEngine(replica) && movesBeside(step, replica).booting;
    if (grows && !isDue(step, ending.sinceMs + endBehindBootMsMax)) continue;
    ending.released = true;
    step.effects.push({ type: 'release-launcher', podUid: replica.podUid });
  }
}
