/** When the agent must hear of clients' wants again (link.proto, Demand). */
import type { Demand } from '#proto/link.ts';

/** Changes that no decision hangs on, milliseconds apart. */
const restMs = 250;
/**
 * In-flight at 0 says that this model may sleep for another one: said once it has been 0 for so long, the agent's own `lingerMs`.
 * A client that asks one question after the other crosses 0 between any two of them.
 */
const restingMs = 10;

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
  if (isZero(before.inFlight) && !isZero(current.inFlight)) return nowMs;
  if (!isZero(before.inFlight) && isZero(current.inFlight))
    return Math.max(nowMs, nowMs - current.idleMs + restingMs);
  const same =
    before.inFlight === current.inFlight &&
    before.queued === current.queued &&
    before.requestsTotal === current.requestsTotal;
  return same ? null : Math.max(nowMs, said.atMs + restMs);
}
