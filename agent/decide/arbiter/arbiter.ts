/** What the rest of the agent uses of the arbiter. */
import type { GpuOccupant } from '#api/gpu.ts';
import { decide } from './decide.ts';
import { ledgerView } from './ledger.ts';
import { occupants } from './occupants.ts';
import { type ArbiterState, initialState } from './state.ts';

export { decide } from './decide.ts';
export { type LedgerView, ledgerView } from './ledger.ts';
export { type Occupant, occupants } from './occupants.ts';
export { type ArbiterOptions, type ArbiterState, initialState } from './state.ts';
export type { ArbiterEffect, ArbiterEvent } from './words.ts';

/** Occupants as GPU.status has them. @param wallClock monotonic ms as wall clock, RFC 3339 */
function statusOccupants(
  state: ArbiterState,
  wallClock: (monotonicMs: number) => string,
): Record<string, GpuOccupant[]> {
  const byGpu: Record<string, GpuOccupant[]> = {};
  for (const [uuid, list] of occupants(state)) {
    byGpu[uuid] = list.map(({ becameServingAtMs, ...occupant }) => ({
      ...occupant,
      ...(becameServingAtMs !== undefined && { becameServingAt: wallClock(becameServingAtMs) }),
    }));
  }
  return byGpu;
}

/** The arbiter as the agent's loop takes it. */
export const arbiter = {
  initial: (startedAtMs: number, canary = false): ArbiterState => initialState({ startedAtMs, canary }),
  decide,
  ledger: ledgerView,
  occupants: statusOccupants,
};
