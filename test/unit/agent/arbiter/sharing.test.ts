import { describe, expect, it } from 'vitest';
import { GiB, type ModelOptions, ScenarioNode } from './node-with-models.ts';

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
  it('that is popular is never slept, whoever waits', () => {
    const node = new ScenarioNode(1)
      .start()
      .add('pinned', { gib: 20, popular: true })
      .booted('pinned')
      .add('a', { gib: 25 })
      .booted('a');
    node.add('b', { gib: 25 }).booted('b');
    node.pass(3_600_000);
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

describe('gangs', () => {
  it('wake when all their GPUs have room, and hold nothing until then', () => {
    const node = new ScenarioNode(2).start();
    node
      .add('gang', { gpus: [0, 1] })
      .booted('gang')
      .add('left', { gpus: [0] })
      .booted('left')
      .add('right', { gpus: [1] })
      .booted('right');
    node.demand('left', 1, 0);
    node.forget();
    node.demand('gang', 0, 1);
    node.pass(3_000);
    // right is idle, but left is in its turn: nobody sleeps for nothing.
    expect(node.sent('sleep-engine')).toEqual([]);
    node.demand('left', 0, 0);
    node.pass(1_500);
    expect(node.phase('gang')).toBe('serving');
    expect(node.sent('sleep-engine').sort()).toEqual(['left', 'right']);
  });

  it('that overlap take turns without a deadlock', () => {
    const node = new ScenarioNode(3).start();
    const fairness = { minRuntimeMs: 2_000, maxWaitTimeMs: 1_000 };
    const gangs = { ab: [0, 1], bc: [1, 2], ca: [2, 0] };
    for (const [name, gpus] of Object.entries(gangs)) {
      node.add(name, { gpus, fairness, sleep: { drainTimeoutMs: 500 } }).booted(name);
    }
    node.forget();
    for (const name of Object.keys(gangs)) node.demand(name, 0, 1);
    for (let second = 0; second < 60; second++) {
      node.pass(1_000);
      for (const name of Object.keys(gangs)) if (node.phase(name) === 'serving') node.demand(name, 1, 0);
    }
    const wakes = node.sent('wake-engine');
    for (const name of Object.keys(gangs))
      expect(wakes.filter((one) => one === name).length).toBeGreaterThan(3);
  });
});

describe('behind a waiter that no set of victims can serve yet', () => {
  /** a serves a client in its turn; big waits for its place; then small asks. */
  function queue(smallGib: number): ScenarioNode {
    const node = new ScenarioNode(1).start();
    for (const [name, gib] of [
      ['small', smallGib],
      ['big', 38],
      ['a', 20],
    ] as const) {
      node
        .add(name, { gib, bootMs: 1_000, residueGib: 0.25, fairness: { minRuntimeMs: 20_000 } })
        .booted(name);
    }
    for (const name of ['small', 'big']) expect(['asleep', 'serving']).toContain(node.phase(name));
    node.pod('small').settings.sleep.idleTimeoutMs = 1;
    node.sendLists();
    node.pass(1_000);
    node.demand('a', 1, 0);
    node.forget();
    node.demand('big', 0, 1);
    node.pass(100);
    node.demand('small', 0, 1);
    node.pass(3_000);
    return node;
  }

  it('another that fits now, but not beside it, waits', () => {
    expect(queue(15).sent('wake-engine')).toEqual([]);
  });

  it('another that fits beside it goes ahead', () => {
    expect(queue(6).sent('wake-engine')).toEqual(['small']);
  });

  it('another takes no victim that it will need', () => {
    const node = new ScenarioNode(1).start();
    for (const [name, gib] of [
      ['later', 18],
      ['first', 40],
      ['idle', 18],
      ['busy', 18],
    ] as const) {
      node
        .add(name, { gib, bootMs: 1_000, residueGib: 0.25, fairness: { minRuntimeMs: 20_000 } })
        .booted(name);
    }
    expect([node.phase('idle'), node.phase('busy')]).toEqual(['serving', 'serving']);
    node.demand('busy', 1, 0);
    node.forget();
    node.demand('first', 0, 1);
    node.pass(10);
    node.demand('later', 0, 1);
    node.pass(10_000);
    expect(node.sent('sleep-engine')).toEqual([]);
  });
});

describe('the ledger', () => {
  it('counts one that measured more than its reservation at what it measured, and head room', () => {
    for (const [peakGib, beside] of [
      [20, true],
      [25.5, true],
      [25.9, false],
    ] as const) {
      const node = new ScenarioNode(1).start().add('a', { gib: 20 }).booted('a');
      node.engines.get('a')!.bytes = peakGib * GiB;
      node.measure();
      node.add('b', { gib: 22 }).booted('b');
      expect(node.phase('a')).toBe(beside ? 'serving' : 'asleep');
    }
  });

  it('counts a sleeper at 1.5 GiB until it was measured, then at what it keeps', () => {
    const node = rivals({ residueGib: 0.25 });
    const a = node.state.replicas.get('a')!;
    expect(a.residueBytes).toBe(0.25 * GiB);
    expect(node.state.replicas.get('b')!.residueBytes).toBeNull();
  });

  it('says final when a need can never be met beside what is pinned, and takes it back when it can', () => {
    const node = new ScenarioNode(1)
      .start()
      .add('pinned', { gib: 20, popular: true })
      .booted('pinned')
      .add('big', { gib: 30 });
    expect(node.told('big')).toMatchObject({ state: 'FAILED', reason: 'NeverFits', retryAfterMs: 0 });
    expect(node.told('big')?.message).toMatch(/^big needs 30\.0 GiB on GPU 0; at most 28\.0 GiB can be free/);
    expect(node.lastOf('wait', 'big')?.reason).toBe('NeverFits');
    node.pods = node.pods.filter(({ podUid }) => podUid !== 'pinned');
    node.bindings.set(
      'GPU-0',
      node.bindings.get('GPU-0')!.filter(({ model }) => model !== 'pinned'),
    );
    node.engines.delete('pinned');
    node.send({ type: 'detached', podUid: 'pinned' });
    node.send({ type: 'launcher-gone', podUid: 'pinned' });
    node.sendLists();
    node.pass(10_000);
    expect(node.told('big')?.state).toBe('WAKING');
  });

  it('lets clients of one that strangers keep out try again later, and wakes it when they have gone', () => {
    const node = rivals();
    node.strangerGib[0] = 20;
    node.measure();
    node.demand('b', 0, 0);
    node.pass(5_000);
    node.demand('a', 0, 1);
    node.pass(11_000);
    expect(node.told('a')).toMatchObject({
      state: 'FAILED',
      reason: 'StrangerHoldsMemory',
      retryAfterMs: 30_000,
    });
    node.strangerGib[0] = 0;
    node.measure();
    node.pass(2_000);
    expect(node.phase('a')).toBe('serving');
  });
});
