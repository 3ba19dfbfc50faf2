/** The agent restarts: all is learnt anew, in any order; and pods end. */
import { describe, expect, it } from 'vitest';
import { GiB, ScenarioNode } from './node-with-models.ts';

const rivals = (): ScenarioNode =>
  new ScenarioNode(1)
    .start()
    .add('a', { bootMs: 2_000 })
    .booted('a')
    .add('b', { bootMs: 2_000 })
    .booted('b')
    .forget();

describe('an agent that starts again', () => {
  const parts = {
    gpus: (node: ScenarioNode) => node.sendGpus(),
    measured: (node: ScenarioNode) => node.measure(),
    lists: (node: ScenarioNode) => node.sendLists(),
    sidecars: (node: ScenarioNode) => ['a', 'b'].forEach((name) => void node.attach(name)),
    launchers: (node: ScenarioNode) => ['a', 'b'].forEach((name) => void node.hold(name)),
  };
  const orders = [
    ['gpus', 'measured', 'lists', 'sidecars', 'launchers'],
    ['launchers', 'sidecars', 'lists', 'measured', 'gpus'],
    ['sidecars', 'gpus', 'launchers', 'measured', 'lists'],
    ['lists', 'launchers', 'gpus', 'measured', 'sidecars'],
  ] as const;

  it.each(orders)('knows who is awake, whatever it hears first: %s, %s, %s, %s, %s', (...order) => {
    const node = rivals().restartAgent();
    for (const part of order) {
      parts[part](node);
      node.pass(100);
    }
    node.send({ type: 'settled' });
    node.pass(1_000);
    expect([node.phase('a'), node.phase('b')]).toEqual(['asleep', 'serving']);
    expect([node.told('a')?.state, node.told('b')?.state]).toEqual(['SLEEPING', 'SERVING']);
    expect(node.sent('sleep-engine').concat(node.sent('wake-engine'), node.sent('grant'))).toEqual([]);
    node.demand('a', 0, 1);
    node.pass(2_000);
    expect(node.phase('a')).toBe('serving');
  });

  it('begins nothing before the start has settled', () => {
    const node = rivals().restartAgent();
    for (const part of Object.values(parts)) part(node);
    node.demand('a', 0, 1);
    node.pass(10_000);
    expect(
      node.sent('barrier').concat(node.sent('wake-engine'), node.sent('sleep-engine'), node.sent('tell')),
    ).toEqual([]);
    node.send({ type: 'settled' });
    node.pass(2_000);
    expect(node.phase('a')).toBe('serving');
  });

  it('goes on above the epochs it finds', () => {
    const node = rivals();
    const before = node.told('b')!.epoch;
    node.restartAgent();
    for (const part of Object.values(parts)) part(node);
    node.send({ type: 'settled' });
    node.pass(1_000);
    expect(node.told('b')!.epoch).toBeGreaterThan(before);
  });

  it.each([
    { found: 'awake', told: 'SERVING' },
    { found: 'asleep', told: 'SLEEPING' },
  ] as const)('resolves a barrier that stands by what the engine is: $found', ({ found, told }) => {
    const node = rivals();
    node.demand('a', 0, 1);
    expect(node.phase('b')).toBe('draining');
    node.demands.get('a')!.queued = 0;
    node.restartAgent();
    if (found === 'asleep') Object.assign(node.engines.get('b')!, { state: 'asleep', bytes: 0.5 * GiB });
    for (const part of Object.values(parts)) part(node);
    node.send({ type: 'settled' });
    node.pass(1_000);
    expect(node.told('b')?.state).toBe(told);
  });

  it('wakes by preempting without an API server, on the word of sidecars and launchers', () => {
    const node = rivals().restartAgent();
    for (const part of ['gpus', 'measured', 'sidecars', 'launchers'] as const) parts[part](node);
    node.send({ type: 'settled' });
    node.pass(1_000);
    node.demand('a', 0, 1);
    node.pass(2_000);
    expect([node.phase('a'), node.phase('b')]).toEqual(['serving', 'asleep']);
  });

  it('boots without an API server only when its lists have not come for 10 s', () => {
    const node = rivals().restartAgent();
    for (const part of ['gpus', 'measured', 'sidecars'] as const) parts[part](node);
    Object.assign(node.engines.get('b')!, { state: 'none', bytes: 0 });
    node.hold('a');
    node.ask('b');
    node.send({ type: 'settled' });
    node.pass(9_900);
    expect(node.sent('grant')).toEqual([]);
    node.pass(1_000);
    expect(node.sent('grant')).toEqual(['b']);
  });

  it('does not wake one whose need nobody has told yet', () => {
    const node = rivals().restartAgent();
    for (const part of ['gpus', 'measured'] as const) parts[part](node);
    node.demands.get('a')!.queued = 1;
    node.attach('a');
    node.send({ type: 'settled' });
    node.pass(2_000);
    expect(node.sent('wake-engine')).toEqual([]);
  });

  it('takes a silent pod that was there before for one that may boot, for 5 s', () => {
    const node = new ScenarioNode(1)
      .start()
      .add('a', { gib: 10, bootMs: 2_000 })
      .booted('a')
      .add('new', { gib: 10 })
      .forget();
    node.restartAgent();
    node.sendGpus();
    node.measure();
    node.sendLists();
    node.attach('a');
    node.hold('a');
    node.send({ type: 'settled' });
    node.demands.get('a')!.idleSinceMs = -1e9;
    node.pod('a').settings.sleep.idleTimeoutMs = 1_000;
    node.sendLists();
    node.pass(4_900);
    expect(node.sent('sleep-engine')).toEqual([]);
  });
});

