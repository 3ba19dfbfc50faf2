/** The bound on every wait that docs/arbiter.md states, for a node where nothing boots and nothing fails. */
import type { Settings } from '#proto/settings.ts';
import { turnMsMax, turnSwitchFactor } from '../../../agent/decide/arbiter/limits.ts';
import type { Scenario } from './scenario.ts';

/** Measurements, messages and pauses of one switch, ms. */
const slackMs = 2_000;

/**
 * Each model of the GPU goes before a waiter at most once, itself included: for a turn, or until it may be forced, for a
 * drain and for a switch. That begins at once, since all have the same priority.
 * @returns ms
 */
export function waitBoundMs(scenario: Scenario, { fairness, sleep }: Settings): number {
  const wakeMs = scenario.models.reduce((max, model) => Math.max(max, model.wakeMs), 0);
  const switchMs = scenario.sleepMs + wakeMs + slackMs;
  const turnMs = Math.min(turnMsMax, Math.max(fairness.minRuntimeMs, turnSwitchFactor * switchMs));
  const before = Math.max(turnMs, fairness.maxWaitTimeMs) + sleep.drainTimeoutMs + switchMs;
  return scenario.models.length * before;
}
