/** Boots that wait for host memory, as staging says. */
import { describe, expect, it } from 'vitest';
import { occupants } from '../../../../agent/decide/arbiter/arbiter.ts';
import { asWaiter } from '../../../../agent/decide/arbiter/waiting.ts';
import type { BootRoom } from '../../../../agent/decide/staging/words.ts';
import { ScenarioNode } from './node-with-models.ts';
import { gpu, replica, stateOf, stepOf } from './pieces.ts';

const text = 'needs 60.0 GiB, the pool is bound to 50.0 GiB: raise storage.pinnedMemoryMB';
const held = (podUid: string) => ({
  podUid,
  needBytes: 60,
  freeBytes: 50,
  held: { reason: 'NoRoomForImage', message: text } as const,
});
const fits = (podUid: string, needBytes: number, freeBytes: number) => ({
  podUid,
  needBytes,
  freeBytes,
  held: null,
});

describe('a boot without host memory', () => {
  it('waits, says why everywhere, and goes on by itself', () => {
    const node = new ScenarioNode(1).start();
    node.send({ type: 'host-memory', boots: [held('a')] });
    node.add('a').pass(120_000);
    expect(node.sent('grant')).toEqual([]);
    expect(node.told('a')).toMatchObject({ state: 'PENDING', reason: 'NoRoomForImage', message: text });
    expect(node.lastOf('wait', 'a')).toMatchObject({ reason: 'NoRoomForImage', message: text });
    expect(occupants(node.state).get('GPU-0')).toMatchObject([{ state: 'waiting', message: text }]);
    node.send({ type: 'host-memory', boots: [fits('a', 60, 60)] });
    expect(node.sent('grant')).toEqual(['a']);
    expect(occupants(node.state).get('GPU-0')![0]).not.toHaveProperty('message');
  });

  it('goes on once staging does not speak of it any more', () => {
    const node = new ScenarioNode(1).start();
    node.send({ type: 'host-memory', boots: [held('a')] });
    node.add('a');
    node.send({ type: 'host-memory', boots: [] });
    expect(node.sent('grant')).toEqual(['a']);
  });

  it('puts nobody to sleep and keeps nobody from booting', () => {
    const node = new ScenarioNode(1).start().add('old').booted('old');
    node.send({ type: 'host-memory', boots: [held('a')] });
    node.forget().add('a').pass(120_000);
    expect(node.sent('sleep-engine')).toEqual([]);
    node.add('b').pass(60_000);
    expect(node.sent('grant')).toEqual(['b']);
  });

  it('is not what the pod that it replaces stands behind', () => {
    const roll = (boots: BootRoom[]) => {
      const demand = { inFlight: 0, queued: 1, oldestWaitMs: 5_000, idleMs: 0, requestsTotal: 1 };
      const old = replica('old', { key: 'default/m/0', phase: 'asleep', order: 1, demand });
      const made = replica('new', { key: 'default/m/0', phase: 'asking', order: 2, bootReady: false });
      const step = stepOf(stateOf([gpu()], [old, made]));
      step.state.hostMemory = new Map(boots.map((boot) => [boot.podUid, boot]));
      return asWaiter(step, old)?.rank;
    };
    expect(roll([fits('new', 60, 60)])).toBe('boot');
    expect(roll([held('new')])).toBe('wake');
  });

  it('is judged beside those granted in the same moment', () => {
    const two = (freeBytes: number) => {
      const node = new ScenarioNode(2).start();
      node.send({ type: 'host-memory', boots: [held('x'), held('y')] });
      node.add('x', { gpus: [0] }).add('y', { gpus: [1] });
      node.send({ type: 'host-memory', boots: [fits('x', 60, freeBytes), fits('y', 60, freeBytes)] });
      return node;
    };
    expect(two(120).sent('grant')).toEqual(['x', 'y']);
    const node = two(119);
    expect(node.sent('grant')).toEqual(['x']);
    node.send({ type: 'host-memory', boots: [fits('y', 60, 60)] });
    expect(node.sent('grant')).toEqual(['x', 'y']);
  });

  it('concerns no other pod', () => {
    const node = new ScenarioNode(1).start();
    node.send({ type: 'host-memory', boots: [held('other')] });
    expect(node.add('a').sent('grant')).toEqual(['a']);
  });

  it('is what a new agent is told before it decides', () => {
    const node = new ScenarioNode(1).start();
    node.send({ type: 'host-memory', boots: [held('a')] });
    node.add('a').restartAgent();
    node.send({ type: 'host-memory', boots: [held('a')] });
    node.start().attach('a');
    node.ask('a');
    expect(node.pass(60_000).sent('grant')).toEqual([]);
  });
});
