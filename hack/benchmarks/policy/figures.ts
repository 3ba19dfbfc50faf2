/** Figures of one run and of many. */
import type { Outcome, Scenario } from './scenario.ts';

/** The value below which this share of all lies; the values sorted. */
export const percentile = (sorted: ArrayLike<number>, share: number): number =>
  sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(sorted.length * share) - 1))]!;

export const median = (values: number[]): number =>
  percentile(
    [...values].sort((a, b) => a - b),
    0.5,
  );

export interface Figures {
  p50Ms: number;
  p95Ms: number;
  p99Ms: number;
  maxMs: number;
  wakes: number;
  /** Share of the time in which the GPU slept or woke something. */
  lostShare: number;
  /** The longest wait of the model that is asked least. */
  leastPopularMs: number;
  longestMs: number;
}

/** The model with the fewest requests, but at least one; the last of several. */
export function leastPopular(scenario: Scenario): number {
  const counts = scenario.models.map(() => 0);
  for (const { model } of scenario.arrivals) counts[model]!++;
  let least = -1;
  for (const [at, count] of counts.entries())
    if (count > 0 && (least < 0 || count <= counts[least]!)) least = at;
  return least;
}

export function figuresOf(scenario: Scenario, outcome: Outcome): Figures {
  const sorted = Float64Array.from(outcome.waitsMs).sort();
  const least = leastPopular(scenario);
  let leastPopularMs = 0;
  for (const [at, { model }] of scenario.arrivals.entries())
    if (model === least) leastPopularMs = Math.max(leastPopularMs, outcome.waitsMs[at]!);
  return {
    p50Ms: percentile(sorted, 0.5),
    p95Ms: percentile(sorted, 0.95),
    p99Ms: percentile(sorted, 0.99),
    maxMs: percentile(sorted, 1),
    wakes: outcome.wakes,
    lostShare: outcome.lostMs / outcome.endMs,
    leastPopularMs,
    longestMs: outcome.longestWaitMs,
  };
}
