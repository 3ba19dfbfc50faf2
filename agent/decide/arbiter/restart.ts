/**
 * The agent's own restart is no special case: sidecars say hello, launchers say what they hold, engines are asked, the GPU
 * is measured, in any order. Here is what each of them says about a replica, whenever it says it.
 */
import { parseSettings } from '#proto/settings.ts';
import { countFailure, onReady } from './boot.ts';
import { takeDemand } from './demand.ts';
import { explain } from './explain.ts';
import {
  askTriesMax,
  bootMsMax,
  probeEveryMs,
  retryMsFirst,
  retryMsMax,
  silencesMax,
  wakeTriesMax,
} from './limits.ts';
import { nameReplica } from './pods.ts';
import { serveProven, takeReference } from './prove.ts';
import { movesBeside } from './sleep.ts';
import { enter, hasEngine, isDue, memoryMoves, type Replica, type Step } from './state.ts';
import {
  askEngine,
  askLater,
  backoffMs,
  beginChecking,
  beginFreeing,
  engineGone,
  sendBarrier,
  sendWake,
} from './transitions.ts';
import { pauseAfterFailedWake, woke } from './wake.ts';
import type { ArbiterEvent, EngineState } from './words.ts';

export function onAttached(step: Step, replica: Replica, event: ArbiterEvent & { type: 'attached' }): void {
  const { hello } = event;
  if (!replica.listed) {
    nameReplica(step.state, replica, hello);
    if (replica.uuids.length === 0) replica.uuids = hello.gpuUuids;
    replica.settings = parseSettings(hello.settings) ?? replica.settings;
  }
  replica.attached = true;
  step.state.bindingsStale = true;
  replica.epoch = Math.max(replica.epoch, hello.epoch);
  replica.bootReady ||= hello.bootReady;
  replica.told = { state: hello.state, bootReady: hello.bootReady, reason: '', message: '', retryAtMs: null };
  replica.mustTell = true;
  takeDemand(step, replica, hello.demand);
  takeReference(step, replica, hello);
  if (replica.ending) replica.ending.endSent = false;
  step.changed = true;
  if (hello.state === 'WAKING' && hello.bootReady) wakeGoesOn(step, replica);
  // It answered once and nobody has said that it ended.
  if (replica.phase === 'absent' && replica.launcher === 'never' && hello.bootReady) {
    replica.stoppedAtMs = step.now;
    beginChecking(step, replica);
  }
  if (replica.phase === 'draining') {
    replica.leaving!.inFlight = null;
    sendBarrier(step, replica, Math.max(0, replica.leaving!.deadlineMs - step.now));
  } else if (replica.phase === 'sleeping' || (replica.phase === 'freeing' && !replica.found)) {
    sendBarrier(step, replica, 0);
  }
}

/**
 * An agent before us sent the wake. It is sent again: an engine that wakes answers the second after the first. Its room was
 * held for it since it was found; once it counts as a sleeper it waits for room like any other.
 */
function wakeGoesOn(step: Step, replica: Replica): void {
  if (replica.wakeFailures > 0) return;
  if (replica.phase === 'absent' || replica.phase === 'checking') replica.wakeLeft = true;
  else if (replica.found && replica.phase === 'freeing') sendWake(step, replica);
}

export function onDetached(step: Step, replica: Replica): void {
  replica.attached = false;
  replica.detachedAtMs = step.now;
  if (replica.leaving) replica.leaving.inFlight = null;
  step.changed = true;
}

export function onHolding(step: Step, replica: Replica, event: ArbiterEvent & { type: 'holding' }): void {
  replica.launcher = 'connected';
  replica.restarts = event.restarts;
  replica.askedBytes = event.bytes;
  step.state.bindingsStale = true;
  replica.askedUuids = event.uuids;
  if (replica.uuids.length === 0) replica.uuids = event.uuids;
  step.changed = true;
  if (replica.phase === 'booting') {
    if (event.ready) onReady(step, replica);
    return;
  }
  if (replica.phase === 'restarting') {
    // The order to end may be lost with the connection.
    replica.deadlineMs = step.now;
    return;
  }
  if (hasEngine(replica) && (replica.phase !== 'checking' || event.ready)) return;
  if (event.ready) {
    replica.stoppedAtMs = step.now;
    beginChecking(step, replica);
    return;
  }
  enter(step, replica, 'booting', step.now + bootMsMax);
  replica.readyAtMs = null;
  memoryMoves(step, replica);
}

