import { describe, expect, it } from 'vitest';
import { gpuStatus } from '#api/gpu.ts';
import { arbiter, ledgerView, occupants } from '../../../../agent/decide/arbiter/arbiter.ts';
import type { Replica } from '../../../../agent/decide/arbiter/state.ts';
import { GiB, ScenarioNode } from './node-with-models.ts';
import { gpu, replica, stateOf } from './pieces.ts';

const clock = (ms: number): string => new Date(1_700_000_000_000 + ms).toISOString();

describe('occupants', () => {
  it('are what GPU.status takes, in each state', () => {
    const node = new ScenarioNode(1).start().add('a', { bootMs: 2_000 });
    const seen = new Map<string, string>();
    const look = (): void => {
      const byGpu = arbiter.occupants(node.state, clock);
      gpuStatus.parse({ occupants: byGpu['GPU-0'] });
      for (const { model, state } of byGpu['GPU-0']!) seen.set(`${model} ${state}`, state);
    };
    look();
    node.booted('a').add('b', { bootMs: 2_000 });
    for (let ms = 0; ms < 8_000; ms += 10) {
      node.pass(10);
      look();
    }
    node.demand('b', 1, 0);
    node.pass(30_000);
    node.demand('a', 0, 1);
    for (let ms = 0; ms < 40_000; ms += 20) {
      node.pass(20);
      look();
    }
    expect([...new Set(seen.values())].sort()).toEqual([
      'asleep',
      'booting',
      'draining',
      'serving',
      'sleeping',
      'waiting',
      'waking',
    ]);
  });

  it('carry what was measured, since when it serves, and whether it ever did', () => {
    const node = new ScenarioNode(1)
      .start()
      .add('a', { gib: 20, residueGib: 0.5, bootMs: 2_000 })
      .booted('a');
    node.demand('a', 1, 0);
    const [occupant] = arbiter.occupants(node.state, clock)['GPU-0']!;
    expect(occupant).toMatchObject({
      model: 'a',
      podUid: 'a',
      state: 'serving',
      awakeBytes: 20 * GiB,
      popular: false,
      served: true,
    });
    expect(occupant?.becameServingAt).toMatch(/^2023-11-14T22:13:2/);
    expect(occupant?.residueBytes).toBeUndefined();
  });

  it('that failed say why', () => {
    const node = new ScenarioNode(1).start().add('a', { gib: 60 });
    expect(arbiter.occupants(node.state, clock)['GPU-0']![0]).toMatchObject({
      state: 'failed',
      message: expect.stringContaining('needs 60.0 GiB'),
    });
  });
});

describe('an occupant', () => {
  const waits = { inFlight: 0, queued: 1, oldestWaitMs: 1, idleMs: 0, requestsTotal: 1 };
  const failure = { reason: 'x', message: 'it failed', retryAtMs: null };
  const shown = (of: Partial<Replica>) => occupants(stateOf([gpu()], [replica('m', of)])).get('GPU-0')![0]!;

  it.each<{ of: Partial<Replica>; state: string }>([
    { of: { phase: 'absent' }, state: 'waiting' },
    { of: { phase: 'asking' }, state: 'waiting' },
    { of: { phase: 'restarting' }, state: 'waiting' },
    { of: { phase: 'booting' }, state: 'booting' },
    { of: { phase: 'serving' }, state: 'serving' },
    { of: { phase: 'draining' }, state: 'draining' },
    { of: { phase: 'sleeping' }, state: 'sleeping' },
    { of: { phase: 'freeing' }, state: 'sleeping' },
    { of: { phase: 'asleep' }, state: 'asleep' },
    { of: { phase: 'asleep', demand: waits }, state: 'waiting' },
    { of: { phase: 'serving', demand: waits }, state: 'serving' },
    { of: { phase: 'waking' }, state: 'waking' },
    { of: { phase: 'checking' }, state: 'asleep' },
    { of: { phase: 'checking', wakeFailures: 1 }, state: 'waking' },
    { of: { phase: 'asleep', failure }, state: 'failed' },
  ])('that is $of.phase is shown as $state', ({ of, state }) => {
    expect(shown(of).state).toBe(state);
  });

  it('says since when it serves, also while it drains, and only then', () => {
    for (const phase of ['serving', 'draining'] as const)
      expect(shown({ phase, becameServingAtMs: 7 }).becameServingAtMs).toBe(7);
    expect('becameServingAtMs' in shown({ phase: 'asleep', becameServingAtMs: 7 })).toBe(false);
  });

  it('has the figures that were measured, no others', () => {
    expect(shown({ awakeBytes: 7, residueBytes: 2 })).toMatchObject({ awakeBytes: 7, residueBytes: 2 });
    expect(Object.keys(shown({}))).not.toContain('awakeBytes');
    expect(Object.keys(shown({}))).not.toContain('residueBytes');
    expect(Object.keys(shown({}))).not.toContain('message');
  });

  it('says what failed, with its last words, or why it is restarted; no more than the resource takes', () => {
    const mustRestart = { reason: 'ResidueKept', message: 'it keeps 3 GiB' };
    expect(shown({ failure }).message).toBe('it failed');
    expect(shown({ failure: { ...failure, words: 'no such dtype' } }).message).toBe(
      'it failed: no such dtype',
    );
    expect(shown({ mustRestart }).message).toBe('it keeps 3 GiB');
    expect(shown({ mustRestart, failure }).message).toBe('it failed');
    expect(shown({ failure: { ...failure, message: 'x'.repeat(5_000) } }).message).toHaveLength(1_024);
  });

  it('is listed on each of its GPUs in the order of UIDs, once it has a name', () => {
    const both = ['GPU-0', 'GPU-1', 'GPU-9'];
    const replicas = [
      replica('b', { uuids: both }),
      replica('a', { uuids: both }),
      replica('c', { key: '' }),
      replica('0', { uuids: ['GPU-1'] }),
    ];
    const seen = occupants(stateOf([gpu(), gpu({ uuid: 'GPU-1' }), gpu({ uuid: 'GPU-2' })], replicas));
    const uids = [...seen].map(([uuid, list]) => [uuid, list.map(({ podUid }) => podUid)]);
    expect(uids).toEqual([
      ['GPU-0', ['a', 'b']],
      ['GPU-1', ['0', 'a', 'b']],
      ['GPU-2', []],
    ]);
  });
});

describe('the ledger as it is shown', () => {
  it('adds up to the capacity', () => {
    const node = new ScenarioNode(1)
      .start()
      .add('a', { gib: 30, bootMs: 2_000 })
      .booted('a')
      .add('b', { gib: 30, bootMs: 2_000 })
      .booted('b');
    node.strangerGib[0] = 3;
    node.measure();
    const [view] = ledgerView(node.state);
    expect(view).toMatchObject({ capacityBytes: 48 * GiB, residueBytes: 0.5 * GiB, foreignBytes: 3 * GiB });
    expect(view!.reservedBytes + view!.residueBytes + view!.foreignBytes + view!.roomBytes).toBe(48 * GiB);
  });
});

describe('the state that the agent begins with', () => {
  it('knows when that was, and nobody', () => {
    const state = arbiter.initial(7);
    expect([state.startedAtMs, state.nowMs, state.replicas.size, state.gpus.size]).toEqual([7, 7, 0, 0]);
    expect(arbiter.occupants(state, clock)).toEqual({});
  });
});
