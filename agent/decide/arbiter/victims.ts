/** Whom to put to sleep for a waiter: a pure question, asked often and without a trace. */
import { idleSinceMs, isIdle } from './demand.ts';
import { awakeClaimBytes, givenBackBytes, type Room } from './ledger.ts';
import {
  exactVictimsMax,
  failuresToFail,
  returnHorizonMs,
  sleepTriesMax,
  turnMsMax,
  turnSwitchFactor,
} from './limits.ts';
import { gpusOf, hasItsBindings, isDue, lacksGpu, type Replica, type Step } from './state.ts';
import type { Waiter } from './waiting.ts';

export interface Candidate {
  replica: Replica;
  busy: boolean;
  /** Expected ms lost by its sleep: the sleep, and its wake as likely as its clients return soon. */
  costMs: number;
  idleMs: number;
  /** Bytes it gives back on each of the waiter's GPUs, in the order of the waiter's rooms. */
  bytes: number[];
}

export interface Choice {
  victims: Candidate[];
  /** How many could have gone. */
  candidates: number;
}

const sleepMsUnmeasured = 300;
const wakeMsUnmeasured = 300;
const bootMsUnmeasured = 40_000;
/** Host to device, bytes each ms: 20 GB/s, for a wake that was never measured. */
const wakeBytesPerMs = 20e6;

/** What waking it takes, ms: measured, else from its size. */
export function wakeCostMs(replica: Replica): number {
  const bytes = replica.awakeBytes ?? replica.vramBytes ?? replica.askedBytes;
  return replica.wakeMs ?? wakeMsUnmeasured + bytes / wakeBytesPerMs;
}

/** How long a busy one keeps the GPU once awake, ms: at most `turnMsMax`. */
export function turnMs(replica: Replica): number {
  const switchMs = (replica.sleepMs ?? 0) + (replica.wakeMs ?? 0);
  return Math.min(turnMsMax, Math.max(replica.settings.fairness.minRuntimeMs, turnSwitchFactor * switchMs));
}

export const turnEndsMs = (replica: Replica): number => replica.becameServingAtMs + turnMs(replica);

/** Sleeping it is possible at all now, whoever asks. A GPU whose resource is gone moves nothing. */
export function maySleep(step: Step, replica: Replica): boolean {
  if (replica.phase !== 'serving' || replica.ending || replica.mustRestart) return false;
  if (!isDue(step, replica.notSleepBeforeMs)) return false;
  return gpusOf(step.state, replica).every((gpu) => hasItsBindings(step.state, gpu));
}

/** One more failed sleep, and only a restart makes its room. */
export const isFailing = (replica: Replica): boolean => replica.sleepFailures >= sleepTriesMax - 1;

/**
 * Whoever may have an engine ended that serves but cannot sleep: clients wait for it, it is pinned, or it has never booted and may yet.
 * Else two such engines that nobody wants would end one another for ever.
 */
export function mayEnd({ replica, clients }: Waiter): boolean {
  return clients || replica.popular || (!replica.bootReady && replica.failures < failuresToFail);
}

/** If its sleep fails once more it is restarted for this waiter. */
export const isLastTry = (victim: Replica, waiter: Waiter): boolean => isFailing(victim) && mayEnd(waiter);

/**
 * A busy one may be made to give way: its clients have heard that it serves, its turn is over and the waiter has waited its time.
 * Before they have, not even who waited for it has come through.
 */
export function mayForce(step: Step, victim: Replica, waiter: Waiter): boolean {
  if (victim.attached && !victim.turnTold) return false;
  return isDue(step, Math.max(waiter.forceAtMs, turnEndsMs(victim)));
}

function costMs(replica: Replica, idleMs: number, busy: boolean): number {
  const gapMs = Math.max(replica.returnGapMs ?? idleMs, idleMs);
  const likelihood = busy ? 1 : returnHorizonMs / (returnHorizonMs + gapMs);
  // One whose sleeps fail will most likely have to boot.
  const back = wakeCostMs(replica) + (isFailing(replica) ? (replica.bootMs ?? bootMsUnmeasured) : 0);
  return (replica.sleepMs ?? sleepMsUnmeasured) + back * likelihood;
}

function candidate(step: Step, victim: Replica, waiter: Waiter, rooms: Room[]): Candidate | null {
  const sibling = victim.key === waiter.replica.key;
  if (victim.popular && !sibling) return null;
  if (!maySleep(step, victim)) return null;
  if (isFailing(victim) && !mayEnd(waiter)) return null;
  const idle = isIdle(step, victim);
  if (!idle && lacksGpu(step.state, victim)) return null;
  if (!idle && !mayForce(step, victim, waiter)) return null;
  const idleMs = idle ? step.now - Math.max(idleSinceMs(victim), 0) : 0;
  return {
    replica: victim,
    busy: !idle,
    // In a roll the old pod is the one to go.
    costMs: sibling ? 0 : costMs(victim, idleMs, !idle),
    idleMs,
    bytes: rooms.map((room) => (victim.uuids.includes(room.gpu.uuid) ? givenBackBytes(victim, room.gpu) : 0)),
  };
}

