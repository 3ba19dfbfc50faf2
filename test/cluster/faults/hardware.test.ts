/** Nodes die, GPUs turn ill, resources are deleted, strangers come. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  applyModel,
  chartNamespace,
  clearViolations,
  cluster,
  conditionOf,
  deleteModels,
  type GpuObject,
  gpus,
  kubectl,
  until,
  untilModel,
  untilPhase,
  violations,
} from '../harness/cluster.ts';
import { ask, lost, send } from './asking.ts';
import { closeShells, inShell } from './node-shell.ts';
import {
  atEdge,
  deploy,
  gpuOf,
  healGpu,
  ipOf,
  node,
  onT4,
  slowEngines,
  statusAt,
  untilBooksAgree,
  untilStatus,
  upstream,
} from './stage.ts';

const everyGpu = [
  ['n1', 0],
  ['n1', 1],
  [node, 0],
] as const;

beforeAll(clearViolations);
afterEach(async () => {
  for (const [name, index] of everyGpu) await healGpu(name, index);
  await deleteModels('red', 'blue', 'green');
});
afterAll(closeShells);

const untilGpu = (nodeName: string, index: number, what: string, holds: (gpu: GpuObject) => boolean) =>
  until(`GPU ${index} of ${nodeName} ${what}`, async () => {
    const gpu = await gpuOf(nodeName, index);
    return holds(gpu) ? gpu : null;
  });

const servesAtEdge = (name: string) =>
  until(`${name} serves at the edge`, async () => lost(await ask(atEdge(name))) === null);

describe('a node that dies', () => {
  afterEach(async () => {
    closeShells();
    await cluster('node-start', node);
    await untilGpu(node, 0, 'is Healthy', ({ status }) => status?.health === 'Healthy');
  });

  it('gives its Model to a node where it fits, and is well again when it is back', async () => {
    await slowEngines(node, 0, { bootSeconds: 1 });
    // Not the product but nothing else makes it land there first.
    await deploy({ red: { ...onT4(), vramPerGPU: '4Gi' } });
    await applyModel('red', { ...onT4(), vramPerGPU: '4Gi', product: '' });
    await untilModel(
      'red',
      'stays where it is',
      ({ metadata, status }) => status?.observedGeneration === metadata.generation,
    );
    await untilPhase('red', ['Ready', 'Serving', 'Sleeping']);
    const { status } = await untilModel('red', 'is on a node', (model) => model.status?.node !== undefined);
    expect(status?.node).toBe(node);

    closeShells();
    await cluster('node-stop', node);
    const silent = await untilGpu(
      node,
      0,
      'is Unknown',
      (gpu) => gpu.status?.health === 'Unknown' && conditionOf(gpu, 'AgentReachable')?.status === 'False',
    );
    expect(conditionOf(silent, 'AgentReachable')?.message).not.toBe('');
    await untilModel('red', 'has moved', (model) => model.status?.node === 'n1');
    await untilPhase('red', ['Ready', 'Serving', 'Sleeping']);
    await servesAtEdge('red');

    await cluster('node-start', node);
    await untilGpu(
      node,
      0,
      'is Healthy',
      (gpu) => gpu.status?.health === 'Healthy' && conditionOf(gpu, 'AgentReachable')?.status === 'True',
    );
    expect(lost(await ask(atEdge('red')))).toBe(null);
  });
});

describe('a GPU that turns ill', () => {
  it.each([
    { name: 'falls off the bus', fault: 'fault=lost' },
    { name: 'asks for a reset', fault: 'recoveryAction=Reset' },
  ])('and $name gets nothing new, its Model moves, and it heals', async ({ fault }) => {
    for (const index of [0, 1]) await slowEngines('n1', index, { bootSeconds: 1 });
    const spec = { modelName: upstream, product: 'NVIDIA-A40', vramPerGPU: '6Gi' };
    await deploy({ red: spec });
    const placed = await untilModel('red', 'is on a GPU', ({ status }) => status?.gpus !== undefined);
    const ill = Number(placed.status!.gpus);
    const other = 1 - ill;
    await inShell('n1', `gpu-sim-set ${ill} ${fault}`);
    await untilGpu('n1', ill, 'is Unhealthy and says why', ({ status }) => {
      return status?.health === 'Unhealthy' && (status.healthReason ?? '') !== '';
    });
    await applyModel('green', spec);
    await untilModel('red', 'has moved', ({ status }) => status?.gpus === String(other));
    await untilModel('green', 'is placed', ({ status }) => status?.gpus === String(other));
    await untilPhase('red', ['Ready', 'Serving', 'Sleeping']);
    await untilPhase('green', ['Ready', 'Serving', 'Sleeping']);
    await servesAtEdge('red');
    await servesAtEdge('green');
    await untilGpu('n1', ill, 'has no binding of theirs', ({ spec }) =>
      (spec.bindings ?? []).every(({ model }) => !['red', 'green'].includes(model)),
    );
    await healGpu('n1', ill);
    await untilGpu('n1', ill, 'is Healthy', ({ status }) => status?.health === 'Healthy');
    await untilBooksAgree('n1', other);
  });
});

describe('a GPU resource deleted by hand', () => {
  const scale = (replicas: number) =>
    kubectl('-n', chartNamespace, 'scale', 'deployment/greenthread-controller', `--replicas=${replicas}`);
  afterEach(async () => {
    await scale(2);
    await kubectl('-n', chartNamespace, 'rollout', 'status', 'deployment/greenthread-controller');
  });

  it('comes back with its bindings, and until then nothing there sleeps and nothing new starts', async () => {
    await slowEngines(node, 0, { bootSeconds: 1 });
    await deploy({ red: onT4({ sleep: { idleTimeout: '8s' } }), blue: onT4() });
    // The one that rebuilds bindings is away, so that the time without them lasts.
    await scale(0);
    expect(lost(await ask(atEdge('red')))).toBe(null);
    const ips = { red: await ipOf('red'), blue: await ipOf('blue') };
    const before = await gpuOf(node);
    await kubectl('delete', 'gpu', before.metadata.name);
    await until('the agent has made it again', async () => {
      const now = await gpuOf(node);
      return now.metadata.uid !== before.metadata.uid;
    });
    const waiting = send(atEdge('blue'));
    await untilStatus(ips.blue, 'has it in its queue', ({ queued }) => queued === 1);
    // Longer than red's idleTimeout; it would be asleep by then, and blue would have its room.
    await new Promise((resolve) => setTimeout(resolve, 10_000));
    expect((await statusAt(ips.red)).state).toBe('serving');
    expect((await gpuOf(node)).spec.bindings ?? []).toEqual([]);
    await scale(2);
    await untilGpu(node, 0, 'has its bindings', ({ spec }) => {
      const models = (spec.bindings ?? []).map(({ model }) => model);
      return ['red', 'blue'].every((model) => models.includes(model));
    });
    expect(lost(await waiting.answer)).toBe(null);
    await untilStatus(ips.red, 'sleeps', ({ state }) => state === 'sleeping');
    expect(await violations()).toEqual([]);
  });
});

describe('a stranger that takes VRAM', () => {
  it('makes a wake wait, which says so, until it leaves', async () => {
    await slowEngines(node, 0, { bootSeconds: 1 });
    await deploy({ red: onT4({ sleep: { idleTimeout: '500ms' } }) });
    const ip = await ipOf('red');
    await untilStatus(ip, 'sleeps', ({ state }) => state === 'sleeping');
    const { spec } = await gpuOf(node);
    const held = 9_000;
    const pid = Number(await inShell(node, `gpu-sim-hold ${spec.uuid} ${held} >/dev/null 2>&1 & echo $!`));
    try {
      await untilGpu(node, 0, "shows the stranger's bytes as used", ({ status }) => {
        return (status?.memory?.usedBytes ?? 0) >= held * 2 ** 20;
      });
      const waiting = send(atEdge('red'));
      const status = await untilStatus(ip, 'waits and says why', ({ state, reason, queued }) => {
        return state === 'pending' && queued === 1 && (reason ?? '') !== '';
      });
      console.log(`a wake that waits for a stranger says: ${status.reason}: ${status.message}`);
      expect(status.message).not.toBe('');
      await inShell(node, `kill ${pid}`);
      expect(lost(await waiting.answer)).toBe(null);
    } finally {
      await inShell(node, `kill ${pid} 2>/dev/null || true`);
    }
    expect(await violations()).toEqual([]);
    expect((await gpus()).length).toBe(everyGpu.length);
  });
});
