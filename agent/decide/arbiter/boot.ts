/** Boots: what the launcher says, when a grant may be given, and how an engine's end is counted. */
import { formatGiB } from '#platform/quantity.ts';
import { explain, onGpus, seconds } from './explain.ts';
import { forHostMemory } from './host-memory.ts';
import { bootNeedBytes } from './ledger.ts';
import {
  apiGraceMs,
  averageWeight,
  bootBackoffMsFirst,
  bootBackoffMsMax,
  bootMeasureMsMax,
  bootMsMax,
  failuresToFail,
  healthyMs,
  leaseGraceMs,
  measureAgainMs,
  tailCharactersMax,
} from './limits.ts';
import { serveProven } from './prove.ts';
import {
  type ArbiterState,
  bindingOn,
  enter,
  type Gpu,
  gpusOf,
  hasEngine,
  isDue,
  memoryMoves,
  type Replica,
  type Step,
  smooth,
} from './state.ts';
import { backoffMs, engineGone, sendGrant } from './transitions.ts';
import type { ArbiterEvent } from './words.ts';

export interface Obstacle {
  reason: string;
  message: string;
}

const sameSet = (a: string[], b: string[]): boolean =>
  a.length === b.length && a.every((uuid) => b.includes(uuid));

/** What stands in the way of any boot of this pod, room aside; null: nothing. A refusal carries its reason. */
export function bootObstacle(step: Step, replica: Replica): Obstacle | null {
  const { state } = step;
  if (replica.ending || replica.deleting) return { reason: 'Ending', message: 'the pod is being ended' };
  if (replica.launcher !== 'connected') return { reason: 'LauncherAway', message: 'its launcher is away' };
  if (!isDue(step, replica.notBootBeforeMs)) {
    return {
      reason: 'BackOff',
      message: `its engine ended, ${replica.failureText}: a pause before the next boot`,
    };
  }
  if (!state.podsListed || !state.resourcesListed) {
    // Without an API server the pod's own word must do; with one, its lists are a moment away.
    if (!isDue(step, state.settledAtMs + apiGraceMs)) {
      return { reason: 'NotListed', message: 'the API server has not answered yet' };
    }
  }
  if (state.podsListed && !replica.listed) {
    return { reason: 'PodNotListed', message: 'the API server does not list this pod on this node' };
  }
  if (replica.key === '')
    return { reason: 'PodUnknown', message: 'neither the API server nor its sidecar has named it' };
  if (!sameSet(replica.uuids, replica.askedUuids)) {
    const message = `the pod runs with ${replica.askedUuids.join(', ')}, its annotation says ${replica.uuids.join(', ')}`;
    return { reason: 'UuidMismatch', message };
  }
  const gpus = gpusOf(state, replica);
  if (gpus.length !== replica.uuids.length || gpus.length === 0) {
    return { reason: 'GpuMissing', message: `the driver does not list all of ${replica.uuids.join(', ')}` };
  }
  return forHostMemory(state, replica) ?? notBound(state, replica, gpus);
}

function notBound(state: ArbiterState, replica: Replica, gpus: Gpu[]): Obstacle | null {
  if (!state.resourcesListed) return null;
  for (const gpu of gpus) {
    if (!gpu.resource)
      return {
        reason: 'GpuResourceMissing',
        message: `GPU ${gpu.index} has no GPU resource: it comes back by itself`,
      };
    if (!bindingOn(gpu, replica))
      return {
        reason: 'NotBound',
        message: `${replica.model} is not bound to GPU ${gpu.index} (${gpu.uuid})`,
      };
  }
  return null;
}

/**
 * The driver itself says that the need is free, in a measurement that began after the last change there. Wants one if not.
 */
export function isMeasuredFree(step: Step, replica: Replica, gpus: Gpu[]): boolean {
  let free = true;
  for (const gpu of gpus) {
    const changedAtMs = Math.max(gpu.changedAtMs, replica.askedAtMs);
    if (gpu.measuredAtMs < changedAtMs) {
      gpu.wantedMs = changedAtMs;
      free = false;
    } else if ((gpu.freeBytes ?? 0) < bootNeedBytes(replica, gpu)) {
      // The books say free, the driver does not yet: it is asked until it does.
      if (isDue(step, gpu.measuredAtMs + measureAgainMs)) gpu.wantedMs = step.now;
      free = false;
    }
  }
  return free;
}

export function startBoot(step: Step, replica: Replica, gpus: Gpu[]): void {
  const bytes = Math.max(...gpus.map((gpu) => bootNeedBytes(replica, gpu)));
  sendGrant(step, replica, bytes);
  const waited = seconds(step.now - replica.askedAtMs);
  explain(
    step,
    replica,
    'Boot',
    `${replica.model} boots on ${onGpus(gpus)} with ${formatGiB(bytes)} each: waited ${waited}`,
  );
}

/** One more end of an engine: after one that ran long the count begins anew. The next boot comes after a pause. */
function countEnd(step: Step, replica: Replica, text: string, kind: 'failures' | 'chosenRestarts'): void {
  if (replica.readyAtMs !== null && step.now - replica.readyAtMs >= healthyMs) {
    replica.failures = 0;
    replica.chosenRestarts = 0;
  }
  replica[kind]++;
  replica.failureText = text;
  const ends = replica.failures + replica.chosenRestarts;
  replica.notBootBeforeMs = step.now + backoffMs(ends, bootBackoffMsFirst, bootBackoffMsMax);
}

