import { describe, expect, it } from 'vitest';
import { gpuStatus } from '#api/gpu.ts';
import { arbiter, ledgerView } from '../../../../agent/decide/arbiter/arbiter.ts';
import { GiB, ScenarioNode } from './node-with-models.ts';

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
