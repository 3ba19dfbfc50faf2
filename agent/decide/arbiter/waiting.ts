/** Who waits for room, and in which order. */
import { hasClients, waitingSinceMs, wantsAwake } from './demand.ts';
import { forHostMemory } from './host-memory.ts';
import { bootAgedMs, idleBootPatienceMs, rollHandOverMs, rollPrecedenceMs, wakeAgedMs } from './limits.ts';
import { isDue, type Replica, type Step } from './state.ts';

export interface Waiter {
  replica: Replica;
  /** Its place in the order: a wake of an old pod behind its successor's boot stands with the boots. */
  rank: 'wake' | 'boot';
  sinceMs: number;
  /** From this moment on a busy occupant whose turn is over may be made to give way. */
  forceAtMs: number;
  aged: boolean;
  priority: number;
  /** It finishes streams of a pod that ends. */
  last: boolean;
  clients: boolean;
}

/** The other pods of the same replica: a roll. */
export function siblings(step: Step, replica: Replica): Replica[] {
  const pods = step.state.keys.get(replica.key);
  if (!pods || pods.length < 2) return [];
  return pods.filter((uid) => uid !== replica.podUid).flatMap((uid) => step.state.replicas.get(uid) ?? []);
}

/** A newer pod of the same replica that has not booted yet and may boot. */
function bootingSibling(step: Step, replica: Replica, others: Replica[]): Replica | null {
  for (const other of others) {
    const boots = other.phase === 'asking' || other.phase === 'booting';
    if (forHostMemory(step.state, other)) continue;
    if (boots && !other.bootReady && other.failures === 0 && other.order > replica.order) {
      if (!isDue(step, other.askedAtMs + rollPrecedenceMs)) return other;
    }
  }
  return null;
}

/** A newer pod serves already: the older one's queue goes there when it ends. */
function isReplaced(step: Step, replica: Replica, others: Replica[]): boolean {
  return others.some(
    (other) =>
      other.order > replica.order &&
      other.bootReady &&
      other.phase === 'serving' &&
      !isDue(step, Math.max(replica.stoppedAtMs, other.readyAtMs ?? 0) + rollHandOverMs),
  );
}

function wakeWaiter(step: Step, replica: Replica): Waiter | null {
  if (replica.mustRestart || !wantsAwake(replica)) return null;
  if (!isDue(step, replica.retryAtMs)) return null;
  const frozen = replica.demand.inFlight > 0;
  const others = siblings(step, replica);
  if (!frozen && isReplaced(step, replica, others)) return null;
  const { fairness } = replica.settings;
  const sinceMs = waitingSinceMs(replica);
  const clients = hasClients(replica);
  const waiter: Waiter = {
    replica,
    rank: 'wake',
    sinceMs,
    forceAtMs: sinceMs + fairness.maxWaitTimeMs,
    aged: isDue(step, sinceMs + wakeAgedMs),
    priority: fairness.priority,
    last: replica.ending !== null,
    clients,
  };
  const newer = bootingSibling(step, replica, others);
  if (!newer || waiter.last) return waiter;
  // The newer pod's boot goes first; behind it, this one waits as it does.
  const ahead = bootWaiter(step, newer);
  return { ...waiter, rank: 'boot', sinceMs: ahead.sinceMs + 1, aged: ahead.aged, priority: ahead.priority };
}

function bootWaiter(step: Step, replica: Replica): Waiter {
  const { fairness } = replica.settings;
  const clients = hasClients(replica);
  const patienceMs = clients ? fairness.maxWaitTimeMs : Math.max(fairness.maxWaitTimeMs, idleBootPatienceMs);
  return {
    replica,
    rank: 'boot',
    sinceMs: replica.askedAtMs,
    forceAtMs: replica.askedAtMs + patienceMs,
    aged: isDue(step, replica.askedAtMs + bootAgedMs),
    priority: fairness.priority,
    last: false,
    clients,
  };
}

/**
 * The order of waiters:
 * 1. one for which room is being made, so that nobody takes what others were slept for;
 * 2. one that only finishes the streams of a pod that ends;
 * 3. one that has waited beyond its age bound, the oldest first: nobody starves;
 * 4. wakes before boots that have not begun; 5. boots with clients before boots without;
 * 6. higher priority; 7. longer wait; 8. the order of appearance, then the UID, so that replays agree.
 */
export function compareWaiters(a: Waiter, b: Waiter): number {
  return (
    Number(b.replica.roomMade) - Number(a.replica.roomMade) ||
    Number(b.last) - Number(a.last) ||
    Number(b.aged) - Number(a.aged) ||
    (a.aged ? a.sinceMs - b.sinceMs : 0) ||
    Number(a.rank === 'boot') - Number(b.rank === 'boot') ||
    (a.rank === 'boot' ? Number(b.clients) - Number(a.clients) : 0) ||
    b.priority - a.priority ||
    a.sinceMs - b.sinceMs ||
    a.replica.order - b.replica.order ||
    (a.replica.podUid < b.replica.podUid ? -1 : 1)
  );
}

/** It as a waiter; null: it does not wait for room. */
export function asWaiter(step: Step, replica: Replica): Waiter | null {
  if (replica.phase === 'asleep') return wakeWaiter(step, replica);
  return replica.phase === 'asking' ? bootWaiter(step, replica) : null;
}

/** All that wait, in order. `mayBoot` says whether a boot may be thought of at all. */
export function waitersInOrder(step: Step, mayBoot: (replica: Replica) => boolean): Waiter[] {
  const waiters: Waiter[] = [];
  for (const replica of step.state.replicas.values()) {
    const waiter = replica.phase === 'asking' && !mayBoot(replica) ? null : asWaiter(step, replica);
    if (waiter) waiters.push(waiter);
    else if (replica.roomMade) replica.roomMade = false;
  }
  return waiters.sort(compareWaiters);
}