/**
 * Counts an unexpected end and says when the next boot may be.
 * @param line the engine's own last words: for operators only, they may hold a client's text
 */
export function countFailure(step: Step, replica: Replica, text: string, line = ''): void {
  countEnd(step, replica, text, 'failures');
  replica.failureLine = line;
}

/** Counts a restart of an engine that served its clients well: it lengthens the pause, and is no failure. */
export function countChosenRestart(step: Step, replica: Replica, text: string): void {
  countEnd(step, replica, text, 'chosenRestarts');
  replica.failureLine = '';
}

/**
 * The line of an engine's last output that tells why it ended, bounded: the last that speaks of an error, else the last.
 * The launcher reads stdout and stderr side by side, so an idle remark of the one may follow the other's last words.
 */
export function tellingLine(tail: string): string {
  const lines = tail.split('\n').flatMap((line) => line.trim() || []);
  const telling = lines.findLast((line) => /error|exception|fatal|out of memory|killed/i.test(line));
  return (telling ?? lines.at(-1) ?? '').slice(-tailCharactersMax);
}

/** FAILED for clients while it has no engine and has failed too often; the boots go on with their pauses. */
export function judgeFailures(step: Step, replica: Replica): void {
  if (replica.phase !== 'absent' && replica.phase !== 'asking') return;
  if (replica.failures < failuresToFail) return;
  const retryAtMs = Math.max(replica.notBootBeforeMs, replica.phaseSinceMs) + bootBackoffMsFirst;
  const message = `the engine of ${replica.model} failed ${replica.failures} times, last: ${replica.failureText}`;
  const held = replica.failure?.reason;
  if (replica.failure?.message === message || held === 'NeverFits' || held === 'StrangerHoldsMemory') return;
  const words = replica.failureLine;
  replica.failure = { reason: 'EngineFailed', message, retryAtMs, ...(words && { words }) };
  explain(step, replica, 'EngineFailed', words ? `${message}: ${words}` : message, 'warn');
}

export function onExited(step: Step, replica: Replica, event: ArbiterEvent & { type: 'exited' }): void {
  const expected = replica.phase === 'restarting' || replica.ending !== null;
  if (!hasEngine(replica)) return;
  const how = event.signal ?? `code ${event.code ?? 'unknown'}`;
  if (!expected) {
    const line = tellingLine(event.tail);
    const message = `the engine of ${replica.model} ended while ${replica.phase}, ${how}`;
    countFailure(step, replica, how, line);
    explain(step, replica, 'EngineExited', line ? `${message}: ${line}` : message, 'warn');
  }
  engineGone(step, replica, 'absent');
}

export function onAsked(step: Step, replica: Replica, event: ArbiterEvent & { type: 'asked' }): void {
  // A connection that broke for a moment costs nobody its place in the order.
  const sameWish = replica.launcher === 'gone' && step.now - replica.launcherGoneAtMs < leaseGraceMs;
  const keepsPlace = replica.phase === 'asking' || (replica.phase === 'absent' && sameWish);
  replica.launcher = 'connected';
  if (replica.uuids.length === 0) replica.uuids = event.uuids;
  replica.askedBytes = event.bytes;
  step.state.bindingsStale = true;
  replica.askedUuids = event.uuids;
  if (hasEngine(replica)) {
    // Its end went unheard: an engine that was started and is gone has failed, a grant that was lost has not.
    const started = event.restarts > replica.restarts;
    if (started && replica.phase !== 'restarting' && replica.phase !== 'checking') {
      countFailure(step, replica, 'its end was not heard');
    }
    engineGone(step, replica, 'asking');
  } else if (replica.phase === 'absent') {
    replica.phase = 'asking';
    replica.phaseSinceMs = step.now;
    step.changed = true;
  }
  replica.restarts = event.restarts;
  if (!keepsPlace) replica.askedAtMs = step.now;
  replica.waitTold = null;
}

/** An engine runs, whatever was believed: a grant thought lost has been used. */
export function onStarted(step: Step, replica: Replica): void {
  replica.restarts++;
  if (hasEngine(replica)) return;
  enter(step, replica, 'booting', step.now + bootMsMax);
  replica.readyAtMs = null;
  memoryMoves(step, replica);
}

export function onReady(step: Step, replica: Replica): void {
  if (replica.phase !== 'booting' || replica.readyAtMs !== null) return;
  replica.readyAtMs = step.now;
  replica.deadlineMs = step.now + bootMeasureMsMax;
  replica.bootMs = smooth(replica.bootMs, step.now - replica.phaseSinceMs, averageWeight);
  memoryMoves(step, replica);
}

/** @param awakeBytes as measured after it was ready; null: no measurement came in time */
export function finishBoot(step: Step, replica: Replica, awakeBytes: number | null): void {
  if (awakeBytes !== null && awakeBytes > 0) {
    replica.awakeBytes = awakeBytes;
    // What it leaves behind asleep may be known from an earlier life: it stays remembered.
    const { podUid, residueBytes } = replica;
    step.effects.push({ type: 'remember', podUid, awakeBytes, residueBytes });
  }
  serveProven(step, replica, 'boot', true);
}
