/** When the agent must hear of clients' wants again (link.proto, Demand). */
import type { Demand } from '#proto/link.ts';

/** Changes that no decision hangs on, milliseconds apart. */
const restMs = 250;
/**
 * In-flight to or from 0 decides who is idle; a client that asks one question after the other crosses it twice for each.
 * Told within this time, and only if it still holds.
 */
const edgeMs = 20;

const isZero = (figure: number): boolean => figure === 0;

/**
 * @param said what was said last, and when
 * @returns when to say `current`; `nowMs` for at once, null for not before something changes
 */
export function demandDueMs(
  said: { demand: Demand; atMs: number },
  current: Demand,
  nowMs: number,
): number | null {
  const before = said.demand;
  if (isZero(before.queued) !== isZero(current.queued)) return nowMs;
  if (isZero(before.inFlight) !== isZero(current.inFlight)) return Math.max(nowMs, said.atMs + edgeMs);
  const same =
    before.inFlight === current.inFlight &&
    before.queued === current.queued &&
    before.requestsTotal === current.requestsTotal;
  return same ? null : Math.max(nowMs, said.atMs + restMs);
}
