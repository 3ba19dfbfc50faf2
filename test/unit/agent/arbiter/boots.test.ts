import { describe, expect, it } from 'vitest';
import { occupants } from '../../../../agent/decide/arbiter/arbiter.ts';
import { GiB, ScenarioNode } from './node-with-models.ts';

describe('a boot', () => {
  it('needs no demand, and stays awake until its idleTimeout', () => {
    const node = new ScenarioNode(1).start().add('a', { sleep: { idleTimeoutMs: 60_000 }, bootMs: 40_000 });
    expect(node.sent('grant')).toEqual(['a']);
    expect(node.told('a')).toMatchObject({ state: 'WAKING', bootReady: false });
    node.pass(40_100);
    expect(node.told('a')).toMatchObject({ state: 'SERVING', bootReady: true });
    node.pass(59_000);
    expect(node.phase('a')).toBe('serving');
    node.pass(2_000);
    expect(node.phase('a')).toBe('asleep');
  });

  it('keeps its measurement, and its residue after the first sleep', () => {
    const node = new ScenarioNode(1)
      .start()
      .add('a', { gib: 20, residueGib: 0.5, sleep: { idleTimeoutMs: 1_000 } });
    node.booted('a').pass(5_000);
    expect(node.lastOf('remember', 'a')).toMatchObject({ awakeBytes: 20 * 2 ** 30, residueBytes: 2 ** 29 });
  });

  it('leaves a residue that is known from an earlier life remembered', () => {
    const node = new ScenarioNode(1).start();
    node.add('a', { gib: 20 });
    node.send({ type: 'remembered', podUid: 'a', awakeBytes: 20 * GiB, residueBytes: 0.5 * GiB });
    node.booted('a');
    expect(node.lastOf('remember', 'a')).toMatchObject({ awakeBytes: 20 * GiB, residueBytes: 0.5 * GiB });
  });

  it('is one at a time on a GPU, while nothing there sleeps or wakes', () => {
    const node = new ScenarioNode(1)
      .start()
      .add('awake', { gib: 10, sleep: { idleTimeoutMs: 5_000 } })
      .booted('awake');
    node.forget().add('x', { gib: 10, bootMs: 30_000 }).add('y', { gib: 10, bootMs: 30_000 });
    node.pass(29_000);
    expect(node.sent('grant')).toEqual(['x']);
    expect(node.phase('awake')).toBe('serving');
    node.pass(2_000);
    expect(node.sent('grant')).toEqual(['x', 'y']);
    node.pass(31_000);
    expect(node.phase('awake')).toBe('asleep');
  });

  it('is not kept out by a guess: an idle one that was never measured asleep shows what it leaves', () => {
    const node = new ScenarioNode(1).start().add('pinned', { gib: 43, popular: true }).booted('pinned');
    node.add('old', { model: 'm', gib: 4, residueGib: 0 }).booted('old');
    node.forget().add('new', { model: 'm', gib: 4 }).pass(2_000);
    expect(node.phase('old')).toBe('asleep');
    expect(node.sent('grant')).toEqual(['new']);
  });

  it('that cannot fit beside what the other really leaves puts it to sleep once and no more', () => {
    const node = new ScenarioNode(1).start().add('pinned', { gib: 43, popular: true }).booted('pinned');
    node.add('other', { gib: 4, residueGib: 1.4 }).booted('other');
    node.forget().add('x', { gib: 4 }).pass(2_000);
    expect(node.sent('sleep-engine')).toEqual(['other']);
    node.demand('other', 0, 1);
    node.pass(2_000);
    node.demand('other', 0, 0);
    node.pass(30_000);
    expect(node.phase('other')).toBe('serving');
    expect(node.sent('sleep-engine')).toEqual(['other']);
    expect(node.sent('grant')).toEqual([]);
  });

  it('goes on beside a boot on another GPU', () => {
    const node = new ScenarioNode(2)
      .start()
      .add('x', { gpus: [0] })
      .add('y', { gpus: [1] });
    expect(node.sent('grant')).toEqual(['x', 'y']);
  });

  it('that has not begun goes behind one who waits to wake', () => {
    const node = new ScenarioNode(1).start().add('a').booted('a').add('b').booted('b');
    node.demand('b', 1, 0);
    node.forget().add('c');
    node.pass(500);
    node.demand('a', 0, 1);
    node.pass(500);
    node.demand('b', 0, 0);
    node.pass(2_000);
    expect(node.sent('wake-engine')).toEqual(['a']);
    expect(node.sent('grant')).toEqual([]);
  });

  it.each([
    {
      name: 'its pod is bound to another GPU',
      reason: 'NotBound',
      change: (node: ScenarioNode) => node.bindings.set('GPU-0', []),
    },
    {
      name: 'its pod was made for other UUIDs than it runs with',
      reason: 'UuidMismatch',
      change: (node: ScenarioNode) => {
        node.pod('a').uuids = ['GPU-1'];
      },
    },
    {
      name: 'the GPU resource is gone',
      reason: 'GpuResourceMissing',
      change: (node: ScenarioNode) => node.bindings.delete('GPU-0'),
    },
    {
      name: 'the driver does not list its GPU',
      reason: 'GpuMissing',
      change: (node: ScenarioNode) => {
        node.pod('a').uuids = ['GPU-7'];
        node.send({ type: 'asked', podUid: 'a', uuids: ['GPU-7'], bytes: 1, restarts: 0 });
      },
    },
    {
      name: 'its pod is being deleted',
      reason: 'Ending',
      change: (node: ScenarioNode) => {
        node.pod('a').deleting = true;
      },
    },
    {
      name: 'the API server does not list its pod',
      reason: 'PodNotListed',
      change: (node: ScenarioNode) => {
        node.pods = [];
      },
    },
  ])('is not granted when $name, and the launcher is told why', ({ reason, change }) => {
    const node = new ScenarioNode(2).start().add('busy').booted('busy');
    node.demand('busy', 1, 0);
    node.add('a');
    change(node);
    node.sendLists();
    node.demand('busy', 0, 0);
    node.pass(60_000);
    expect(node.sent('grant')).toEqual(['busy']);
    expect(node.lastOf('wait', 'a')?.reason).toBe(reason);
  });

  it('waits until the driver itself shows its need free, in a measurement begun after the last change', () => {
    const node = new ScenarioNode(1).start();
    node.send({ type: 'measured', startedAtMs: -1, gpus: [] });
    node.now = 5_000;
    node.add('a');
    expect(node.sent('grant')).toEqual([]);
    expect(node.effects.map(({ type }) => type)).toContain('measure');
    node.pass(20);
    expect(node.sent('grant')).toEqual(['a']);
  });

  it('that fails is tried again with doubling pauses, and clients of the third failure are told FAILED, operators the last words too', () => {
    const node = new ScenarioNode(1).start().add('a', { bootMs: 1_000 });
    node.engines.get('a')!.bootFails.push(...Array(6).fill('Traceback\nValueError: no such dtype\n\n'));
    const grants: number[] = [];
    for (let ms = 0; ms < 60_000; ms += 100) {
      const before = node.sent('grant').length;
      node.pass(100);
      if (node.sent('grant').length > before) grants.push(node.now);
    }
    const gaps = grants.slice(1).map((at, index) => Math.round((at - grants[index]!) / 1_000));
    expect(gaps.slice(0, 4)).toEqual([3, 5, 9, 17]);
    const failed = node.effects.filter((effect) => effect.type === 'tell' && effect.state.state === 'FAILED');
    expect(failed[0]).toMatchObject({
      state: {
        reason: 'EngineFailed',
        message: 'the engine of a failed 3 times, last: code 1',
      },
    });
    const toClients = node.effects.filter(({ type }) => type === 'tell' || type === 'wait');
    expect(JSON.stringify(toClients)).not.toMatch(/ValueError/);
    expect(node.effects).toContainEqual(
      expect.objectContaining({
        type: 'explain',
        reason: 'EngineFailed',
        message: 'the engine of a failed 3 times, last: code 1: ValueError: no such dtype',
      }),
    );
    node.until('a', 'asking');
    expect(occupants(node.state).get('GPU-0')![0]!.message).toMatch(/code 1: ValueError: no such dtype$/);
    expect(failed[0]?.type === 'tell' && failed[0].state.retryAfterMs).toBeGreaterThan(0);
  });

  it('passes on no more than 300 characters of the last words', () => {
    const node = new ScenarioNode(1).start().add('a', { bootMs: 1_000 });
    node.engines.get('a')!.bootFails.push('x'.repeat(5_000));
    node.pass(1_100);
    expect(node.lastOf('explain', 'a')!.message.length).toBeLessThan(400);
  });

  it('that never becomes ready is ended after half an hour', () => {
    const node = new ScenarioNode(1).start().add('a', { bootMs: 10 * 3_600_000 });
    node.pass(30 * 60_000 - 1);
    expect(node.sent('restart-engine')).toEqual([]);
    node.pass(2);
    expect(node.sent('restart-engine')).toEqual(['a']);
  });

  it('is not late because the machine stood still: its deadline moves by what was lost', () => {
    const node = new ScenarioNode(1).start().add('a', { bootMs: 10 * 3_600_000 });
    node.pass(60_000);
    node.now += 40 * 60_000;
    node.send({ type: 'tick' });
    expect(node.sent('restart-engine')).toEqual([]);
    node.pass(30 * 60_000);
    expect(node.sent('restart-engine')).toEqual(['a']);
  });

  it('may force a busy occupant out: with clients after maxWaitTime, without after 30 s', () => {
    for (const [clients, atMs] of [
      [1, 10_000],
      [0, 30_000],
    ] as const) {
      const node = new ScenarioNode(1).start().add('a').booted('a');
      node.pass(20_000);
      node.demand('a', 1, 0);
      node.forget().add('b', { fairness: { maxWaitTimeMs: 10_000 } });
      if (clients) node.demand('b', 0, 1);
      node.pass(atMs - 5);
      expect(node.sent('barrier')).toEqual([]);
      node.pass(10);
      expect(node.sent('barrier')).toEqual(['a']);
    }
  });
});

