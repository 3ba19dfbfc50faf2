import { afterEach, describe, expect, it, vi } from 'vitest';
import type { GpuMeasurement, Probe } from '../../../../agent/decide/facts.ts';
import { gpuManifest } from '../../../../agent/decide/gpu-resources.ts';
import { createNodeGpus } from '../../../../agent/node-gpus.ts';
import { startProbing } from '../../../../agent/observe/nvidia-smi/probing.ts';
import { identityOnly, parseQuery } from '../../../../agent/observe/nvidia-smi/xml.ts';
import { createLog } from '../../../../platform/log.ts';
import { fixture } from './fake-nvidia-smi.ts';

const t4 = { ...parseQuery(fixture('tesla-t4.xml')).gpus[0]!, uuid: 'GPU-a' };
const other = { ...t4, uuid: 'GPU-b', index: 1, busId: '00000000:02:00.0' };
const seen = (gpus = [t4, other], faults: Probe['faults'] = []): Probe => ({ startedAtMs: 0, gpus, faults });
const measured = (...uuids: string[]): GpuMeasurement[] =>
  uuids.map((uuid) => ({ uuid, totalBytes: 10, usedBytes: 3, freeBytes: 7, byPod: {}, foreignBytes: 0 }));
const mismatch = { reason: 'DriverMismatch', message: 'why', busId: null };

describe('the picture of the node’s GPUs', () => {
  it('wants no resource before it knows which there are', () => {
    const gpus = createNodeGpus('n1');
    expect(gpus.desired()).toBeNull();
    gpus.probed(seen());
    expect(gpus.desired()).toBeNull();
    expect(gpus.view()!.desired).toHaveLength(2);
    gpus.listed([]);
    expect(gpus.desired()!.map(({ name }) => name)).toEqual(['gpu-n1-0', 'gpu-n1-1']);
  });

  it('asks for a probe when a resource is of a GPU that none has told of', () => {
    const gpus = createNodeGpus('n1');
    gpus.probed(seen([t4]));
    gpus.listed([]);
    const known = gpus.desired()!.map((gpu) => gpuManifest(gpu, null));
    expect(gpus.listed(known).unsettled).toBe(false);
    const gone = {
      ...known[0]!,
      metadata: { name: 'gpu-n1-7' },
      spec: { nodeName: 'n1', index: 7, uuid: 'GPU-z' },
    };
    expect(gpus.listed([...known, gone]).unsettled).toBe(true);
    expect(gpus.desired()![1]!.status).toMatchObject({ health: 'Unknown', healthReason: 'NotProbed' });
    gpus.probed(seen([t4]));
    gpus.probed(seen([t4]));
    expect(gpus.desired()![1]!.status).toMatchObject({ health: 'Unhealthy', healthReason: 'Missing' });
  });

  it('asks for a probe when other GPUs are measured than before, not when a measurement fails', () => {
    const gpus = createNodeGpus('n1');
    expect(gpus.measured(measured('GPU-a', 'GPU-b')).changed).toBe(false);
    expect(gpus.measured(null).changed).toBe(false);
    expect(gpus.measured(measured('GPU-b', 'GPU-a')).changed).toBe(false);
    expect(gpus.measured(measured('GPU-b')).changed).toBe(true);
    expect(gpus.measured(measured('GPU-b')).changed).toBe(false);
  });

  it('keeps the arbiter’s GPUs through a probe that fails, and takes them away when it fails again', () => {
    const gpus = createNodeGpus('n1');
    gpus.probed(seen());
    const facts = [
      { uuid: 'GPU-a', index: 0, totalBytes: 15360 * 2 ** 20, usable: true },
      { uuid: 'GPU-b', index: 1, totalBytes: 15360 * 2 ** 20, usable: true },
    ];
    expect(gpus.facts()).toEqual(facts);
    expect(gpus.probed(seen([], [mismatch])).unsettled).toBe(true);
    expect(gpus.facts()).toEqual(facts);
    gpus.probed(seen([], [mismatch]));
    expect(gpus.facts()).toEqual(facts.map((fact) => ({ ...fact, usable: false })));
  });

  it('tells XIDs by GPU, and asks for a probe when a board reports a new one', () => {
    const gpus = createNodeGpus('n1');
    gpus.probed(seen());
    const line = 'NVRM: Xid (PCI:0000:02:00): 48, pid=7, name=python3, DBE';
    expect([line, 'usb 1-1: new device', line].map((text) => gpus.logged(text).changed)).toEqual([
      true,
      false,
      false,
    ]);
    expect(gpus.view()!.xids).toEqual([{ uuid: 'GPU-b', xid: 48, count: 2 }]);
    gpus.listed([]);
    // The T4's driver gives no advice of its own.
    gpus.probed(seen());
    expect(gpus.desired()!.map(({ status }) => status.healthReason)).toEqual([undefined, 'FatalXid']);
  });

  it('leaves out a GPU whose memory was never read', () => {
    const gpus = createNodeGpus('n1');
    gpus.probed(seen([t4, identityOnly({ uuid: 'GPU-x', index: 1, name: '', busId: null })]));
    expect(gpus.facts().map(({ uuid }) => uuid)).toEqual(['GPU-a']);
  });

  it('publishes the probe’s memory only while nothing newer was measured, and none that is stale', () => {
    const gpus = createNodeGpus('n1');
    gpus.listed([]);
    gpus.probed(seen([t4]));
    gpus.measured(measured('GPU-a'));
    expect(gpus.desired()![0]!.status.memory!.freeBytes).toBe(7);
    gpus.listed(gpus.desired()!.map((gpu) => gpuManifest(gpu, null)));
    gpus.measured(null);
    gpus.probed(seen([], [mismatch]));
    expect(gpus.desired()![0]!.status).not.toHaveProperty('memory');
  });
});

describe('probing', () => {
  afterEach(() => {
    vi.useRealTimers();
  });
  /** Counts probes against a clock of our own. */
  function probing(unsettled: () => boolean) {
    vi.useFakeTimers();
    let count = 0;
    const loop = startProbing(
      async () => {
        count += 1;
        return seen();
      },
      () => ({ unsettled: unsettled() }),
      createLog('agent', 'error', () => undefined),
    );
    return { loop, count: () => count };
  }

  it('begins at once and goes on in rounds', async () => {
    const { loop, count } = probing(() => false);
    await vi.advanceTimersByTimeAsync(29_000);
    expect(count()).toBe(1);
    await vi.advanceTimersByTimeAsync(2_000);
    expect(count()).toBe(2);
    loop.stop();
    await vi.advanceTimersByTimeAsync(120_000);
    expect(count()).toBe(2);
  });

  it('comes soon again while something is unsettled', async () => {
    let unsettled = true;
    const { loop, count } = probing(() => unsettled);
    await vi.advanceTimersByTimeAsync(2_500);
    expect(count()).toBe(2);
    unsettled = false;
    await vi.advanceTimersByTimeAsync(12_000);
    expect(count()).toBe(3);
    loop.stop();
  });

  it('comes at once when asked for', async () => {
    const { loop, count } = probing(() => false);
    await vi.advanceTimersByTimeAsync(1_000);
    loop.ask();
    loop.ask();
    await vi.advanceTimersByTimeAsync(10);
    expect(count()).toBe(2);
    loop.stop();
  });
});
