/** One measurement of GPU-0, and what the arbiter makes of it. */
import { onMeasured } from '../../../../agent/decide/arbiter/measure.ts';
import type { ArbiterState, Step } from '../../../../agent/decide/arbiter/state.ts';
import type { GpuMeasurement } from '../../../../agent/decide/facts.ts';
import { GiB, stepOf } from './pieces.ts';

/** @param bytes by pod */
export function measured(bytes: Record<string, number>, rest: Partial<GpuMeasurement> = {}): GpuMeasurement {
  const used = Object.values(bytes).reduce((sum, one) => sum + one, 0);
  const totalBytes = 80 * GiB;
  return {
    uuid: 'GPU-0',
    totalBytes,
    usedBytes: used,
    freeBytes: totalBytes - used,
    byPod: bytes,
    foreignBytes: 0,
    ...rest,
  };
}

export function hear(state: ArbiterState, gpus: GpuMeasurement[], startedAtMs = state.nowMs): Step {
  const { nowMs: atMs } = state;
  const step = stepOf(state);
  onMeasured(step, { type: 'measured', startedAtMs, gpus, atMs });
  return step;
}
