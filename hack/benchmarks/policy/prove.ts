/**
 * ./hack/bench policy --prove SECONDS: which of the aims for p99 no policy can reach on these very requests, and how low the
 * p99 of any policy can be at least. Every line is a proof (`proof.ts`), or says that none was found in its time.
 */
import type { Report } from './experiments.ts';
import { computedMs, type Proof, proveLate } from './proof.ts';
import { gridOf } from './proof-grid.ts';
import type { Scenario } from './scenario.ts';

const share = 0.99;
/** From quick to thorough; each has the whole time. */
const attempts = [
  { slotMs: 400, levels: 1, statesMax: 300 },
  { slotMs: 250, levels: 1, statesMax: 300 },
  { slotMs: 200, levels: 1, statesMax: 1_000 },
  { slotMs: 250, levels: 1, statesMax: 2_000 },
];
/** How near to the longest wait that can be proven the search goes, of the span it began with. */
const searchRounds = 4;

export interface Proven extends Proof {
  waitMs: number;
  /** So many late prove that p99 is longer. */
  needed: number;
  isProven: boolean;
  slotMs: number;
  /** Computing time. */
  tookMs: number;
}

/** @returns how many of `total` values lie above their percentile at most */
export const aboveShare = (total: number): number => total - Math.ceil(total * share);

/**
 * Tries to prove that p99 is longer than this under every policy.
 * @param limitMs for each attempt
 */
export function proveLonger(scenario: Scenario, waitMs: number, limitMs: number): Proven {
  const needed = aboveShare(scenario.arrivals.length) + 1;
  let best: Proven | null = null;
  for (const { slotMs, levels, statesMax } of attempts) {
    const began = computedMs();
    const grid = gridOf(scenario, waitMs, slotMs);
    const proof = proveLate(grid, { levels, statesMax, lateEnough: needed, timeMs: limitMs });
    const tookMs = computedMs() - began;
    const found = { ...proof, waitMs, needed, isProven: proof.late >= needed, slotMs, tookMs };
    if (found.isProven) return found;
    if (!best || found.late > best.late) best = found;
  }
  return best!;
}

const seconds = (ms: number): string => (ms / 1000).toFixed(2);

function described({ isProven, late, needed, requests, slotMs, tookMs }: Proven): string {
  const found = `${late} of ${requests.toLocaleString('en')} requests late whatever is done, ${needed} needed`;
  return `${isProven ? 'no policy can' : 'not proven'} (${found}; slots of ${slotMs} ms, ${Math.round(tookMs / 1000)} s)`;
}

/** The largest wait that every policy's p99 can be proven to exceed, between these two; null: not even the lower. */
function longestProven(scenario: Scenario, lowMs: number, highMs: number, limitMs: number): Proven | null {
  let found: Proven | null = null;
  let [low, high] = [lowMs, highMs];
  for (let round = 0; round < searchRounds; round++) {
    const tried = proveLonger(scenario, (low + high) / 2, limitMs);
    if (tried.isProven) {
      found = tried;
      low = tried.waitMs;
    } else high = tried.waitMs;
  }
  return found;
}

/** @param limitMs computing time for each attempt; a workload takes up to some 28 of them */
export function proofLines({ scenario, rows, leastP99Ms }: Report, limitMs: number): string[] {
  const aims = [
    { name: "half of best LRU's p99", waitMs: rows.lru.figures.p99Ms / 2 },
    { name: "half of best first come first served's p99", waitMs: rows.fcfs.figures.p99Ms / 2 },
    { name: "a fifth of the reference timers' p99", waitMs: rows.reference.figures.p99Ms / 5 },
  ].sort((a, b) => b.waitMs - a.waitMs);
  const reachedMs = Math.min(...Object.values(rows).map(({ figures }) => figures.p99Ms));
  let proven: Proven | null = null;
  let unprovenMs = reachedMs;
  const lines: string[] = [];
  for (const { name, waitMs } of aims) {
    let verdict = 'reached';
    if (waitMs < reachedMs) {
      proven ??= proveLonger(scenario, waitMs, limitMs);
      verdict = proven.waitMs > waitMs ? 'no policy can: less than what is proven above' : described(proven);
      if (!proven.isProven) {
        unprovenMs = waitMs;
        proven = null;
      }
    }
    lines.push(`- p99 of ${seconds(waitMs)} s, ${name}: ${verdict}`);
  }
  const longest = longestProven(scenario, proven?.waitMs ?? leastP99Ms, unprovenMs, limitMs) ?? proven;
  if (longest) {
    const ofLru = (longest.waitMs / rows.lru.figures.p99Ms).toFixed(2);
    lines.push(
      `- p99 of ${seconds(longest.waitMs)} s, ${ofLru} of best LRU's: ${described(longest)}; the longest`,
    );
  }
  return [`### Proven of ${scenario.name}`, '', ...lines, ''];
}
