import { describe, expect, it } from 'vitest';
import { GiB, type ModelOptions, ScenarioNode } from './node-with-models.ts';

/** Two models that do not fit together on one GPU: b awake, a asleep, both booted. */
function rivals(a: ModelOptions = {}, b: ModelOptions = {}): ScenarioNode {
  return new ScenarioNode(1).start().add('a', a).booted('a').add('b', b).booted('b').forget();
}

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

  /** Only its sidecar's hello arrives: the API server's watch and its launcher are late. */
  function saysHello(node: ScenarioNode, name: string, options: ModelOptions): void {
    const { send } = node;
    node.send = (event) => {
      if (event.type === 'attached') send.call(node, event);
    };
    node.add(name, options);
    node.send = send;
  }

  const toldFinally = (node: ScenarioNode): string[] =>
    node.effects.flatMap((effect) =>
      effect.type === 'tell' && effect.state.state === 'FAILED' ? [effect.podUid] : [],
    );

  it('says nothing final beside a pinned one that has said no more than hello', () => {
    const node = rivals();
    node.demand('b', 1, 0);
    node.demand('a', 0, 1);
    saysHello(node, 'pinned', { gib: 3, popular: true });
    node.pass(10_000);
    expect(toldFinally(node)).toEqual([]);
    node.sendLists();
    node.ask('pinned');
    node.demand('b', 0, 0);
    node.until('pinned', 'serving').until('a', 'serving');
    saysHello(node, 'large', { gib: 20, popular: true });
    expect(toldFinally(node)).toEqual([]);
    node.sendLists();
    // Now its size is known, and none of the others fits beside both.
    node.demand('b', 0, 1);
    expect(toldFinally(node)).toEqual(['b']);
  });

  it('says nothing final after a restart without the API server, while the launcher of a pinned one is silent', () => {
    const node = new ScenarioNode(1)
      .start()
      .add('a', { gib: 20, sleep: { idleTimeoutMs: 1_000 } })
      .booted('a')
      .until('a', 'asleep')
      .add('pinned', { gib: 3, popular: true })
      .until('pinned', 'booting');
    node.kill('pinned');
    node.restartAgent().sendGpus();
    node.measure();
    node.attach('pinned');
    node.demand('a', 0, 3);
    node.attach('a');
    node.hold('a');
    node.pass(3_000);
    node.send({ type: 'settled' });
    node.until('a', 'serving');
    expect(toldFinally(node)).toEqual([]);
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

  it('sleeps again for its clients when strangers have gone and nobody is left who waits', () => {
    const node = rivals();
    node.strangerGib[0] = 20;
    node.measure();
    node.demand('b', 0, 0);
    node.pass(5_000);
    node.demand('a', 0, 1);
    node.pass(11_000);
    expect(node.told('a')?.state).toBe('FAILED');
    node.demand('a', 0, 0);
    node.measure();
    expect(node.told('a')?.state).toBe('FAILED');
    node.strangerGib[0] = 0;
    node.measure();
    expect(node.told('a')).toMatchObject({ state: 'SLEEPING', reason: '' });
  });

  it('sleeps again for its clients when what was pinned beside it has gone', () => {
    const node = new ScenarioNode(1)
      .start()
      .add('a', { gib: 30, sleep: { idleTimeoutMs: 1_000 } })
      .booted('a');
    node.until('a', 'asleep').add('pinned', { gib: 20, popular: true }).booted('pinned');
    node.demand('a', 0, 1);
    expect(node.told('a')).toMatchObject({ state: 'FAILED', reason: 'NeverFits', retryAfterMs: 0 });
    node.demand('a', 0, 0);
    const bindings = node.bindings.get('GPU-0')!;
    for (const binding of bindings) if (binding.model === 'pinned') binding.popular = false;
    node.sendLists();
    expect(node.told('a')?.state).toBe('SLEEPING');
  });
});
