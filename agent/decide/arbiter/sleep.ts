/** Sleeps: who sleeps for idleness, when a drained one is sent to sleep, and when its memory counts as free. */
import { formatGiB } from '#platform/quantity.ts';
import { idleSinceMs, isBusy, isIdle } from './demand.ts';
import { explain, seconds } from './explain.ts';
import { sleepDueMs } from './ledger.ts';
import {
  averageWeight,
  calledOffPauseMs,
  freeingMsMax,
  residueAllowedBytes,
  residueGrowthMax,
  retryMsFirst,
  retryMsMax,
  sleepFreesShareMin,
  stillBytes,
  wakeTriesMax,
} from './limits.ts';
import {
  enter,
  gpusOf,
  hasItsBindings,
  isDue,
  isUnheard,
  lacksGpu,
  type Replica,
  type Step,
  smooth,
  unheardUntilMs,
} from './state.ts';
import { backoffMs, beginChecking, beginDrain, beginFreeing, callOff, sendSleep } from './transitions.ts';
import { mayEnd, mayForce, maySleep } from './victims.ts';
import { asWaiter } from './waiting.ts';
import type { ArbiterEvent } from './words.ts';

/** Transitions of others on any of this replica's GPUs; one whose engine is not known may be in any. */
export function movesBeside(
  step: Step,
  replica: Replica,
): { booting: boolean; waking: boolean; sleeping: boolean } {
  const found = { booting: false, waking: false, sleeping: false };
  for (const other of step.state.replicas.values()) {
    if (other === replica || !other.uuids.some((uuid) => replica.uuids.includes(uuid))) continue;
    if (other.phase === 'booting' || isUnheard(step.state, other)) found.booting = true;
    else if (other.phase === 'waking' || other.phase === 'checking') found.waking = true;
    else if (other.phase === 'freeing' && other.found) found.waking = true;
    else if (other.phase === 'sleeping' || other.phase === 'freeing') found.sleeping = true;
  }
  return found;
}

/**
 * Why a drain that has begun should not go on; null: it should.
 * Before /sleep was sent nothing is lost by going on serving.
 */
function callOffReason(step: Step, replica: Replica): string | null {
  const leaving = replica.leaving!;
  if (replica.ending) return 'the pod is being ended';
  const waiting = leaving.for ? step.state.replicas.get(leaving.for) : undefined;
  const met = isBusy(replica) || (leaving.inFlight ?? 0) > 0;
  if (
    gpusOf(step.state, replica).some((gpu) => !hasItsBindings(step.state, gpu)) ||
    isLost(step, replica, waiting, met)
  )
    return 'a GPU of its is out of use';
  const silent = !leaving.forced && leaving.inFlight === null && step.now >= leaving.deadlineMs;
  if (silent && !met) return 'its sidecar did not answer';
  if (leaving.for === null) {
    if (replica.popular) return 'it is pinned now';
    return met ? 'a request came' : null;
  }
  const waiter = waiting ? asWaiter(step, waiting) : null;
  if (!waiter) return 'nobody waits for its room any more';
  if (leaving.forced || !met) return null;
  return mayForce(step, replica, waiter) ? null : 'a request came before its turn was over';
}

/** Asleep it could not wake: with nothing to do it goes all the same for who waits on its other GPUs. */
function isLost(step: Step, replica: Replica, waiting: Replica | undefined, met: boolean): boolean {
  if (!lacksGpu(step.state, replica)) return false;
  return met || replica.leaving!.forced || !waiting || lacksGpu(step.state, waiting);
}

/** Carries each drain on: calls it off, sends /sleep, or waits. */
export function driveDrains(step: Step): void {
  for (const replica of step.state.replicas.values()) {
    if (replica.phase !== 'draining') continue;
    const reason = callOffReason(step, replica);
    if (reason !== null) {
      explain(step, replica, 'SleepCalledOff', `${replica.model} goes on: ${reason}`);
      if (!replica.leaving?.forced) replica.notSleepBeforeMs = step.now + calledOffPauseMs;
      const waiting = replica.leaving?.for ? step.state.replicas.get(replica.leaving.for) : undefined;
      if (waiting) waiting.roomMade = false;
      callOff(step, replica);
      continue;
    }
    if (!isDue(step, sleepDueMs(replica))) continue;
    const beside = movesBeside(step, replica);
    if (!beside.booting && !beside.waking) sendSleep(step, replica);
  }
}

/** Idle longer than its idleTimeout, counted from its last request or from when it began to serve. */
export function sleepIdle(step: Step): void {
  for (const replica of step.state.replicas.values()) {
    if (replica.phase !== 'serving' || replica.popular) continue;
    if (!isIdle(step, replica)) continue;
    const sinceMs = Math.max(idleSinceMs(replica), replica.becameServingAtMs);
    const { idleTimeoutMs } = replica.settings.sleep;
    if (!isDue(step, sinceMs + idleTimeoutMs) || !maySleep(step, replica)) continue;
    if (lacksGpu(step.state, replica) || movesBeside(step, replica).booting) continue;
    explain(
      step,
      replica,
      'IdleSleep',
      `${replica.model} sleeps: no request for ${seconds(step.now - sinceMs)}`,
    );
    beginDrain(step, replica, { for: null, forced: false });
  }
}

export function onBarrierUp(
  _step: Step,
  replica: Replica,
  event: ArbiterEvent & { type: 'barrier-up' },
): void {
  if (replica.phase !== 'draining' || event.barrier.epoch !== replica.epoch) return;
  replica.leaving!.inFlight = event.barrier.inFlight;
  replica.demand = { ...replica.demand, inFlight: event.barrier.inFlight };
}

