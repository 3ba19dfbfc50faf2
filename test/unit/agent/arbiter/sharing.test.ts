import { describe, expect, it } from 'vitest';
import { type ModelOptions, ScenarioNode } from './node-with-models.ts';

/** Two models that do not fit together on one GPU: b awake, a asleep, both booted. */
function rivals(a: ModelOptions = {}, b: ModelOptions = {}): ScenarioNode {
  return new ScenarioNode(1).start().add('a', a).booted('a').add('b', b).booted('b').forget();
}

describe('a waiter', () => {
  it('wakes at once when there is room, in the same step as the wish', () => {
    const node = new ScenarioNode(1)
      .start()
      .add('a', { gib: 10, sleep: { idleTimeoutMs: 1_000 } })
      .booted('a');
    node.pass(5_000).forget();
    expect(node.phase('a')).toBe('asleep');
    node.demand('a', 0, 1);
    expect(node.effects.map(({ type }) => type)).toContain('wake-engine');
    node.pass(500);
    expect(node.told('a')?.state).toBe('SERVING');
  });

  it('takes the place of an idle occupant at once, inside its minRuntime too', () => {
    const node = rivals({}, { fairness: { minRuntimeMs: 60_000 } });
    node.demand('a', 0, 1);
    node.pass(1_000);
    expect([node.phase('a'), node.phase('b')]).toEqual(['serving', 'asleep']);
  });

  it('tells both sidecars, which count it; a sleep of idleness counts for nobody', () => {
    const node = rivals({ sleep: { idleTimeoutMs: 60_000 } });
    node.pass(1_000);
    node.demand('a', 0, 1);
    const words = (name: string) =>
      node.effects.flatMap((effect) =>
        effect.type === 'tell' && effect.podUid === name
          ? [[effect.state.state, effect.state.gaveWay, effect.state.tookRoom]]
          : [],
      );
    node.pass(5_000);
    expect(words('b').at(-1)).toEqual(['SLEEPING', true, false]);
    expect(words('a').slice(-2)).toEqual([
      ['WAKING', true, true],
      ['SERVING', false, false],
    ]);
    node.demand('a', 0, 0);
    node.pass(100_000);
    expect(words('a').at(-1)).toEqual(['SLEEPING', false, false]);
  });

  it('says why in a sentence with figures', () => {
    const node = rivals();
    node.pass(29_000);
    node.demand('a', 0, 1);
    const why = node.lastOf('explain', 'b');
    expect(why?.reason).toBe('Preempted');
    expect(why?.message).toMatch(
      /^b sleeps: a waited 0\.0 s for 40\.3 GiB on GPU 0; idle \d+ s, the only one that may go$/,
    );
  });

  it.each([
    {
      maxWaitTimeMs: 5_000,
      minRuntimeMs: 10_000,
      busyForMs: 1_000,
      freedAtMs: 10_000,
      why: 'its turn is longer',
    },
    {
      maxWaitTimeMs: 5_000,
      minRuntimeMs: 0,
      busyForMs: 1_000,
      freedAtMs: 6_000,
      why: 'the waiter must wait',
    },
    {
      maxWaitTimeMs: 0,
      minRuntimeMs: 120_000,
      busyForMs: 1_000,
      freedAtMs: 60_000,
      why: 'a turn is 60 s at most',
    },
    {
      maxWaitTimeMs: 1_000,
      minRuntimeMs: 2_000,
      busyForMs: 20_000,
      freedAtMs: 21_000,
      why: 'its turn is over already',
    },
  ])('behind a busy occupant waits until $freedAtMs ms after its wake: $why', (row) => {
    const node = rivals(
      { fairness: { maxWaitTimeMs: row.maxWaitTimeMs } },
      { fairness: { minRuntimeMs: row.minRuntimeMs } },
    );
    const began = node.state.replicas.get('b')!.becameServingAtMs;
    node.demand('b', 1, 0);
    node.pass(began + row.busyForMs - node.now);
    node.demand('a', 0, 1);
    // A wait is told as 1 ms at least.
    node.pass(began + row.freedAtMs - 2 - node.now);
    expect(node.sent('barrier')).toEqual([]);
    node.pass(2);
    expect(node.sent('barrier')).toEqual(['b']);
  });

  it('behind a 10 s stream is served within maxWaitTime or the rest of the turn, drainTimeout and a switch; the stream goes on after', () => {
    const node = rivals({}, { sleep: { drainTimeoutMs: 2_000 } });
    const began = node.state.replicas.get('b')!.becameServingAtMs;
    node.demand('b', 1, 0);
    node.pass(1_000);
    node.demand('a', 0, 1);
    const asked = node.now;
    while (node.phase('a') !== 'serving' && node.now < asked + 60_000) node.pass(10);
    const restOfTurn = began + 10_000 - asked;
    const switchMs = 100 + 400 + 3 * 50 + 20;
    expect(node.now - asked).toBeLessThanOrEqual(Math.max(5_000, restOfTurn) + 2_000 + switchMs + 10);
    // Frozen, not cut: it counts as waiting and goes on when a is done.
    expect(node.told('b')?.state).toBe('PENDING');
    node.demand('a', 0, 0);
    node.pass(1_500);
    expect(node.phase('b')).toBe('serving');
  });

  it('is never slept for before a sufficient set may go: not even an idle one', () => {
    const node = new ScenarioNode(1)
      .start()
      .add('idle', { gib: 15 })
      .booted('idle')
      .add('busy', { gib: 25 })
      .booted('busy');
    node.demand('busy', 1, 0);
    node.add('big', { gib: 42 });
    node.pass(5_000);
    expect(node.sent('barrier')).toEqual([]);
    expect(node.phase('idle')).toBe('serving');
  });

  it('whose clients all left is dropped: its victim goes on where it was', () => {
    const node = rivals({ fairness: { maxWaitTimeMs: 0 } }, { fairness: { minRuntimeMs: 0 } });
    node.demand('b', 1, 0);
    node.pass(100);
    node.demand('a', 0, 1);
    expect(node.phase('b')).toBe('draining');
    node.pass(50);
    node.demand('a', 0, 0);
    expect(node.phase('b')).toBe('serving');
    expect(node.told('b')?.state).toBe('SERVING');
    node.pass(40_000);
    expect(node.sent('sleep-engine')).toEqual([]);
  });

  it('that woke for nobody may be slept at once for another', () => {
    const node = rivals();
    node.demand('a', 0, 1);
    node.pass(250);
    expect(node.phase('a')).toBe('waking');
    node.demand('a', 0, 0);
    node.demand('b', 0, 1);
    node.pass(1_500);
    expect([node.phase('a'), node.phase('b')]).toEqual(['asleep', 'serving']);
  });

  it('of higher priority goes first', () => {
    const node = new ScenarioNode(1).start();
    for (const [name, priority] of [
      ['low', 0],
      ['high', 50],
      ['held', 0],
    ] as const) {
      node.add(name, { fairness: { priority, maxWaitTimeMs: 0, minRuntimeMs: 3_000 } }).booted(name);
    }
    node.demand('held', 1, 0);
    node.forget();
    node.demand('low', 0, 1);
    node.demand('high', 0, 1);
    node.pass(40_000);
    expect(node.sent('wake-engine')[0]).toBe('high');
  });

  it('of higher priority does not take the room that is being made for another', () => {
    const node = new ScenarioNode(1).start();
    for (const [name, priority] of [
      ['low', 0],
      ['high', 50],
      ['held', 0],
    ] as const) {
      node.add(name, { fairness: { priority, maxWaitTimeMs: 0, minRuntimeMs: 0 } }).booted(name);
    }
    node.demand('held', 1, 0);
    node.pass(5_000);
    node.forget();
    node.demand('low', 0, 1);
    expect(node.phase('held')).toBe('draining');
    node.demand('high', 0, 1);
    node.pass(500);
    node.demand('held', 0, 0);
    node.pass(1_000);
    expect(node.sent('wake-engine')[0]).toBe('low');
  });

  it('of low priority is awake within its age bound although others of high priority never cease', () => {
    const node = new ScenarioNode(1).start();
    for (const name of ['x', 'y', 'low']) {
      const priority = name === 'low' ? -100 : 100;
      node
        .add(name, {
          fairness: { priority, maxWaitTimeMs: 0, minRuntimeMs: 1_000 },
          sleep: { drainTimeoutMs: 0 },
        })
        .booted(name);
    }
    node.forget();
    node.demand('low', 0, 1);
    node.demand('x', 1, 0);
    node.demand('y', 1, 0);
    const asked = node.now;
    while (!node.sent('wake-engine').includes('low') && node.now < asked + 120_000) node.pass(100);
    expect(node.now - asked).toBeLessThanOrEqual(30_000 + 3 * (4_000 + 1_000));
  });
});

