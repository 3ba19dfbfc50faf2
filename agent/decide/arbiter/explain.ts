/** The sentences that people read about decisions, together in one place; figures included. */
import type { Gpu, Replica, Step } from './state.ts';

export const seconds = (ms: number): string => `${(Math.max(0, ms) / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`;
export const onGpus = (gpus: Gpu[]): string =>
  `GPU ${gpus
    .map((gpu) => gpu.index)
    .sort((a, b) => a - b)
    .join(', ')}`;

/** For the log, an Event on the pod and a metric. */
export function explain(
  step: Step,
  replica: Replica,
  reason: string,
  message: string,
  level: 'info' | 'warn' = 'info',
): void {
  step.effects.push({ type: 'explain', podUid: replica.podUid, reason, message, level });
}