export function onSlept(step: Step, replica: Replica, event: ArbiterEvent & { type: 'slept' }): void {
  if (replica.phase !== 'sleeping') return;
  if (event.ok) {
    takeKind(replica, event.suspended === true);
    beginFreeing(step, replica, false);
    return;
  }
  sleepFailed(step, replica, event.message);
}

/** What a suspended one leaves says nothing of what it leaves at level 1, nor the other way. */
function takeKind(replica: Replica, suspended: boolean): void {
  if (replica.suspended === suspended) return;
  replica.suspended = suspended;
  replica.residueBytes = null;
  replica.firstResidueBytes = null;
}

/**
 * It goes on serving, and is tried again after a pause. Nobody's answer is cut for it: only where somebody waits for its room and
 * this was the last try, with nothing running in it, does a restart make that room.
 */
export function sleepFailed(step: Step, replica: Replica, message: string): void {
  const waiting = replica.leaving?.for ? step.state.replicas.get(replica.leaving.for) : undefined;
  if (waiting) waiting.roomMade = false;
  const waiter = waiting && replica.leaving?.last ? asWaiter(step, waiting) : null;
  replica.sleepFailures++;
  replica.notSleepBeforeMs = step.now + backoffMs(replica.sleepFailures, retryMsFirst, retryMsMax);
  explain(step, replica, 'SleepFailed', `${replica.model} did not fall asleep: ${message}`, 'warn');
  if (waiter && mayEnd(waiter) && replica.launcher === 'connected') {
    const message = `it failed to sleep ${replica.sleepFailures} times, and ${waiter.replica.model} waits for its room`;
    replica.mustRestart = { reason: 'SleepFailed', message };
  }
  beginChecking(step, replica);
}

const most = (bytes: number[]): number => bytes.reduce((max, one) => Math.max(max, one), 0);

/** The most a sleeper may keep before it is restarted, bytes on each GPU. */
export function residueLimitBytes(replica: Replica): number {
  const first = replica.firstResidueBytes;
  if (first !== null) return Math.max(residueAllowedBytes, residueGrowthMax * first);
  return Math.max(residueAllowedBytes, (1 - sleepFreesShareMin) * (replica.awakeBytes ?? 0));
}

/**
 * One more measurement of one that falls asleep; it began after the last change. A known residue needs to be seen once; a
 * first one twice alike. What has not fallen in a measurement that began when the time was over stays what it is: one that was
 * heard late tells of before.
 * @param of `before`: bytes of the measurement before; empty: this is the first
 */
export function judgeFreeing(
  step: Step,
  replica: Replica,
  { before, startedAtMs }: { before: number[]; startedAtMs: number },
): void {
  // Its sidecar may still say that an agent before us has sent it a wake.
  const untold = replica.found && !replica.attached;
  if (untold && !isDue(step, unheardUntilMs(step.state, replica))) return;
  const kept = most(replica.bytes);
  const known = replica.residueBytes !== null && kept <= replica.residueBytes + stillBytes;
  const still =
    before.length > 0 && before.every((bytes, at) => Math.abs(bytes - replica.bytes[at]!) <= stillBytes);
  const fallen = kept <= residueLimitBytes(replica);
  const over = startedAtMs >= replica.phaseSinceMs + freeingMsMax;
  if (known || (still && fallen) || over) atRest(step, replica, kept);
}

/** Its memory rests: it is asleep with this residue, or did not sleep at all. */
function atRest(step: Step, replica: Replica, keptBytes: number): void {
  const limit = residueLimitBytes(replica);
  replica.proven = true;
  if (!replica.found) {
    const took = step.now - replica.stoppedAtMs;
    replica.sleepMs = smooth(replica.sleepMs, took, averageWeight);
  }
  enter(step, replica, 'asleep');
  replica.roomMade = false;
  replica.bootReady = true;
  if (keptBytes > limit) {
    const kept = `it keeps ${formatGiB(keptBytes)} while asleep, more than ${formatGiB(limit)}`;
    replica.mustRestart = { reason: 'ResidueKept', message: kept };
    return;
  }
  replica.sleepFailures = 0;
  const changed = replica.residueBytes === null || Math.abs(replica.residueBytes - keptBytes) > stillBytes;
  replica.residueBytes = keptBytes;
  replica.firstResidueBytes ??= keptBytes;
  if (changed && replica.awakeBytes !== null) {
    const { podUid, awakeBytes } = replica;
    step.effects.push({ type: 'remember', podUid, awakeBytes, residueBytes: keptBytes });
  }
  if (replica.wakeFailures >= wakeTriesMax) {
    replica.mustRestart = {
      reason: 'WakeFailed',
      message: `it failed to wake ${replica.wakeFailures} times`,
    };
  }
}

/** A sleeper that grew by itself, or one that lost its memory while it should serve: the engine is asked. */
export function audit(step: Step, replica: Replica): void {
  const kept = most(replica.bytes);
  if (replica.phase === 'asleep' && !replica.mustRestart) {
    const limit = Math.max(residueLimitBytes(replica), (replica.residueBytes ?? 0) + residueAllowedBytes);
    if (kept > limit) beginChecking(step, replica);
    return;
  }
  if (replica.phase !== 'serving' || replica.asking || replica.awakeBytes === null) return;
  const low = kept < (1 - sleepFreesShareMin) * replica.awakeBytes;
  if (low && step.now - replica.becameServingAtMs > retryMsFirst) beginChecking(step, replica);
}
