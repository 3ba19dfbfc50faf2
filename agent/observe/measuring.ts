/** How often the GPUs' memory is measured: at once when asked for, else every second; one measurement at a time. */
import { errorText, type Log } from '#platform/log.ts';
import type { GpuMeasurement } from '../decide/facts.ts';

/** Nobody waits for a figure, ms. */
const idleEveryMs = 1_000;
/** Least time from one start to the next while a sleep or an end is being proven, ms. */
const askedEveryMs = 25;
/** After a measurement that failed: doubles up to the longest, ms. */
const retryMs = { least: 250, most: 5_000 };

export interface Measurement {
  /** Monotonic ms when the driver was asked. */
  startedAtMs: number;
  gpus: GpuMeasurement[];
}

export interface Measuring {
  /** A measurement that starts from now on; several wishes are met by one. */
  ask(): void;
  stop(): void;
}

/**
 * @param measure rejects when the driver says nothing; it has a time limit of its own
 * @param emit every measurement that succeeded
 */
export function startMeasuring(
  measure: () => Promise<Measurement>,
  emit: (measurement: Measurement) => void,
  log: Log,
): Measuring {
  let asked = true;
  let running = false;
  let stopped = false;
  let failures = 0;
  let startedAtMs = Number.NEGATIVE_INFINITY;
  let timer: NodeJS.Timeout | undefined;

  const plan = (): void => {
    if (running || stopped) return;
    clearTimeout(timer);
    const retry = Math.min(retryMs.least * 2 ** Math.min(failures - 1, 16), retryMs.most);
    const every = failures > 0 ? retry : asked ? askedEveryMs : idleEveryMs;
    const waitMs = startedAtMs + every - performance.now();
    // At once where somebody waits: even the shortest timer takes more than a millisecond.
    if (asked && waitMs <= 0) void run();
    else timer = setTimeout(() => void run(), Math.max(0, waitMs));
  };

  async function run(): Promise<void> {
    running = true;
    asked = false;
    startedAtMs = performance.now();
    try {
      const measurement = await measure();
      if (failures > 0) log.info('memory is measured again', { failures });
      failures = 0;
      running = false;
      if (!stopped) emit(measurement);
    } catch (error) {
      running = false;
      failures += 1;
      if (failures === 1) log.warn('memory cannot be measured', { error: errorText(error) });
    }
    plan();
  }
  plan();

  return {
    ask() {
      asked = true;
      plan();
    },
    stop() {
      stopped = true;
      clearTimeout(timer);
    },
  };
}