describe('a launcher that waits', () => {
  it('keeps its place when its connection breaks for a moment', () => {
    const node = new ScenarioNode(1).start().add('busy').booted('busy');
    node.demand('busy', 1, 0);
    node.add('first').pass(5_000).add('second').pass(5_000);
    node.send({ type: 'launcher-gone', podUid: 'first' });
    node.pass(1_000);
    node.ask('first');
    node.demand('busy', 0, 0);
    node.forget().pass(1_000);
    expect(node.sent('grant')).toEqual(['first']);
  });

  it('is told once for each reason', () => {
    const node = new ScenarioNode(1).start().add('busy').booted('busy');
    node.demand('busy', 1, 0);
    node.forget().add('a').pass(20_000);
    expect(node.sent('wait')).toEqual(['a']);
  });
});

describe('a roll', () => {
  const rolled = (): ScenarioNode => {
    const node = new ScenarioNode(1).start().add('old', { model: 'm', bootMs: 2_000 }).booted('old');
    return node.forget().add('new', { model: 'm', bootMs: 20_000 });
  };

  it('puts the old pod to sleep for the new one to boot, and leaves its queue to the new one', () => {
    const node = rolled();
    node.pass(1_000);
    expect([node.phase('old'), node.phase('new')]).toEqual(['asleep', 'booting']);
    node.demand('old', 0, 1);
    node.pass(25_000);
    expect([node.phase('old'), node.phase('new')]).toEqual(['asleep', 'serving']);
  });

  it('takes the old pod before any other', () => {
    const node = new ScenarioNode(1)
      .start()
      .add('old', { model: 'm', gib: 20 })
      .booted('old')
      .add('other', { gib: 20 })
      .booted('other');
    node.demand('old', 1, 0);
    node.demand('old', 0, 0);
    node.pass(20);
    node.forget().add('new', { model: 'm', gib: 20 });
    node.pass(500);
    expect(node.sent('sleep-engine')).toEqual(['old']);
  });

  it('that fails lets the old pod wake for its clients', () => {
    const node = rolled();
    node.engines.get('new')!.bootFails.push('broken');
    node.pass(15_000);
    node.demand('old', 0, 1);
    node.pass(8_000);
    expect(node.phase('old')).toBe('serving');
  });

  it('of a popular model sleeps the old pod all the same', () => {
    const node = new ScenarioNode(1).start().add('old', { model: 'm', popular: true }).booted('old');
    node.forget().add('new', { model: 'm', popular: true, bootMs: 5_000 });
    node.pass(6_000);
    expect([node.phase('old'), node.phase('new')]).toEqual(['asleep', 'serving']);
  });

  it('beside which there is room leaves the old pod serving', () => {
    const node = new ScenarioNode(1).start().add('old', { model: 'm', gib: 20 }).booted('old');
    node.forget().add('new', { model: 'm', gib: 20 });
    node.pass(1_000);
    expect([node.phase('old'), node.phase('new')]).toEqual(['serving', 'booting']);
  });
});