describe('settings that change', () => {
  it('hold at once', () => {
    const node = rivals();
    node.pass(20_000);
    node.pod('b').settings.sleep.idleTimeoutMs = 5_000;
    node.sendLists();
    node.pass(500);
    expect(node.phase('b')).toBe('asleep');
  });

  it('that pin a sleeper wake it, and its drain is called off', () => {
    const node = rivals();
    node.pod('b').settings.sleep.idleTimeoutMs = 1;
    node.sendLists();
    expect(node.phase('b')).toBe('draining');
    for (const binding of node.bindings.get('GPU-0')!) if (binding.model === 'b') binding.popular = true;
    node.sendLists();
    expect(node.phase('b')).toBe('serving');
  });

  it('that say popular count only when the binding says so', () => {
    const node = rivals();
    node.pod('b').settings.fairness.popular = true;
    node.sendLists();
    node.demand('a', 0, 1);
    node.pass(2_000);
    expect(node.phase('b')).toBe('asleep');
  });
});

describe('a sidecar that is away', () => {
  it('is not idle: only a waiter who may force gets its place, after drainTimeout', () => {
    const node = rivals();
    node.send({ type: 'detached', podUid: 'b' });
    node.demand('a', 0, 1);
    node.pass(4_900);
    expect(node.phase('b')).toBe('serving');
    node.pass(40_000);
    expect(node.phase('a')).toBe('serving');
  });

  it('and comes back during a drain gets the barrier again', () => {
    const node = rivals();
    node.demand('b', 1, 0);
    node.pass(30_000);
    node.demand('a', 0, 1);
    node.pass(6_000);
    expect(node.phase('b')).toBe('draining');
    node.send({ type: 'detached', podUid: 'b' });
    node.attach('b');
    expect(node.sent('barrier')).toEqual(['b', 'b']);
    node.demand('b', 0, 0);
    node.pass(2_000);
    expect(node.phase('a')).toBe('serving');
  });
});

