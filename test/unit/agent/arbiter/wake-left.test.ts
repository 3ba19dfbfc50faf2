/** An agent that dies between a wake and its answer leaves an engine that says asleep and takes its memory all the same. */
import { describe, expect, it } from 'vitest';
import { GiB, ScenarioNode } from './node-with-models.ts';

/** `a` was told that it wakes; its engine has not taken its memory yet. */
function dyingWhileWaking(): ScenarioNode {
  const node = new ScenarioNode(1)
    .start()
    .add('a', { bootMs: 2_000 })
    .booted('a')
    .add('b', { bootMs: 2_000 })
    .booted('b')
    .forget();
  node.demand('a', 0, 1);
  for (let ms = 0; ms < 5_000 && node.phase('a') !== 'waking'; ms += 10) node.pass(10);
  expect(node.told('a')?.state).toBe('WAKING');
  return node.restartAgent();
}

describe('a wake that an agent before sent', () => {
  it.each([
    { first: 'its sidecar', order: ['attach', 'hold'] },
    { first: 'its launcher', order: ['hold', 'attach'] },
  ] as const)('is taken up, not taken for sleep, whoever speaks first: $first', ({ order }) => {
    const node = dyingWhileWaking();
    node.sendGpus();
    node.measure();
    node.sendLists();
    for (const part of order) {
      node[part]('a');
      node.pass(50);
    }
    node.attach('b');
    node.hold('b');
    node.send({ type: 'settled' });
    expect(node.phase('a')).toBe('waking');
    // The engine takes it now: what counts as free must have left it out.
    node.engines.get('a')!.bytes = node.engines.get('a')!.options.gib * GiB;
    node.pass(2_000);
    expect(node.phase('a')).toBe('serving');
    expect(node.told('a')?.state).toBe('SERVING');
    expect(node.sent('restart-engine')).toEqual([]);
  });

  it('that is over by then is no wake any more', () => {
    const node = dyingWhileWaking();
    node.engines.get('a')!.state = 'awake';
    node.engines.get('a')!.bytes = node.engines.get('a')!.options.gib * GiB;
    node.sendGpus();
    node.measure();
    node.sendLists();
    for (const name of ['a', 'b']) {
      node.attach(name);
      node.hold(name);
    }
    node.send({ type: 'settled' });
    node.pass(1_000);
    expect(node.phase('a')).toBe('serving');
    expect(node.sent('wake-engine')).toEqual([]);
  });
});
