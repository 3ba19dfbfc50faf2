/** What a person sees while something takes long: steps with the time since the start. */
import { setTimeout as delay } from 'node:timers/promises';

const began = performance.now();

/** One line on stderr, so that stdout holds only what was asked for. */
export function say(text: string): void {
  const seconds = ((performance.now() - began) / 1000).toFixed(1).padStart(6);
  process.stderr.write(`[${seconds} s] ${text}\n`);
}

/** How often a condition is looked at, ms. */
const pollMs = 50;

/**
 * Waits until `check` answers true; what it throws counts as "not yet".
 *
 * @throws Error naming `what`, the limit and the last error
 */
export async function until(
  what: string,
  limitMs: number,
  check: () => Promise<boolean> | boolean,
): Promise<void> {
  const end = performance.now() + limitMs;
  let last = '';
  while (performance.now() < end) {
    try {
      if (await check()) return;
      last = '';
    } catch (error) {
      last = error instanceof Error ? `: ${error.message.split('\n')[0]}` : '';
    }
    await delay(pollMs);
  }
  throw new Error(`${what}: not within ${limitMs / 1000} s${last}`);
}
