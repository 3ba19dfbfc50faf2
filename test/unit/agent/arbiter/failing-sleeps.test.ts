/** Who may have the room of an engine whose sleeps fail, and who waits behind it holding nothing. */
import { describe, expect, it } from 'vitest';
import type { Replica } from '../../../../agent/decide/arbiter/state.ts';
import { asks, busy, idle, now, run, waits } from './planning.ts';

describe('an engine whose sleeps fail', () => {
  const failing = idle('a', 59.5, { sleepFailures: 2 });
  const bootsAgain = { bootReady: true, askedAtMs: now - 200_000 };
  const client = { ...busy, inFlight: 0, queued: 1 };

  it.each<{ why: string; waiter: Replica }>([
    { why: 'one with clients', waiter: waits('w', 60, 60_000) },
    { why: 'a boot with clients', waiter: asks('w', 60, { ...bootsAgain, demand: client }) },
    { why: 'a pinned one', waiter: asks('w', 60, { ...bootsAgain, popular: true }) },
    { why: 'one that has never booted', waiter: asks('w', 60, { ...bootsAgain, bootReady: false }) },
  ])('drains for the last time for $why', ({ waiter }) => {
    const victim = { ...failing };
    expect(run([waiter, victim]).phases).toMatchObject({ a: 'draining' });
    expect(victim.leaving).toMatchObject({ for: 'w', last: true });
  });

  it('and has failed once drains as any other', () => {
    const victim = { ...failing, sleepFailures: 1 };
    run([waits('w', 60, 60_000), victim]);
    expect(victim.leaving).toEqual({ for: 'w', forced: false, inFlight: null, deadlineMs: now + 5_000 });
  });

  it.each<{ why: string; rest: Partial<Replica> }>([
    { why: 'boots again for nobody', rest: bootsAgain },
    { why: 'has failed to boot three times', rest: { ...bootsAgain, bootReady: false, failures: 3 } },
  ])('stays for one that $why, which holds nothing meanwhile, however old', ({ rest }) => {
    const { phases } = run([asks('w', 60, rest), { ...failing }, waits('v', 10)]);
    expect(phases).toEqual({ w: 'asking', a: 'serving', v: 'waking' });
  });

  it('keeps out nobody for whom others can make room', () => {
    const boots = asks('w', 19, bootsAgain);
    const { phases } = run([boots, { ...failing }, idle('b', 18.5)]);
    expect(phases).toEqual({ w: 'asking', a: 'serving', b: 'draining' });
  });
});
