/** The bound on every wait that docs/arbiter.md states, for a node where nothing boots and nothing fails. */
import type { Settings } from '#proto/settings.ts';
import { turnMsMax, turnSwitchFactor, wakeAgedMs } from '../../../agent/decide/arbiter/limits.ts';
import type { Scenario } from './scenario.ts';

/** Measurements, messages and pauses of one switch, ms. */
const slackMs = 2_000;

/**
 * A waiter's own age bound, then for each model of the GPU at most one turn, one drain and one switch before it.
 * @returns ms
 */
export function waitBoundMs(scenario: Scenario, { fairness, sleep }: Settings): number {
  const wakeMs = scenario.models.reduce((max, model) => Math.max(max, model.wakeMs), 0);
  const switchMs = scenario.sleepMs + wakeMs + slackMs;
  const turnMs = Math.min(turnMsMax, Math.max(fairness.minRuntimeMs, turnSwitchFactor * switchMs));
  const before = scenario.models.length * (turnMs + sleep.drainTimeoutMs + switchMs);
  return Math.max(wakeAgedMs, fairness.maxWaitTimeMs) + before;
}
