/** How many bytes of request bodies may be here at once, before they reach the gate. */
import type { Gate } from './gate.ts';

/** While requests pass, bodies coming in may hold so many of the largest that the Model allows. */
const bodiesComingIn = 4;

export interface BodyRoom {
  /** For all bodies that are coming in, and `waitingBytes`. */
  bytesMax: number;
  waitingBytes: number;
}

/**
 * What would be queued shares maxQueuedBytes with what is. What passes (the model serves) or is handed on (the pod ends)
 * has nothing to do with the queue: max(4 × maxBodyBytes, maxQueuedBytes) for all that is still coming in.
 */
export function bodyRoom(gate: Gate, maxBodyBytes: number): BodyRoom {
  const { maxQueuedBytes } = gate.limits;
  const isQueued = gate.ending === null && (gate.told.state !== 'SERVING' || gate.away !== null);
  return isQueued
    ? { bytesMax: maxQueuedBytes, waitingBytes: gate.queuedBytes }
    : { bytesMax: Math.max(bodiesComingIn * maxBodyBytes, maxQueuedBytes), waitingBytes: 0 };
}
