/** Needs that cannot be met as things are: said at once, with figures, instead of a wait without end. */
import { formatGiB } from '#platform/quantity.ts';
import { hasClients } from './demand.ts';
import { explain, onGpus } from './explain.ts';
import { attainableBytes, awakeClaimBytes, bootNeedBytes, type Room } from './ledger.ts';
import { failedRetryMs, strangerMs } from './limits.ts';
import { type Gpu, isDue, type Replica, type Step } from './state.ts';

/** The least it must find on this GPU: head room is waived where nobody else is awake. */
export const barelyBytes = (replica: Replica, room: Room): number =>
  replica.phase === 'asking' ? bootNeedBytes(replica, room.gpu) : awakeClaimBytes(replica, room.gpu);

interface Never {
  reason: 'NeverFits' | 'StrangerHoldsMemory';
  /** Asked for only where it is said: most of those that never fit have been told. */
  message(): string;
}

const needs = (replica: Replica, bytes: number, gpu: Gpu): string =>
  `${replica.model} needs ${formatGiB(bytes)} on ${onGpus([gpu])}`;

/** Seen for so long by measurements that began in this time: one that was heard late tells of before. Wants one if need be. */
function hasStood(step: Step, gpu: Gpu): boolean {
  const untilMs = gpu.foreignSinceMs + strangerMs;
  if (isDue(step, untilMs) && gpu.measuredAtMs < untilMs) gpu.wantedMs = Math.max(gpu.wantedMs, untilMs);
  return gpu.measuredAtMs >= untilMs;
}

function neverFits(step: Step, replica: Replica, rooms: Room[]): Never | null {
  for (const room of rooms) {
    const need = barelyBytes(replica, room);
    const { gpu } = room;
    const most = attainableBytes(replica, room);
    if (need > most) {
      const message = (): string =>
        `${needs(replica, need, gpu)}; at most ${formatGiB(Math.max(0, most))} can be free there beside pinned models and what sleepers keep: lower gpuMemoryUtilization or vramPerGPU`;
      return { reason: 'NeverFits', message };
    }
    if (need <= most - gpu.foreignBytes) continue;
    if (!hasStood(step, gpu)) continue;
    const message = (): string =>
      `${needs(replica, need, gpu)}; processes of no model hold ${formatGiB(gpu.foreignBytes)} there: end them`;
    return { reason: 'StrangerHoldsMemory', message };
  }
  return null;
}

/** It was found never to fit, as things were then. */
export const isFoundHopeless = ({ failure }: Replica): boolean =>
  failure?.reason === 'NeverFits' || failure?.reason === 'StrangerHoldsMemory';

/**
 * Records that it can never fit, or that it can again. Strangers may go at any time: clients may try again; what is pinned
 * or too large changes only by somebody's hand.
 * @returns whether it is out of the question
 */
export function isHopeless(step: Step, replica: Replica, rooms: Room[]): boolean {
  const never = neverFits(step, replica, rooms);
  if (!never) {
    if (isFoundHopeless(replica)) replica.failure = null;
    return false;
  }
  const { reason } = never;
  const again =
    replica.failure?.retryAtMs != null && hasClients(replica) && isDue(step, replica.failure.retryAtMs);
  if (replica.failure?.reason !== reason || again) {
    const retryAtMs = reason === 'NeverFits' ? null : step.now + failedRetryMs;
    const message = never.message();
    replica.failure = { reason, message, retryAtMs };
    explain(step, replica, reason, message, 'warn');
  }
  return true;
}