describe('an occupant', () => {
  it('that is popular is never slept, whoever waits and however long it idles', () => {
    const node = new ScenarioNode(1).start();
    node.add('pinned', { gib: 20, popular: true }).booted('pinned').pass(60_000);
    node.add('a', { gib: 20 }).booted('a').add('b', { gib: 20 }).booted('b');
    node.pass(3_600_000);
    expect(node.sent('sleep-engine')).toContain('a');
    expect(node.sent('sleep-engine')).not.toContain('pinned');
    expect(node.phase('pinned')).toBe('serving');
  });

  it('that fits beside another is awake with it', () => {
    const node = new ScenarioNode(1)
      .start()
      .add('a', { gib: 20 })
      .booted('a')
      .add('b', { gib: 20 })
      .booted('b');
    expect([node.phase('a'), node.phase('b')]).toEqual(['serving', 'serving']);
  });

  it('that is awake is not held up by a waiter before its turn ends: no barrier stands', () => {
    const node = rivals();
    node.demand('b', 1, 0);
    node.pass(100);
    node.demand('a', 0, 1);
    node.demand('b', 2, 0);
    node.pass(2_000);
    expect(node.sent('barrier')).toEqual([]);
  });

  it('whose next call is on its way is not idle: ten milliseconds are left between two calls', () => {
    const node = rivals();
    node.demand('b', 1, 0);
    node.pass(1_000);
    node.demand('a', 0, 1);
    node.demand('b', 0, 0);
    node.pass(5);
    expect(node.sent('barrier')).toEqual([]);
    node.demand('b', 1, 0);
    node.pass(2_000);
    expect(node.sent('barrier')).toEqual([]);
    node.demand('b', 0, 0);
    node.pass(11);
    expect(node.sent('barrier')).toEqual(['b']);
  });

  it.each([
    { met: 'a request is found running when its barrier stands', inFlight: 1, queued: 0 },
    { met: 'a request arrives before /sleep was sent', inFlight: 0, queued: 1 },
  ])('chosen while idle goes on when $met before its turn is over', ({ inFlight, queued }) => {
    const node = rivals();
    node.demand('a', 0, 1);
    expect(node.phase('b')).toBe('draining');
    node.demand('b', inFlight, queued);
    node.pass(100);
    expect(node.phase('b')).toBe('serving');
    expect(node.told('b')?.state).toBe('SERVING');
    expect(node.sent('sleep-engine')).toEqual([]);
  });

  it('that went on is chosen again a tenth of a second later, once nobody asks it', () => {
    const node = rivals();
    node.demand('a', 0, 1);
    node.demand('b', 1, 0);
    node.pass(50);
    expect(node.phase('b')).toBe('serving');
    node.demand('b', 0, 0);
    node.pass(40);
    expect(node.phase('b')).toBe('serving');
    node.pass(20);
    expect(node.phase('b')).not.toBe('serving');
  });

  it('is chosen by cost: the one whose wake is cheap before the one whose wake is dear', () => {
    const node = new ScenarioNode(1).start();
    node
      .add('dear', { gib: 20, wakeMs: 20_000 })
      .booted('dear')
      .add('cheap', { gib: 20, wakeMs: 100 })
      .booted('cheap');
    // Both have slept and woken once, so that their wakes are measured; the dear one has been idle for longer.
    for (const name of ['dear', 'cheap'])
      node.state.replicas.get(name)!.wakeMs = name === 'dear' ? 20_000 : 100;
    node.forget().add('c', { gib: 20 });
    node.pass(500);
    expect(node.sent('sleep-engine')).toEqual(['cheap']);
    expect(node.lastOf('explain', 'cheap')?.message).toContain('cheapest of 2');
  });

  it('is chosen by last use when all else is equal', () => {
    const node = new ScenarioNode(1).start();
    node.add('a', { gib: 20 }).booted('a').add('b', { gib: 20 }).booted('b');
    node.demand('a', 1, 0);
    node.demand('a', 0, 0);
    node.pass(1_000);
    node.forget().add('c', { gib: 20 });
    node.pass(500);
    expect(node.sent('sleep-engine')).toEqual(['b']);
  });

  it('sleeps with as few others as make room', () => {
    const node = new ScenarioNode(1).start();
    for (const [name, gib] of [
      ['s1', 8],
      ['s2', 8],
      ['large', 22],
    ] as const)
      node.add(name, { gib }).booted(name);
    node.forget().add('c', { gib: 24 });
    node.pass(500);
    expect(node.sent('sleep-engine')).toEqual(['large']);
  });

  it('sleeps by itself after its idleTimeout without a request, not a moment earlier', () => {
    const node = new ScenarioNode(1)
      .start()
      .add('a', { sleep: { idleTimeoutMs: 20_000 } })
      .booted('a');
    node.demand('a', 1, 0);
    node.pass(30_000);
    node.demand('a', 0, 0);
    node.forget().pass(19_999);
    expect(node.sent('barrier')).toEqual([]);
    node.pass(500);
    expect(node.phase('a')).toBe('asleep');
    expect(node.told('a')?.state).toBe('SLEEPING');
  });

  it.each([
    { met: 'a request is found running', inFlight: 1, queued: 0 },
    { met: 'a request arrived', inFlight: 0, queued: 1 },
  ])('keeps serving when its idle sleep meets that $met', ({ inFlight, queued }) => {
    const node = new ScenarioNode(1)
      .start()
      .add('a', { sleep: { idleTimeoutMs: 20_000 } })
      .booted('a');
    node.pass(19_000);
    while (node.phase('a') === 'serving') node.pass(0.5);
    expect(node.phase('a')).toBe('draining');
    node.demand('a', inFlight, queued);
    expect(node.phase('a')).toBe('serving');
  });
});