describe('the end of a pod', () => {
  it('drains first: the sidecar is told, and its word releases the launcher', () => {
    const node = rivals();
    node.demand('b', 1, 0);
    node.send({ type: 'launcher-ending', podUid: 'b' });
    expect(node.lastOf('end', 'b')?.graceMs).toBe(50_000);
    node.pass(5_000);
    node.send({ type: 'sidecar-ending', podUid: 'b', drained: false });
    expect(node.sent('release-launcher')).toEqual([]);
    node.send({ type: 'sidecar-ending', podUid: 'b', drained: true });
    expect(node.sent('release-launcher')).toEqual(['b']);
  });

  it('wakes a frozen engine so that its streams finish, before others who wait', () => {
    const node = rivals();
    node.demand('b', 1, 0);
    node.pass(15_000);
    node.demand('a', 0, 1);
    node.pass(37_000);
    expect([node.phase('a'), node.phase('b')]).toEqual(['serving', 'asleep']);
    node.demand('a', 0, 0);
    node.send({ type: 'launcher-ending', podUid: 'b' });
    node.pass(2_000);
    expect(node.phase('b')).toBe('serving');
  });

  it('calls a drain off: it is leaving anyway', () => {
    const node = rivals();
    node.demand('b', 1, 0);
    node.pass(15_000);
    node.demand('a', 0, 1);
    node.pass(6_000);
    expect(node.phase('b')).toBe('draining');
    node.send({ type: 'launcher-ending', podUid: 'b' });
    expect(node.phase('b')).toBe('serving');
  });

  it.each([
    { who: 'a sidecar that never drains', away: false, atMs: 50_000 },
    { who: 'a sidecar that is away', away: true, atMs: 3_000 },
  ])('is not held up for ever by $who', ({ away, atMs }) => {
    const node = rivals();
    node.demand('b', 1, 0);
    if (away) node.send({ type: 'detached', podUid: 'b' });
    node.send({ type: 'launcher-ending', podUid: 'b' });
    node.pass(atMs - 1);
    expect(node.sent('release-launcher')).toEqual([]);
    node.pass(2);
    expect(node.sent('release-launcher')).toEqual(['b']);
  });

  it.each([
    { what: 'its pod was made with less', graceMs: 60_000, atMs: 50_000 },
    { what: 'it was deleted with little', graceMs: 6_000, atMs: 4_000 },
    { what: 'its pod has more than it needs', graceMs: 900_000, atMs: 620_000 },
  ])('comes before its grace is over, whatever drainTimeout says now: $what', ({ graceMs, atMs }) => {
    const node = rivals();
    node.demand('b', 1, 0);
    node.pod('b').graceMs = graceMs;
    node.pod('b').settings.sleep.drainTimeoutMs = 600_000;
    node.sendLists();
    node.send({ type: 'launcher-ending', podUid: 'b' });
    expect(node.lastOf('end', 'b')?.graceMs).toBe(atMs);
    node.pass(atMs - 1);
    expect(node.sent('release-launcher')).toEqual([]);
    node.pass(2);
    expect(node.sent('release-launcher')).toEqual(['b']);
  });

  it('without an engine is released at once', () => {
    const node = rivals().add('waits');
    node.send({ type: 'launcher-ending', podUid: 'waits' });
    expect(node.sent('release-launcher')).toEqual(['waits']);
  });

  it.each([
    { pod: 'without an engine', name: 'waits', releases: ['waits'] },
    { pod: 'with one', name: 'b', releases: [] },
  ])('that is deleted and whose launcher never heard so is released $pod alone', ({ name, releases }) => {
    const node = rivals().add('waits');
    node.pod(name).deleting = true;
    node.sendLists();
    node.pass(1_999);
    expect(node.sent('release-launcher')).toEqual([]);
    node.pass(10_000);
    expect(node.sent('release-launcher')).toEqual(releases);
  });

  it('that is deleted before its launcher ever spoke is told to its sidecar', () => {
    const node = rivals().add('waits');
    node.send({ type: 'launcher-gone', podUid: 'waits' });
    node.pod('waits').deleting = true;
    node.sendLists();
    node.pass(1_999);
    expect(node.sent('end')).toEqual([]);
    node.pass(1);
    expect(node.sent('end')).toEqual(['waits']);
  });

  it('waits for a boot beside it, 10 s at most', () => {
    const node = new ScenarioNode(1)
      .start()
      .add('a', { gib: 20 })
      .booted('a')
      .add('b', { gib: 20, bootMs: 60_000 });
    node.pass(1_000);
    node.send({ type: 'launcher-ending', podUid: 'a' });
    node.send({ type: 'sidecar-ending', podUid: 'a', drained: true });
    node.pass(9_999);
    expect(node.sent('release-launcher')).toEqual([]);
    node.pass(1);
    expect(node.sent('release-launcher')).toEqual(['a']);
  });

  it('frees its room when it is gone, and forgets it', () => {
    const node = rivals();
    node.pods = node.pods.filter(({ podUid }) => podUid !== 'b');
    node.engines.delete('b');
    node.send({ type: 'detached', podUid: 'b' });
    node.send({ type: 'launcher-gone', podUid: 'b' });
    node.sendLists();
    node.demand('a', 0, 1);
    node.pass(6_000);
    expect(node.phase('b')).toBeUndefined();
    expect(node.phase('a')).toBe('serving');
  });
});
