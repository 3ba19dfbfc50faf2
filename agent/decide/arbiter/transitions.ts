/** The moves of one replica's engine. Each says what is sent; why it happens is decided elsewhere. */
import { sleepMsMax, wakeMsMax } from '../engine-times.ts';
import { callBytes } from './ledger.ts';
import {
  barrierAnswerMsMax,
  bootMsMax,
  engineAnswerMsMax,
  freeingMsMax,
  retryMsFirst,
  retryMsMax,
} from './limits.ts';
import { enter, type Leaving, memoryMoves, type Replica, type Step } from './state.ts';

/** Doubling pauses: first, 2 × first, … at most max. */
export const backoffMs = (tries: number, firstMs: number, maxMs: number): number =>
  Math.min(maxMs, firstMs * 2 ** Math.min(30, Math.max(0, tries - 1)));

/** A barrier for the sidecar; one that cannot be heard is frozen when its time to drain is over. */
export function sendBarrier(step: Step, replica: Replica, drainTimeoutMs: number): void {
  if (!replica.attached) return;
  replica.epoch++;
  replica.told = { ...replica.told, state: 'DEACTIVATING', reason: '', message: '', retryAtMs: null };
  replica.mustTell = false;
  step.effects.push({ type: 'barrier', podUid: replica.podUid, epoch: replica.epoch, drainTimeoutMs });
}

export function beginDrain(
  step: Step,
  replica: Replica,
  leaving: Pick<Leaving, 'for' | 'forced' | 'last'>,
): void {
  const { drainTimeoutMs } = replica.settings.sleep;
  enter(step, replica, 'draining');
  const boundMs = leaving.forced ? drainTimeoutMs : barrierAnswerMsMax;
  replica.leaving = { ...leaving, inFlight: null, deadlineMs: step.now + boundMs };
  sendBarrier(step, replica, drainTimeoutMs);
}

/** /sleep was not sent yet: it goes on serving, its turn as it was. */
export function callOff(step: Step, replica: Replica): void {
  enter(step, replica, 'serving');
}

export function sendSleep(step: Step, replica: Replica): void {
  const bytes = callBytes(replica);
  replica.gaveWay = replica.leaving !== null && replica.leaving.for !== null;
  enter(step, replica, 'sleeping', step.now + sleepMsMax(bytes));
  replica.stoppedAtMs = step.now;
  replica.found = false;
  memoryMoves(step, replica);
  const { level } = replica.settings.sleep;
  const effect = { type: 'sleep-engine', podUid: replica.podUid, bytes } as const;
  if (level === 'suspend') step.effects.push({ ...effect, level: 1, suspend: true });
  else step.effects.push({ ...effect, level: level === 'discard' ? 2 : 1 });
}

/** Its bytes are measured until they rest. `found`: nobody sent /sleep now, the engine was met asleep. */
export function beginFreeing(step: Step, replica: Replica, found: boolean): void {
  enter(step, replica, 'freeing', step.now + freeingMsMax);
  replica.found = found;
  replica.bytes = [];
  memoryMoves(step, replica);
}

export function sendWake(step: Step, replica: Replica): void {
  const bytes = callBytes(replica);
  enter(step, replica, 'waking', step.now + wakeMsMax(bytes));
  replica.tookRoom = replica.roomMade;
  replica.roomMade = false;
  memoryMoves(step, replica);
  step.effects.push({ type: 'wake-engine', podUid: replica.podUid, bytes });
}

/** @param fresh a turn begins; false: it never stopped, or its turn went on unseen */
export function beginServing(step: Step, replica: Replica, fresh: boolean): void {
  enter(step, replica, 'serving');
  replica.unproven = false;
  replica.silences = 0;
  replica.bootReady = true;
  replica.roomMade = false;
  replica.gaveWay = false;
  replica.failure = null;
  if (!fresh) return;
  replica.becameServingAtMs = step.now;
  replica.turnTold = false;
}

export function sendGrant(step: Step, replica: Replica, bytes: number): void {
  enter(step, replica, 'booting', step.now + bootMsMax);
  replica.tookRoom = replica.roomMade;
  replica.roomMade = false;
  replica.readyAtMs = null;
  replica.waitTold = null;
  replica.failure = null;
  replica.wakeFailures = 0;
  replica.sleepFailures = 0;
  replica.mustRestart = null;
  memoryMoves(step, replica);
  const id = `${replica.podUid.slice(0, 8)}-${replica.restarts}-${Math.round(step.now)}`;
  step.effects.push({ type: 'grant', podUid: replica.podUid, id, bytes });
}

/** One question at a time; an answer to an older one does not count. */
export function askEngine(step: Step, replica: Replica): void {
  if (replica.asking) {
    replica.askStale = true;
    return;
  }
  replica.asking = true;
  replica.askStale = false;
  step.effects.push({ type: 'ask-engine', podUid: replica.podUid });
}

/** What its engine does is not known: it keeps its claim until it has said. */
export function beginChecking(step: Step, replica: Replica): void {
  enter(step, replica, 'checking', step.now + engineAnswerMsMax);
  replica.askTries = 0;
  replica.retryAtMs = 0;
  memoryMoves(step, replica);
  askEngine(step, replica);
}

/** No answer, or none that helps: asked again after a pause. */
export function askLater(step: Step, replica: Replica): void {
  replica.askTries++;
  replica.retryAtMs = step.now + backoffMs(replica.askTries, retryMsFirst, retryMsMax);
}

/** Its engine is gone; its bytes count until a measurement shows them free. */
export function engineGone(step: Step, replica: Replica, phase: 'absent' | 'asking'): void {
  enter(step, replica, phase);
  replica.mustRestart = null;
  replica.retryAtMs = 0;
  replica.readyAtMs = null;
  // Should it ask over a connection that broke meanwhile, its wait began now at the earliest.
  replica.askedAtMs = step.now;
  memoryMoves(step, replica);
}
