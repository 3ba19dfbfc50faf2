/**
 * The arbiter: who on this node is awake. One event in, what to do out.
 *
 * The state is owned by the caller's loop and changed in place; `decide` reads nothing else and says nothing. What it
 * answers with must be carried out in order.
 */
import { onAsked, onExited, onReady, onStarted } from './boot.ts';
import { takeDemand } from './demand.ts';
import { driveEndings, onLauncherEnding, onSidecarEnding } from './ending.ts';
import { driveFaults, forgiveStall } from './faults.ts';
import { onHostMemory } from './host-memory.ts';
import { driveMeasuring, onMeasured } from './measure.ts';
import { plan } from './plan.ts';
import { forgetGone, onGpus, onPods, onRemembered, onResources, replicaOf } from './pods.ts';
import { driveProving, onProbed } from './prove.ts';
import { askAgain, onAttached, onDetached, onEngineState, onHolding } from './restart.ts';
import { driveDrains, onBarrierUp, onSlept, sleepIdle } from './sleep.ts';
import { type ArbiterState, type Replica, refreshBindings, type Step } from './state.ts';
import { tellAll } from './tell.ts';
import { onWoken } from './wake.ts';
import type { ArbiterEffect, ArbiterEvent } from './words.ts';

/** Moves that make other moves possible in the same step, at most. */
const roundsMax = 4;

/** About one pod, from its sidecar, launcher or engine. */
function takePodEvent(step: Step, event: Extract<ArbiterEvent, { podUid: string }>, replica: Replica): void {
  step.changed = true;
  switch (event.type) {
    case 'detached':
      onDetached(step, replica);
      return;
    case 'demand':
      step.changed = takeDemand(step, replica, event.demand);
      return;
    case 'barrier-up':
      onBarrierUp(step, replica, event);
      return;
    case 'sidecar-ending':
      onSidecarEnding(step, replica, event);
      return;
    case 'asked':
      onAsked(step, replica, event);
      return;
    case 'holding':
      onHolding(step, replica, event);
      return;
    case 'started':
      onStarted(step, replica);
      return;
    case 'ready':
      onReady(step, replica);
      return;
    case 'exited':
      onExited(step, replica, event);
      return;
    case 'launcher-ending':
      onLauncherEnding(step, replica);
      return;
    case 'launcher-gone':
      replica.launcher = 'gone';
      replica.launcherGoneAtMs = step.now;
      if (replica.phase === 'asking') replica.phase = 'absent';
      return;
    case 'engine-state':
      onEngineState(step, replica, event);
      return;
    case 'slept':
      onSlept(step, replica, event);
      return;
    case 'woken':
      onWoken(step, replica, event);
      return;
    case 'probed':
      onProbed(step, replica, event);
      return;
    case 'remembered':
      onRemembered(step, replica, event);
      return;
    default:
      event satisfies never;
  }
}

function take(step: Step, event: ArbiterEvent): void {
  switch (event.type) {
    case 'gpus':
      onGpus(step, event);
      return;
    case 'measured':
      onMeasured(step, event);
      return;
    case 'pods':
      onPods(step, event);
      return;
    case 'gpu-resources':
      onResources(step, event);
      return;
    case 'settled':
      if (!step.state.settled) step.state.settledAtMs = step.now;
      step.state.settled = true;
      step.changed = true;
      return;
    case 'attached':
      onAttached(step, replicaOf(step, event.hello.podUid), event);
      return;
    case 'asked':
    case 'holding':
    case 'launcher-ending':
      takePodEvent(step, event, replicaOf(step, event.podUid));
      return;
    case 'host-memory':
      onHostMemory(step, event);
      return;
    case 'tick':
      step.changed = true;
      return;
    default: {
      const replica = step.state.replicas.get(event.podUid);
      if (replica) takePodEvent(step, event, replica);
    }
  }
}

/** Everything that follows from what is known now. Before the start has settled nothing is begun. */
function drive(step: Step): void {
  for (let round = 0; round < roundsMax && step.changed; round++) {
    step.changed = false;
    forgetGone(step);
    driveFaults(step);
    askAgain(step);
    driveProving(step);
    driveEndings(step);
    driveDrains(step);
    plan(step);
    sleepIdle(step);
  }
  tellAll(step);
  if (step.state.canary) wakesLast(step);
}

/** A sidecar that is to hold back what a wake thaws hears of the wake first. */
function wakesLast(step: Step): void {
  const isWake = ({ type }: ArbiterEffect): boolean => type === 'wake-engine';
  step.effects.sort((a, b) => Number(isWake(a)) - Number(isWake(b)));
}

function setTimer(step: Step): void {
  const atMs = Number.isFinite(step.nextMs) ? step.nextMs : null;
  if (atMs === step.state.timerMs) return;
  step.state.timerMs = atMs;
  step.effects.push({ type: 'timer', atMs });
}

/**
 * @param state changed in place and returned
 * @param event in the order in which it came; time never runs backwards, an earlier `atMs` counts as the latest
 * @param effects filled as they are decided: should this throw, what was begun is in there and must be carried out all the same
 * @returns effects to be carried out in order
 */
export function decide(
  state: ArbiterState,
  event: ArbiterEvent,
  effects: ArbiterEffect[] = [],
): { state: ArbiterState; effects: ArbiterEffect[] } {
  const now = Math.max(state.nowMs, event.atMs);
  const step: Step = { state, now, effects, nextMs: Number.POSITIVE_INFINITY, changed: false };
  const beforeMs = state.nowMs;
  state.nowMs = now;
  const timerMs = state.timerMs;
  forgiveStall(step, timerMs, beforeMs);
  take(step, event);
  const isTime = timerMs !== null && now >= timerMs;
  if (!step.changed && !isTime) return { state, effects };
  step.changed = true;
  if (isTime) state.timerMs = null;
  if (state.bindingsStale) refreshBindings(state);
  if (state.settled) drive(step);
  driveMeasuring(step);
  setTimer(step);
  return { state, effects };
}
