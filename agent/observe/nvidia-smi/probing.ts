/** When the GPUs are looked at in full: at once, in rounds, and soon again while a change of health waits to be believed. */
import { errorText, type Log } from '#platform/log.ts';
import type { Probe } from '../../decide/facts.ts';

/** The full query costs 10 to 100 times the quick one and samples slow sensors, ms. */
const everyMs = 30_000;
/** From the end of a probe to the next while a verdict is unsettled, ms. */
const soonMs = 2_000;

export interface Probing {
  /** A probe that starts as soon as none is under way. */
  ask(): void;
  stop(): void;
}

/**
 * @param probe never rejects, and has time limits of its own
 * @param tell every probe, with how long it took (ms); answers whether the next should come soon
 */
export function startProbing(
  probe: () => Promise<Probe>,
  tell: (probe: Probe, durationMs: number) => { unsettled: boolean },
  log: Log,
): Probing {
  let running = false;
  let asked = false;
  let stopped = false;
  let timer: NodeJS.Timeout | undefined;
  /** What was complained of last: a fault that stays is one line. */
  let complaint = '';

  const complain = ({ faults }: Probe): void => {
    const text = faults
      .map(({ reason, message, busId, uuid }) => `${reason} ${busId ?? uuid ?? ''} ${message}`)
      .join('; ');
    if (text !== complaint && text !== '') log.warn('nvidia-smi reports faults', { faults: text });
    if (text === '' && complaint !== '') log.info('nvidia-smi reports no faults any more');
    complaint = text;
  };

  const plan = (inMs: number): void => {
    clearTimeout(timer);
    if (!stopped) timer = setTimeout(() => void run(), inMs);
  };

  async function run(): Promise<void> {
    running = true;
    asked = false;
    let unsettled = false;
    try {
      const seen = await probe();
      complain(seen);
      if (!stopped) unsettled = tell(seen, performance.now() - seen.startedAtMs).unsettled;
    } catch (error) {
      log.error('a probe of the GPUs failed', { error: errorText(error) });
    }
    running = false;
    plan(asked ? 0 : unsettled ? soonMs : everyMs);
  }
  void run();

  return {
    ask() {
      asked = true;
      if (!running) plan(0);
    },
    stop() {
      stopped = true;
      clearTimeout(timer);
    },
  };
}
