/** Measurements that began too early prove nothing, and memory that nobody has spoken for may still grow. */
import { describe, expect, it } from 'vitest';
import { ledgerView } from '../../../../agent/decide/arbiter/arbiter.ts';
import type { GpuMeasurement } from '../../../../agent/decide/facts.ts';
import { GiB, ScenarioNode } from './node-with-models.ts';

/** What the driver said at that moment of a GPU of 48 GiB. */
function measurement(byPodGib: Record<string, number>, strangerGib = 0): GpuMeasurement {
  const byPod = Object.fromEntries(Object.entries(byPodGib).map(([pod, gib]) => [pod, gib * GiB]));
  const used = (Object.values(byPodGib).reduce((sum, one) => sum + one, 0) + strangerGib) * GiB;
  return {
    uuid: 'GPU-0',
    totalBytes: 48 * GiB,
    usedBytes: used,
    freeBytes: 48 * GiB - used,
    byPod,
    foreignBytes: strangerGib * GiB,
  };
}

const claimsGib = (node: ScenarioNode): Record<string, number> => {
  const { reservedBytes, residueBytes, foreignBytes, roomBytes } = ledgerView(node.state)[0]!;
  return {
    reserved: reservedBytes / GiB,
    residue: residueBytes / GiB,
    foreign: foreignBytes / GiB,
    room: roomBytes / GiB,
  };
};

describe('a measurement', () => {
  it('that began before an engine fell asleep does not show its memory free', () => {
    const node = new ScenarioNode(1)
      .start()
      .add('a', { bootMs: 1_000, sleep: { idleTimeoutMs: 1_000 } })
      .booted('a');
    node.until('a', 'asleep');
    node.demand('a', 0, 1);
    node.until('a', 'serving');
    node.demand('a', 0, 0);
    node.until('a', 'sleeping');
    const before = node.now;
    node.until('a', 'freeing');
    node.send({ type: 'measured', startedAtMs: before, gpus: [measurement({ a: 0.5 })] });
    expect(node.phase('a')).toBe('freeing');
    node.send({ type: 'measured', startedAtMs: node.now, gpus: [measurement({ a: 0.5 })] });
    expect(node.phase('a')).toBe('asleep');
  });

  it('that comes after a later one changes no figure', () => {
    const node = new ScenarioNode(1).start();
    node.pass(1_000);
    node.send({ type: 'measured', startedAtMs: 900, gpus: [measurement({}, 12)] });
    expect(claimsGib(node)).toMatchObject({ foreign: 12, room: 36 });
    node.send({ type: 'measured', startedAtMs: 800, gpus: [measurement({}, 0)] });
    expect(claimsGib(node)).toMatchObject({ foreign: 12, room: 36 });
    node.send({ type: 'measured', startedAtMs: 900, gpus: [measurement({}, 3)] });
    expect(claimsGib(node)).toMatchObject({ foreign: 3, room: 45 });
  });

  it('that began before an engine ended does not clear what it held', () => {
    const node = new ScenarioNode(1).start().add('a', { bootMs: 1_000 }).booted('a');
    node.pass(1_000);
    const before = node.now;
    node.pass(50);
    node.send({ type: 'exited', podUid: 'a', code: 1, signal: null, tail: '' });
    node.send({ type: 'measured', startedAtMs: before, gpus: [measurement({})] });
    expect(claimsGib(node).reserved).toBe(40);
    node.send({ type: 'measured', startedAtMs: node.now, gpus: [measurement({})] });
    expect(claimsGib(node).reserved).toBe(0);
  });

  it('that does not name one of the GPUs of a gang says nothing of it', () => {
    const node = new ScenarioNode(2)
      .start()
      .add('gang', { gpus: [0, 1], bootMs: 1_000 })
      .booted('gang');
    node.pass(1_000);
    node.send({ type: 'exited', podUid: 'gang', code: 1, signal: null, tail: '' });
    node.send({ type: 'measured', startedAtMs: node.now, gpus: [measurement({})] });
    expect(claimsGib(node).reserved).toBe(40);
  });
});

describe('memory of a pod whose launcher has said nothing', () => {
  /** The agent starts anew; the driver shows this much of a, and of the pod only the list is known. */
  function found(gib: number): ScenarioNode {
    const node = new ScenarioNode(1).start().add('a', { gib: 40 }).restartAgent();
    node.sendGpus();
    node.sendLists();
    node.send({ type: 'measured', startedAtMs: node.now, gpus: [measurement(gib > 0 ? { a: gib } : {})] });
    return node;
  }

  it('counts as all that its engine may grow to', () => {
    expect(claimsGib(found(5))).toMatchObject({ reserved: 40, room: 8 });
  });

  it('counts as nothing when the driver shows none', () => {
    expect(claimsGib(found(0))).toMatchObject({ reserved: 0, room: 48 });
  });

  it('counts as it is once its launcher has said that no engine runs', () => {
    const node = found(5);
    node.ask('a');
    expect(claimsGib(node)).toMatchObject({ reserved: 5, room: 43 });
  });
});
