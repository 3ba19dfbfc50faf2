/** What the front door says of itself from memory. */
import type { ModelState } from '#proto/link.ts';
import { demandOf, type Gate } from './gate.ts';

export const shownStates = ['sleeping', 'pending', 'waking', 'serving', 'deactivating'] as const;
export type ShownState = (typeof shownStates)[number];

const shown: Record<ModelState, ShownState> = {
  STATE_UNKNOWN: 'pending',
  SLEEPING: 'sleeping',
  PENDING: 'pending',
  WAKING: 'waking',
  SERVING: 'serving',
  DEACTIVATING: 'deactivating',
  // A model that cannot be woken waits too; `reason` says for what.
  FAILED: 'pending',
};

/**
 * The state in the words of docs/front-door.md. Without an agent only what is awake serves and only a barrier is known to stand;
 * everything else waits for an agent.
 */
export function shownState(gate: Gate): ShownState {
  const state = shown[gate.told.state];
  return gate.linked || state === 'serving' || state === 'deactivating' ? state : 'pending';
}

/** The document of `GET /status`; the first four fields, their order included, are what clients may rely on. */
export function statusDocument(gate: Gate, own: { model: string; replica: number }, nowMs: number) {
  const { told, linked } = gate;
  const demand = demandOf(gate, nowMs);
  return {
    model: own.model,
    state: shownState(gate),
    bootReady: told.bootReady,
    queue: { inFlight: demand.inFlight, barriered: told.state === 'DEACTIVATING' },
    replica: own.replica,
    queued: demand.queued,
    oldestWaitMs: demand.oldestWaitMs,
    agent: linked ? 'connected' : 'gone',
    ...(told.expectedMs > 0 && told.state !== 'SERVING'
      ? { expectedMs: Math.max(0, Math.round(gate.toldAtMs + told.expectedMs - nowMs)) }
      : {}),
    ...(told.reason ? { reason: told.reason } : {}),
    ...(told.message ? { message: told.message } : {}),
    ...(gate.ending ? { ending: true } : {}),
  };
}

/** Booted at least once in this pod's life and not failed since. */
export const isHealthy = (gate: Gate): boolean => gate.told.bootReady && gate.told.state !== 'FAILED';

/**
 * May be sent requests: booted at least once, and not ending. Asleep is ready, and so is a model that cannot be woken now:
 * only here do its clients get errors in their shape, and only their requests let the agent try it again.
 */
export const isReady = (gate: Gate): boolean => gate.told.bootReady && gate.ending === null;
