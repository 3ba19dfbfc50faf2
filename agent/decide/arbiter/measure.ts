/** What the GPUs say about memory: the only proof that anything is free, and when to ask them. */

import type { GpuMeasurement } from '../facts.ts';
import { finishBoot } from './boot.ts';
import {
  engineAnswerMsMax,
  freeingMsMax,
  measureEveryMs,
  measureSlowlyEveryMs,
  stillBytes,
} from './limits.ts';
import { audit, judgeFreeing } from './sleep.ts';
import { type Gpu, isDue, type Replica, type Step } from './state.ts';
import type { ArbiterEvent } from './words.ts';

export function onMeasured(step: Step, event: ArbiterEvent & { type: 'measured' }): void {
  const { state } = step;
  step.changed = true;
  if (event.startedAtMs >= state.measureSentAtMs) state.measuring = false;
  if (event.startedAtMs >= state.measureWantedMs) state.measureAgainAtMs = step.now + measureEveryMs;
  const byUuid = new Map(event.gpus.map((gpu) => [gpu.uuid, gpu]));
  for (const measurement of event.gpus) {
    const gpu = state.gpus.get(measurement.uuid);
    if (gpu && event.startedAtMs >= gpu.measuredAtMs) measureGpu(step, gpu, measurement, event.startedAtMs);
  }
  for (const replica of state.replicas.values()) measureReplica(step, replica, byUuid, event.startedAtMs);
}

/** What is used and belongs to no replica here is a stranger's: processes, and what no process accounts for. */
function measureGpu(step: Step, gpu: Gpu, measurement: GpuMeasurement, startedAtMs: number): void {
  let known = 0;
  for (const [podUid, bytes] of Object.entries(measurement.byPod)) {
    if (step.state.replicas.get(podUid)?.uuids.includes(gpu.uuid)) known += bytes;
  }
  gpu.totalBytes = measurement.totalBytes;
  gpu.freeBytes = measurement.freeBytes;
  gpu.usedBytes = measurement.usedBytes;
  gpu.measuredAtMs = startedAtMs;
  const foreign = Math.max(0, measurement.usedBytes - known, measurement.foreignBytes);
  if (Math.abs(foreign - gpu.foreignBytes) > stillBytes) gpu.foreignSinceMs = step.now;
  gpu.foreignBytes = foreign;
}

/** On each of its GPUs. One that is gone keeps nothing back on the others; null: one that is there was not measured, or none was. */
function bytesOf(step: Step, replica: Replica, byUuid: Map<string, GpuMeasurement>): number[] | null {
  const bytes: number[] = [];
  let measured = 0;
  for (const uuid of replica.uuids) {
    const measurement = byUuid.get(uuid);
    if (measurement) measured++;
    else if (step.state.gpus.get(uuid)?.listed) return null;
    bytes.push(measurement?.byPod[replica.podUid] ?? 0);
  }
  return measured > 0 ? bytes : null;
}

function measureReplica(
  step: Step,
  replica: Replica,
  byUuid: Map<string, GpuMeasurement>,
  startedAtMs: number,
): void {
  const bytes = bytesOf(step, replica, byUuid);
  if (!bytes || startedAtMs < replica.changedAtMs) return;
  const before = replica.bytes;
  replica.bytes = bytes;
  const peak = Math.max(...bytes);
  switch (replica.phase) {
    case 'absent':
    case 'asking':
      replica.proven = true;
      return;
    case 'booting':
      if (replica.readyAtMs !== null) finishBoot(step, replica, peak);
      return;
    case 'freeing':
      judgeFreeing(step, replica, { before, startedAtMs });
      return;
    case 'proving':
      replica.proven = true;
      raisePeak(step, replica, peak);
      return;
    case 'serving':
      replica.proven = true;
      raisePeak(step, replica, peak);
      audit(step, replica);
      return;
    case 'asleep':
      audit(step, replica);
      return;
    default:
      return;
  }
}

/** Later peaks of the same process raise its awake figure. */
function raisePeak(step: Step, replica: Replica, peak: number): void {
  if (peak <= (replica.awakeBytes ?? 0)) return;
  const moved = peak > (replica.awakeBytes ?? 0) + stillBytes;
  replica.awakeBytes = peak;
  if (!moved) return;
  const { podUid, residueBytes } = replica;
  step.effects.push({ type: 'remember', podUid, awakeBytes: peak, residueBytes });
}

/** Somebody waits for a measurement: a sleeper's bytes, a boot's, those of an engine that ended, or free room to boot. */
function isWanted(step: Step): 'quickly' | 'slowly' | null {
  const { state } = step;
  let wanted: 'quickly' | 'slowly' | null = null;
  for (const gpu of state.gpus.values()) {
    if (gpu.listed && gpu.measuredAtMs < gpu.wantedMs) wanted = 'quickly';
  }
  for (const replica of state.replicas.values()) {
    const ended = (replica.phase === 'absent' || replica.phase === 'asking') && !replica.proven;
    const booted = replica.phase === 'booting' && replica.readyAtMs !== null;
    if (!ended && !booted && replica.phase !== 'freeing') continue;
    const slow = step.now - replica.changedAtMs > freeingMsMax + measureSlowlyEveryMs;
    if (!slow) return 'quickly';
    wanted ??= 'slowly';
  }
  return wanted;
}

/** Asks for a measurement where one is hoped for and none is under way. */
export function driveMeasuring(step: Step): void {
  const { state } = step;
  const wanted = isWanted(step);
  if (wanted === null) return;
  if (state.measuring) {
    if (!isDue(step, state.measureSentAtMs + engineAnswerMsMax)) return;
    state.measuring = false;
  }
  const pauseMs = wanted === 'slowly' ? measureSlowlyEveryMs - measureEveryMs : 0;
  if (!isDue(step, state.measureAgainAtMs + pauseMs)) return;
  state.measuring = true;
  state.measureSentAtMs = step.now;
  step.effects.push({ type: 'measure' });
}