/** The engine's word about itself. In a phase that did not ask, it corrects what was believed. */
export function onEngineState(
  step: Step,
  replica: Replica,
  event: ArbiterEvent & { type: 'engine-state' },
): void {
  const stale = replica.askStale;
  replica.asking = false;
  replica.askStale = false;
  if (replica.phase === 'serving') {
    heardServing(step, replica, event.state);
    return;
  }
  if (replica.phase !== 'checking') return;
  if (stale) {
    askEngine(step, replica);
    return;
  }
  switch (event.state) {
    case 'awake':
      // That restart was for a moment at which nothing ran; it serves now, and its next failed sleep asks for it again.
      if (replica.mustRestart?.reason === 'SleepFailed') replica.mustRestart = null;
      // A failed sleep leaves its turn as it was; a failed wake that woke after all begins one.
      if (replica.wakeFailures > 0 || replica.readyAtMs === null) woke(step, replica);
      else serveProven(step, replica, 'wake', replica.sleepFailures === 0);
      replica.readyAtMs ??= step.now;
      return;
    case 'asleep':
      replica.readyAtMs ??= step.now;
      if (replica.wakeLeft) {
        sendWake(step, replica);
        return;
      }
      beginFreeing(step, replica, true);
      pauseAfterFailedWake(step, replica);
      return;
    case 'paused':
      replica.readyAtMs ??= step.now;
      onPaused(step, replica);
      return;
    case 'unreachable':
      unreachable(step, replica);
      return;
    default:
      event.state satisfies never;
  }
}

/**
 * What runs in it is frozen, and nobody else will end that. It still holds all its memory, so its wake needs no room. A sleep that has
 * just begun, by an agent before us, looks the same: only what lasts is woken.
 */
function onPaused(step: Step, replica: Replica): void {
  if (replica.wakeFailures >= wakeTriesMax) {
    const message = `it failed to wake ${replica.wakeFailures} times`;
    replica.mustRestart ??= { reason: 'WakeFailed', message };
    return;
  }
  const lastsMs = replica.phaseSinceMs + backoffMs(replica.wakeFailures + 1, retryMsFirst, retryMsMax);
  const { booting, sleeping } = movesBeside(step, replica);
  if (step.now < lastsMs) replica.retryAtMs = lastsMs;
  else if (booting || sleeping) replica.retryAtMs = step.now + retryMsFirst;
  else sendWake(step, replica);
}

function unreachable(step: Step, replica: Replica): void {
  askLater(step, replica);
  if (replica.askTries < askTriesMax) return;
  if (replica.launcher === 'connected') {
    replica.mustRestart = {
      reason: 'EngineUnreachable',
      message: `it did not answer ${replica.askTries} times`,
    };
    return;
  }
  countFailure(step, replica, 'neither engine nor launcher answers');
  engineGone(step, replica, 'absent');
}

/**
 * An engine may hang with its process alive and its memory taken: silence alone gives it away. A word of "asleep" is one
 * from before its wake, or the next measurement tells.
 */
function heardServing(step: Step, replica: Replica, state: EngineState): void {
  replica.silences = state === 'unreachable' ? replica.silences + 1 : 0;
  if (replica.silences < silencesMax) return;
  explain(
    step,
    replica,
    'EngineSilent',
    `${replica.model} did not answer ${silencesMax} times in a row`,
    'warn',
  );
  beginChecking(step, replica);
}

/** Asks one that serves from time to time, where its launcher could end it. */
function probe(step: Step, replica: Replica): void {
  if (replica.phase !== 'serving' || replica.launcher !== 'connected' || replica.ending) return;
  if (replica.asking || !isDue(step, Math.max(replica.probedAtMs, replica.phaseSinceMs) + probeEveryMs))
    return;
  replica.probedAtMs = step.now;
  askEngine(step, replica);
}

/** Asks again those that did not answer, and those that serve. */
export function askAgain(step: Step): void {
  for (const replica of step.state.replicas.values()) {
    probe(step, replica);
    if (replica.phase !== 'checking' || replica.asking || replica.mustRestart) continue;
    if (isDue(step, replica.retryAtMs)) askEngine(step, replica);
  }
}
