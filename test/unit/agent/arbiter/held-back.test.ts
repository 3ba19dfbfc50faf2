/** Who must not start although it would fit: what an older waiter or a boot holds back. */
import { describe, expect, it } from 'vitest';
import { ScenarioNode } from './node-with-models.ts';

/** small sleeps and would fit beside a, which serves a client in a long turn; big waits for the place of a. */
function crowd(): ScenarioNode {
  const node = new ScenarioNode(1).start();
  const fairness = { minRuntimeMs: 60_000, maxWaitTimeMs: 600_000 };
  const common = { bootMs: 1_000, residueGib: 0.25, fairness };
  node.add('small', { ...common, gib: 6, sleep: { idleTimeoutMs: 500 } }).booted('small');
  node.until('small', 'asleep');
  node.add('big', { ...common, gib: 38 }).booted('big');
  node.add('a', { ...common, gib: 20 }).booted('a');
  node.demand('a', 1, 0);
  node.forget();
  node.demand('big', 0, 1);
  return node;
}

describe('behind a waiter', () => {
  it('that has not waited 30 s, one that fits beside it starts', () => {
    const node = crowd();
    node.pass(29_000);
    node.demand('small', 0, 1);
    node.pass(100);
    expect(node.sent('wake-engine')).toEqual(['small']);
  });

  it('that has waited 30 s nobody starts, also where there is room beside its need', () => {
    const node = crowd();
    node.pass(30_500);
    node.demand('small', 0, 1);
    node.pass(5_000);
    expect(node.sent('wake-engine')).toEqual([]);
    node.demand('a', 0, 0);
    node.pass(1_000);
    expect(node.sent('wake-engine')).toEqual(['big', 'small']);
  });

  it('that has waited 30 s others start on GPUs that it does not need', () => {
    const node = new ScenarioNode(2).start();
    const fairness = { minRuntimeMs: 60_000, maxWaitTimeMs: 600_000 };
    const common = { bootMs: 1_000, fairness };
    node.add('big', common).booted('big').add('a', common).booted('a');
    node.add('far', { ...common, gpus: [1], sleep: { idleTimeoutMs: 500 } }).booted('far');
    node.until('far', 'asleep');
    node.demand('a', 1, 0);
    node.forget();
    node.demand('big', 0, 1);
    node.pass(31_000);
    node.demand('far', 0, 1);
    expect(node.sent('wake-engine')).toEqual(['far']);
  });
});

describe('a boot for which room was made and that waits for quiet', () => {
  it('lets no wake begin before it', () => {
    const node = new ScenarioNode(1).start();
    const common = { bootMs: 1_000, residueGib: 0.25 };
    node.add('small', { ...common, gib: 4, sleep: { idleTimeoutMs: 500 } }).booted('small');
    node.add('idle', { ...common, gib: 30, sleep: { idleTimeoutMs: 500 } }).booted('idle');
    node
      .until('idle', 'asleep')
      .add('ends', { ...common, gib: 4 })
      .booted('ends');
    node.demand('idle', 0, 1);
    node.until('idle', 'serving').demand('idle', 0, 0);
    node.forget().add('boots', { ...common, gib: 30 });
    node.until('idle', 'freeing');
    expect(node.phase('small')).toBe('asleep');
    // Seen asleep by a measurement from before the end of another engine: room is there, quiet is not.
    const before = node.now;
    node.pass(1);
    Object.assign(node.engines.get('ends')!, { state: 'none', bytes: 0 });
    node.send({ type: 'exited', podUid: 'ends', code: 1, signal: null, tail: '' });
    node.measure(before);
    expect(node.phase('idle')).toBe('asleep');
    node.demand('small', 0, 1);
    expect([node.phase('boots'), node.phase('small')]).toEqual(['asking', 'asleep']);
    node.pass(100);
    expect([node.phase('boots'), node.phase('small')]).toEqual(['booting', 'asleep']);
  });
});

describe('beside a boot', () => {
  it('an engine that must be restarted is left alone until the boot is over', () => {
    const node = new ScenarioNode(1).start().add('hung', { gib: 10, bootMs: 1_000 }).booted('hung');
    node.pass(1_000).add('boots', { gib: 10, bootMs: 20 * 60_000 });
    node.engines.get('hung')!.hangs = true;
    node.pass(19 * 60_000);
    expect(node.phase('hung')).toBe('checking');
    expect(node.sent('restart-engine')).toEqual([]);
    node.pass(2 * 60_000);
    expect(node.sent('restart-engine')).toEqual(['hung']);
  });

  it('an engine that must be restarted on another GPU is restarted at once', () => {
    const node = new ScenarioNode(2).start().add('hung', { gib: 10, bootMs: 1_000 }).booted('hung');
    node.pass(1_000).add('boots', { gpus: [1], gib: 10, bootMs: 20 * 60_000 });
    node.engines.get('hung')!.hangs = true;
    node.pass(5 * 60_000);
    expect(node.sent('restart-engine')).toContain('hung');
  });

  it('nothing sleeps: one whose idleTimeout is over waits for its end', () => {
    const node = new ScenarioNode(1).start();
    node.add('idle', { gib: 10, bootMs: 1_000, sleep: { idleTimeoutMs: 5_000 } }).booted('idle');
    node.add('boots', { gib: 10, bootMs: 60_000 }).forget().pass(50_000);
    expect(node.sent('barrier')).toEqual([]);
    node.pass(15_000);
    expect(node.sent('sleep-engine')).toEqual(['idle']);
  });

  it('nothing wakes, for whom there is room either', () => {
    const node = new ScenarioNode(1).start();
    node.add('small', { gib: 10, bootMs: 1_000, sleep: { idleTimeoutMs: 500 } }).booted('small');
    node
      .until('small', 'asleep')
      .add('boots', { gib: 10, bootMs: 60_000 })
      .until('boots', 'booting')
      .forget();
    node.demand('small', 0, 1);
    node.pass(50_000);
    expect(node.sent('wake-engine')).toEqual([]);
    node.pass(15_000);
    expect(node.sent('wake-engine')).toEqual(['small']);
  });
});
