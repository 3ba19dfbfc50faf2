/** What did not come in time, and engines that must be ended. Every wait has a bound here and a way on. */
import { countChosenRestart, countFailure, finishBoot, judgeFailures } from './boot.ts';
import { hasClients, wantsAwake } from './demand.ts';
import { explain, seconds } from './explain.ts';
import {
  bootMsMax,
  engineAnswerMsMax,
  failedRetryMs,
  gpuPatienceMs,
  leaseGraceMs,
  restartMsMax,
  stallMs,
} from './limits.ts';
import { unanswered } from './prove.ts';
import { movesBeside, sleepFailed } from './sleep.ts';
import {
  enter,
  gpusOf,
  hasEngine,
  isDue,
  isUnheard,
  memoryMoves,
  type Phase,
  type Replica,
  type Step,
  unheardUntilMs,
} from './state.ts';
import { askLater, beginChecking, engineGone } from './transitions.ts';
import { wakeFailed } from './wake.ts';

/** Clients were served well by an engine that is restarted for one of these: it is no failure of the model. */
const chosenReasons: readonly string[] = ['ResidueKept', 'SleepFailed'];

/** The engine ends and asks again. Not while another boots beside it: free memory must not grow then. */
function restart(step: Step, replica: Replica, why: { reason: string; message: string }): void {
  explain(step, replica, why.reason, `${replica.model} is restarted: ${why.message}`, 'warn');
  if (replica.wakeFailures === 0 && chosenReasons.includes(why.reason))
    countChosenRestart(step, replica, why.message);
  else countFailure(step, replica, why.message);
  replica.mustRestart = null;
  sendRestart(step, replica, why);
}

function sendRestart(step: Step, replica: Replica, why: { reason: string; message: string }): void {
  enter(step, replica, 'restarting', step.now + restartMsMax);
  memoryMoves(step, replica);
  step.effects.push({ type: 'restart-engine', podUid: replica.podUid, ...why });
}

/** In which an engine may be ended. */
const steadyPhases: ReadonlySet<Phase> = new Set(['serving', 'asleep', 'proving', 'checking']);

function restartDue(step: Step, replica: Replica): void {
  if (!replica.mustRestart || !steadyPhases.has(replica.phase) || replica.ending) return;
  if (replica.launcher !== 'connected') return;
  if (movesBeside(step, replica).booting) return;
  restart(step, replica, replica.mustRestart);
}

/** The launcher is away and did not come back: its engine is asked; a boot under a lost lease is over. */
function leaseDue(step: Step, replica: Replica): void {
  if (replica.launcher !== 'gone' || !hasEngine(replica)) return;
  if (!isDue(step, replica.launcherGoneAtMs + leaseGraceMs)) return;
  if (replica.phase === 'booting' || replica.phase === 'restarting') {
    countFailure(step, replica, 'its launcher went away');
    engineGone(step, replica, 'absent');
  } else if (replica.phase === 'serving' || replica.phase === 'asleep' || replica.phase === 'proving') {
    replica.launcher = 'never';
    if (replica.phase === 'proving') replica.mustRestart = null;
    beginChecking(step, replica);
  }
}

function deadlineDue(step: Step, replica: Replica): void {
  if (replica.deadlineMs === null || !isDue(step, replica.deadlineMs)) return;
  const late = `no answer for ${seconds(step.now - replica.phaseSinceMs)}`;
  switch (replica.phase) {
    case 'booting':
      if (replica.readyAtMs !== null) finishBoot(step, replica, null);
      else
        restart(step, replica, { reason: 'BootTimeout', message: `not ready after ${seconds(bootMsMax)}` });
      return;
    case 'sleeping':
      sleepFailed(step, replica, late);
      return;
    case 'waking':
      wakeFailed(step, replica, late);
      return;
    case 'proving':
      unanswered(step, replica, late);
      return;
    case 'checking':
      // The answer itself was lost: the next one counts.
      replica.asking = false;
      replica.deadlineMs = step.now + engineAnswerMsMax;
      askLater(step, replica);
      return;
    case 'restarting':
      if (replica.launcher === 'connected') {
        sendRestart(step, replica, { reason: 'RestartAgain', message: 'it has not ended yet' });
      } else engineGone(step, replica, 'absent');
      return;
    default:
      replica.deadlineMs = null;
  }
}

/** Clients of one whose GPU is out of use for long are told so; its pod is moved by the controller. */
function gpuLost(step: Step, replica: Replica): void {
  const { failure } = replica;
  const waits = replica.phase === 'asking' || (replica.phase === 'asleep' && wantsAwake(replica));
  if (!waits && failure?.reason !== 'GpuUnusable') return;
  const out = gpusOf(step.state, replica).find((gpu) => gpu.unusableSinceMs !== null);
  if (!out) {
    if (failure?.reason === 'GpuUnusable') replica.failure = null;
    return;
  }
  const again =
    failure?.reason === 'GpuUnusable' && failure.retryAtMs !== null && isDue(step, failure.retryAtMs);
  if (
    !waits ||
    (failure && !(again && hasClients(replica))) ||
    !isDue(step, out.unusableSinceMs! + gpuPatienceMs)
  )
    return;
  const message = `GPU ${out.index} (${out.uuid}) has been out of use for ${seconds(step.now - out.unusableSinceMs!)}`;
  replica.failure = { reason: 'GpuUnusable', message, retryAtMs: step.now + failedRetryMs };
  explain(step, replica, 'GpuUnusable', message, 'warn');
}

export function driveFaults(step: Step): void {
  for (const replica of step.state.replicas.values()) {
    if (isUnheard(step.state, replica)) isDue(step, unheardUntilMs(step.state, replica));
    leaseDue(step, replica);
    deadlineDue(step, replica);
    restartDue(step, replica);
    judgeFailures(step, replica);
    gpuLost(step, replica);
  }
}

/**
 * A step that comes long after its timer was due: the machine stood still, so what others owe us is not late yet.
 * Deadlines move by what was lost; clients' waits do not.
 */
export function forgiveStall(step: Step, timerMs: number | null, beforeMs: number): void {
  if (timerMs === null || step.now - timerMs < stallMs) return;
  // When it began is not known: somewhere after the event before.
  const lostMs = step.now - beforeMs;
  for (const replica of step.state.replicas.values()) {
    if (replica.deadlineMs !== null) replica.deadlineMs += lostMs;
    if (replica.leaving) replica.leaving.deadlineMs += lostMs;
  }
}