/**
 * The order of victims: 1. idle before busy; 2. less cost; 3. longer idle (least recently used); 4. the order of
 * appearance, then the UID, so that replays agree.
 */
export function compareCandidates(a: Candidate, b: Candidate): number {
  return (
    Number(a.busy) - Number(b.busy) ||
    a.costMs - b.costMs ||
    b.idleMs - a.idleMs ||
    a.replica.order - b.replica.order ||
    (a.replica.podUid < b.replica.podUid ? -1 : 1)
  );
}

const suffices = (missing: number[], chosen: Candidate[]): boolean =>
  missing.every((bytes, at) => chosen.reduce((left, { bytes: given }) => left - given[at]!, bytes) <= 0);

/** A busy victim weighs more than any number of idle ones. */
const weight = ({ busy, costMs: cost }: Candidate): number => cost + (busy ? 1e12 : 0);

/** The sufficient set of least weight, by trying all; `sorted` is short. Ties go to the set found first, in order. */
function cheapestExactly(sorted: Candidate[], missing: number[]): Candidate[] {
  let best = sorted;
  let bestWeight = sorted.reduce((sum, one) => sum + weight(one), 0);
  const chosen: Candidate[] = [];
  const visit = (at: number, left: number[], sum: number): void => {
    if (left.every((bytes) => bytes <= 0)) {
      if (sum < bestWeight) {
        bestWeight = sum;
        best = [...chosen];
      }
      return;
    }
    const next = sorted[at];
    if (!next || sum + weight(next) >= bestWeight) return;
    chosen.push(next);
    visit(
      at + 1,
      left.map((bytes, gpu) => bytes - next.bytes[gpu]!),
      sum + weight(next),
    );
    chosen.pop();
    visit(at + 1, left, sum);
  };
  visit(0, missing, 0);
  return best;
}

/** Takes in order until it suffices, then lets go of each, the dearest first, that is not needed. */
function cheapestGreedily(sorted: Candidate[], missing: number[]): Candidate[] {
  const chosen: Candidate[] = [];
  for (const one of sorted) {
    if (suffices(missing, chosen)) break;
    if (one.bytes.some((bytes, at) => bytes > 0 && missing[at]! > 0)) chosen.push(one);
  }
  for (const one of [...chosen].reverse()) {
    const without = chosen.filter((other) => other !== one);
    if (suffices(missing, without)) chosen.splice(chosen.indexOf(one), 1);
  }
  return chosen;
}

/**
 * What a first sleep leaves behind is known only after it: until then a sleeper counts `residueUnmeasuredBytes`, and that
 * guess alone must not keep a waiter out for ever. Idle ones that were never measured asleep go and show it, if with
 * nothing left behind there would be room; each does so once.
 */
function hopefulVictims(sorted: Candidate[], rooms: Room[], missing: number[]): Choice | null {
  const hopeful = sorted
    .filter(({ replica, busy }) => !busy && replica.residueBytes === null)
    .map((one) => ({
      ...one,
      bytes: rooms.map((room, at) => one.bytes[at]! && awakeClaimBytes(one.replica, room.gpu)),
    }));
  const others = sorted.filter((one) => !hopeful.some(({ replica }) => replica === one.replica));
  if (hopeful.length === 0 || !suffices(missing, [...hopeful, ...others])) return null;
  const chosen = hopeful.filter((one) => one.bytes.some((bytes, at) => bytes > 0 && missing[at]! > 0));
  return chosen.length > 0 ? { victims: chosen, candidates: sorted.length } : null;
}

/**
 * The cheapest set that makes room.
 * @param rooms of the waiter's GPUs
 * @param missing bytes on each of them
 * @returns null when no set suffices now: then nobody goes, not even an idle one
 */
export function chooseVictims(step: Step, waiter: Waiter, rooms: Room[], missing: number[]): Choice | null {
  const seen = new Set<Replica>();
  const candidates: Candidate[] = [];
  for (const room of rooms) {
    for (const victim of room.serving) {
      if (seen.has(victim)) continue;
      seen.add(victim);
      const found = candidate(step, victim, waiter, rooms);
      if (found) candidates.push(found);
    }
  }
  const sorted = candidates.sort(compareCandidates);
  if (!suffices(missing, sorted)) return hopefulVictims(sorted, rooms, missing);
  const choose = sorted.length <= exactVictimsMax ? cheapestExactly : cheapestGreedily;
  return { victims: choose(sorted, missing), candidates: candidates.length };
}
