/** What a replica's clients want, from what its sidecar said last. */

import type { Demand } from '#proto/link.ts';
import { averageWeight, lingerMs } from './limits.ts';
import { isDue, type Replica, type Step, smooth } from './state.ts';

export const isBusy = (replica: Replica): boolean => replica.demand.inFlight > 0 || replica.demand.queued > 0;

/** Since when nobody asked, ms of the agent's clock; only where it is attached and not busy. */
export const idleSinceMs = (replica: Replica): number => replica.demandAtMs - replica.demand.idleMs;

/**
 * Nobody is being served and nobody's next call is likely on its way. A sidecar that cannot be heard may be serving: its
 * replica is not idle.
 */
export function isIdle(step: Step, replica: Replica): boolean {
  if (!replica.attached || isBusy(replica)) return false;
  return isDue(step, idleSinceMs(replica) + lingerMs);
}

/** Clients wait for it: in its queue, or frozen in its engine. */
export const hasClients = (replica: Replica): boolean => replica.attached && isBusy(replica);

/** Somebody or something wants it awake while it sleeps. A queue that is handed on at the pod's end does not. */
export function wantsAwake(replica: Replica): boolean {
  if (replica.ending || replica.deleting) return replica.attached && replica.demand.inFlight > 0;
  return hasClients(replica) || replica.popular;
}

/** Since when it has been waiting: its oldest client's arrival, a frozen one's freeze; never before it stopped serving. */
export function waitingSinceMs(replica: Replica): number {
  const { demand } = replica;
  if (demand.inFlight > 0 || demand.queued === 0) return replica.stoppedAtMs;
  return Math.max(replica.stoppedAtMs, replica.demandAtMs - demand.oldestWaitMs);
}

/**
 * Takes the sidecar's word and keeps the history of returns after idleness.
 * @returns whether it may change a decision
 */
export function takeDemand(step: Step, replica: Replica, demand: Demand): boolean {
  const before = replica.demand;
  const wasBusy = isBusy(replica);
  const waitBefore = replica.demandAtMs - before.oldestWaitMs;
  replica.demand = demand;
  replica.demandAtMs = step.now;
  if (demand.requestsTotal > 0) replica.served = true;
  const busy = isBusy(replica);
  if (busy && !wasBusy) {
    if (replica.returnedAtMs !== null) {
      replica.returnGapMs = smooth(replica.returnGapMs, step.now - replica.returnedAtMs, averageWeight);
    }
    replica.returnedAtMs = step.now;
  }
  const waits = Math.abs(step.now - demand.oldestWaitMs - waitBefore) > 1;
  return (
    busy !== wasBusy ||
    demand.inFlight > 0 !== before.inFlight > 0 ||
    demand.queued > 0 !== before.queued > 0 ||
    (replica.phase !== 'serving' && (waits || demand.inFlight !== before.inFlight)) ||
    (!busy && demand.requestsTotal !== before.requestsTotal)
  );
}
