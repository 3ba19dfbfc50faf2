/** Where replicas go, what keeps them there, and what people are told when there is no place. */
import { describe, expect, it } from 'vitest';
import type { ModelSpecInput } from '../../../api/model.ts';
import { viewOf } from '../../../controller/decide/cluster-view.ts';
import { placeAll } from '../../../controller/decide/placement.ts';
import type { Memory } from '../../../controller/decide/snapshot.ts';
import { annotations, labels } from '../../../proto/names.ts';
import {
  agentPod,
  GiB,
  gpu,
  model,
  node,
  noMemory,
  noonMs,
  settings,
  snapshot,
  uuidOf,
  type World,
} from './builders.ts';

function place(world: World, memory: Memory = noMemory) {
  const view = viewOf(snapshot(world), memory, settings, noonMs);
  const places = placeAll(view);
  const of = (key: string) =>
    (places.get(key) ?? []).map(({ target, refusal, popular }) => ({
      gpus: target?.map(({ name }) => name) ?? null,
      refusal,
      popular,
    }));
  return { of, view };
}

const a40s = () => [gpu('n1', 0), gpu('n1', 1)];

describe('a new replica', () => {
  const cases: [string, World, Partial<ModelSpecInput>, string[]][] = [
    ['takes the first of two equal GPUs', { gpus: a40s() }, {}, ['gpu-n1-0']],
    [
      'takes the GPU with less promised on it',
      { gpus: [gpu('n1', 0, { bindings: [{ model: 'b' }] }), gpu('n1', 1)], models: [model('b')] },
      { vramPerGPU: '5Gi' },
      ['gpu-n1-1'],
    ],
    [
      'takes a Healthy GPU before a Degraded one',
      { gpus: [gpu('n1', 0, { health: 'Degraded' }), gpu('n1', 1)] },
      {},
      ['gpu-n1-1'],
    ],
    [
      'takes a Degraded GPU when there is no other',
      { gpus: [gpu('n1', 0, { health: 'Degraded' })] },
      {},
      ['gpu-n1-0'],
    ],
    [
      'finds its product by the GPU itself',
      { gpus: [gpu('n1', 0), gpu('n2', 0, { product: 'Tesla-T4' })] },
      { product: 'Tesla-T4' },
      ['gpu-n2-0'],
    ],
    [
      "finds its product by the node's label, shared or not",
      {
        gpus: [gpu('n1', 0, { product: '' })],
        nodes: [node('n1', { labels: { 'nvidia.com/gpu.product': 'NVIDIA-A40-SHARED' } })],
      },
      { product: 'NVIDIA-A40' },
      ['gpu-n1-0'],
    ],
    [
      'goes where the nodeSelector says',
      { gpus: [gpu('n1', 0), gpu('n2', 0)], nodes: [node('n1'), node('n2', { labels: { zone: 'b' } })] },
      { nodeSelector: { zone: 'b' } },
      ['gpu-n2-0'],
    ],
    [
      'goes to a tainted node that it tolerates',
      {
        gpus: [gpu('n1', 0)],
        nodes: [node('n1', { taints: [{ key: 'team', value: 'ml', effect: 'NoSchedule' }] })],
      },
      { tolerations: [{ key: 'team', value: 'ml' }] },
      ['gpu-n1-0'],
    ],
    [
      'takes tensor x pipeline GPUs of one node',
      { gpus: [gpu('n1', 0), gpu('n2', 0), gpu('n2', 1)] },
      { parallelism: { tensor: 2, pipeline: 1 } },
      ['gpu-n2-0', 'gpu-n2-1'],
    ],
    [
      'goes on with a placement that was cut short',
      { gpus: [gpu('n1', 0), gpu('n1', 1), gpu('n1', 2, { bindings: [{ reservedBytes: 1 }] })] },
      { parallelism: { tensor: 2, pipeline: 1 } },
      ['gpu-n1-0', 'gpu-n1-2'],
    ],
    [
      'shares a GPU with another model that needs all of it',
      { gpus: [gpu('n1', 0, { bindings: [{ model: 'b', reservedBytes: 43 * GiB }] })], models: [model('b')] },
      {},
      ['gpu-n1-0'],
    ],
  ];
  it.each(cases)('%s', (_name, world, spec, expected) => {
    const { of } = place({ ...world, models: [...(world.models ?? []), model('a', spec)] });
    expect(of('default/a')[0]).toMatchObject({ gpus: expected, refusal: null });
  });

  it('keeps away from its siblings, and joins one when there is no other GPU', () => {
    const { of } = place({ gpus: a40s(), models: [model('a', { replicas: 3, vramPerGPU: '10Gi' })] });
    expect(of('default/a').map(({ gpus }) => gpus)).toEqual([['gpu-n1-0'], ['gpu-n1-1'], ['gpu-n1-0']]);
  });

  it('is served in the order of age, whatever the names', () => {
    const { of } = place({
      gpus: [gpu('n1', 0)],
      models: [
        model('a', { fairness: { popular: true } }, { creationTimestamp: '2026-11-24T11:59:00Z' }),
        model('z', { fairness: { popular: true } }),
      ],
    });
    expect(of('default/z')[0]?.gpus).toEqual(['gpu-n1-0']);
    expect(of('default/a')[0]?.refusal?.reason).toBe('InsufficientVRAM');
  });
});

describe('a refusal', () => {
  const cases: [string, World, Partial<ModelSpecInput>, { reason: string; message: string }][] = [
    [
      'names every reason with its count, the nearest last',
      {
        gpus: [
          gpu('n1', 0),
          gpu('n1', 1),
          gpu('n2', 0, { product: 'Tesla-T4', health: 'Unhealthy', healthReason: 'Xid79' }),
          gpu('n2', 1, {
            product: 'Tesla-T4',
            totalBytes: 15 * GiB,
            bindings: [{ model: 'p', popular: true, reservedBytes: 5 * GiB }],
          }),
        ],
        models: [model('p', { product: 'Tesla-T4', vramPerGPU: '5Gi', fairness: { popular: true } })],
      },
      { product: 'Tesla-T4', vramPerGPU: '12Gi' },
      {
        reason: 'InsufficientVRAM',
        message:
          '0/4 GPUs fit: 2 have another product (NVIDIA-A40, want Tesla-T4), 1 is Unhealthy (Xid79), 1 has 10.0 GiB left beside popular models, needs 12.0 GiB',
      },
    ],
    [
      'says that there is no GPU at all',
      { gpus: [] },
      {},
      { reason: 'NoGPU', message: 'the cluster has no GPU resources: does an agent run on the GPU nodes?' },
    ],
    [
      'says that no node has enough GPUs',
      { gpus: [gpu('n1', 0), gpu('n2', 0)] },
      { parallelism: { tensor: 2 } },
      {
        reason: 'NotEnoughGPUs',
        message: '0/2 GPUs fit: 2 would fit, but a node has at most 1 such of the 2 that one replica needs',
      },
    ],
    [
      'says that the Model is larger than any GPU',
      { gpus: [gpu('n1', 0)] },
      { vramPerGPU: '80Gi' },
      { reason: 'InsufficientVRAM', message: '0/1 GPUs fit: 1 has 48.0 GiB in all, needs 80.0 GiB' },
    ],
    [
      'counts what sleepers were measured to leave behind',
      {
        gpus: [
          gpu('n1', 0, {
            bindings: [{ model: 'b', reservedBytes: GiB }],
            occupants: [{ model: 'b', state: 'asleep', residueBytes: 6 * GiB }],
          }),
        ],
        models: [model('b', { vramPerGPU: '1Gi' })],
      },
      { vramPerGPU: '43Gi' },
      {
        reason: 'InsufficientVRAM',
        message: '0/1 GPUs fit: 1 has 42.0 GiB left beside popular models, needs 43.0 GiB',
      },
    ],
    [
      'does not pin where another model could then never be awake',
      {
        gpus: [gpu('n1', 0, { bindings: [{ model: 'b', reservedBytes: 40 * GiB }] })],
        models: [model('b', { vramPerGPU: '40Gi' })],
      },
      { vramPerGPU: '10Gi', fairness: { popular: true } },
      {
        reason: 'InsufficientVRAM',
        message: '0/1 GPUs fit: 1 has 8.0 GiB left to pin beside the largest other model, needs 10.0 GiB',
      },
    ],
    [
      'counts the replicas that a GPU resource can hold',
      {
        gpus: [
          gpu('n1', 0, {
            bindings: Array.from({ length: 256 }, (_, replica) => ({ model: `m${replica}`, replica: 0 })),
          }),
        ],
        models: Array.from({ length: 256 }, (_, index) => model(`m${index}`, { vramPerGPU: 1 })),
      },
      { vramPerGPU: 1 },
      { reason: 'TooManyModels', message: '0/1 GPUs fit: 1 has 256 replicas bound already' },
    ],
    [
      'names a taint',
      { gpus: [gpu('n1', 0)], nodes: [node('n1', { taints: [{ key: 'team', effect: 'NoSchedule' }] })] },
      {},
      { reason: 'NodeTainted', message: '0/1 GPUs fit: 1 is on a node with the taint team' },
    ],
    [
      'names a cordon',
      { gpus: [gpu('n1', 0)], nodes: [node('n1', { unschedulable: true })] },
      {},
      { reason: 'NoReadyNode', message: '0/1 GPUs fit: 1 is on a node that is cordoned' },
    ],
    [
      'never takes an Unknown GPU',
      { gpus: [gpu('n1', 0, { health: 'Unknown', healthReason: 'DriverMismatch' })] },
      {},
      { reason: 'NoHealthyGPU', message: '0/1 GPUs fit: 1 is Unknown (DriverMismatch)' },
    ],
    [
      'does not guess a size that nobody told',
      { gpus: [gpu('n1', 0, { totalBytes: null })] },
      {},
      { reason: 'InsufficientVRAM', message: '0/1 GPUs fit: 1 has a size that is not known yet' },
    ],
    [
      'names a nodeSelector',
      { gpus: a40s() },
      { nodeSelector: { zone: 'x' } },
      { reason: 'NoMatchingNode', message: "0/2 GPUs fit: 2 are on nodes outside the Model's nodeSelector" },
    ],
  ];
  it.each(cases)('%s', (_name, world, spec, refusal) => {
    const late = { creationTimestamp: '2026-11-24T11:59:00Z' };
    const { of } = place({ ...world, models: [...(world.models ?? []), model('a', spec, late)] });
    expect(of('default/a')[0]).toMatchObject({ gpus: null, refusal });
  });

  it('comes from a silent agent too, once it has been silent for long enough', () => {
    const silent = (ms: number) => ({ ...noMemory, agentSilentSince: new Map([['n1', noonMs - ms]]) });
    const world = { gpus: [gpu('n1', 0)], ownPods: [agentPod('n1', false)], models: [model('a')] };
    expect(place(world, silent(9_999)).of('default/a')[0]?.gpus).toEqual(['gpu-n1-0']);
    expect(place(world, silent(10_000)).of('default/a')[0]?.refusal?.reason).toBe('NoReachableAgent');
  });

  it('lists no more than a dozen reasons', () => {
    const gpus = Array.from({ length: 20 }, (_, index) => gpu('n1', index, { product: `P${index}` }));
    const { of } = place({ gpus, models: [model('a', { product: 'T4' })] });
    expect(of('default/a')[0]?.refusal?.message).toMatch(/^0\/20 GPUs fit: .*, and 8 more reasons$/);
  });
});

describe('a replica that has its place', () => {
  const bound = (extra: object = {}) => ({ bindings: [{ model: 'a', reservedBytes: 43 * GiB, ...extra }] });
  const stays: [string, World, Partial<ModelSpecInput>, Memory?][] = [
    ['stays although another GPU is emptier', { gpus: [gpu('n1', 0), gpu('n1', 1, bound())] }, {}],
    [
      'stays on a GPU that became Degraded',
      { gpus: [gpu('n1', 0), gpu('n1', 1, { ...bound(), health: 'Degraded' })] },
      {},
    ],
    [
      'stays on a GPU that is Unknown',
      { gpus: [gpu('n1', 0), gpu('n1', 1, { ...bound(), health: 'Unknown' })] },
      {},
    ],
    [
      'stays on a cordoned node',
      {
        gpus: [gpu('n2', 0), gpu('n1', 1, bound())],
        nodes: [node('n2'), node('n1', { unschedulable: true })],
      },
      {},
    ],
    [
      'stays on a node that has been silent for a moment',
      { gpus: [gpu('n2', 0), gpu('n1', 1, bound())], nodes: [node('n2'), node('n1', { ready: false })] },
      {},
      { ...noMemory, nodeSilentSince: new Map([['n1', noonMs - 5_000]]) },
    ],
  ];
  it.each(stays)('%s', (_name, world, spec, memory) => {
    expect(place({ ...world, models: [model('a', spec)] }, memory).of('default/a')[0]).toMatchObject({
      gpus: ['gpu-n1-1'],
      refusal: null,
    });
  });

  const moves: [string, World, Partial<ModelSpecInput>, string[], Memory?][] = [
    [
      'leaves an Unhealthy GPU',
      { gpus: [gpu('n1', 0), gpu('n1', 1, { ...bound(), health: 'Unhealthy' })] },
      {},
      ['gpu-n1-0'],
    ],
    [
      'leaves a dead node',
      { gpus: [gpu('n1', 1, bound()), gpu('n2', 0)], nodes: [node('n2'), node('n1', { ready: false })] },
      {},
      ['gpu-n2-0'],
      { ...noMemory, nodeSilentSince: new Map([['n1', noonMs - 10_000]]) },
    ],
    [
      'leaves for another product',
      { gpus: [gpu('n1', 1, bound()), gpu('n2', 0, { product: 'Tesla-T4' })] },
      { product: 'Tesla-T4' },
      ['gpu-n2-0'],
    ],
    [
      'leaves for another nodeSelector',
      {
        gpus: [gpu('n1', 1, bound()), gpu('n2', 0)],
        nodes: [node('n1'), node('n2', { labels: { zone: 'b' } })],
      },
      { nodeSelector: { zone: 'b' } },
      ['gpu-n2-0'],
    ],
    [
      'leaves when it wants more GPUs',
      { gpus: [gpu('n1', 0, bound()), gpu('n1', 1)] },
      { parallelism: { tensor: 2 } },
      ['gpu-n1-0', 'gpu-n1-1'],
    ],
    [
      'leaves a GPU whose index now means another one',
      { gpus: [gpu('n1', 1, bound({ uuid: 'GPU-old' })), gpu('n1', 0)] },
      {},
      ['gpu-n1-0'],
    ],
  ];
  it.each(moves)('%s', (_name, world, spec, expected, memory) => {
    expect(place({ ...world, models: [model('a', spec)] }, memory).of('default/a')[0]?.gpus).toEqual(
      expected,
    );
  });

  it('is found again by its pod when the GPU resource lost its bindings', () => {
    const pod = {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: {
        name: 'a-0-abcde',
        namespace: 'default',
        uid: 'uid-pod',
        labels: { [labels.model]: 'a', [labels.replica]: '0' },
        annotations: { [annotations.gpuUuids]: uuidOf('n1', 1) },
      },
      spec: { nodeName: 'n1' },
    };
    const { of, view } = place({ gpus: a40s(), models: [model('a')], pods: [pod] });
    expect(of('default/a')[0]?.gpus).toEqual(['gpu-n1-1']);
    expect([...view.byUuid.get(uuidOf('n1', 1))!.wanted.keys()]).toEqual(['default/a/0']);
  });

  it('reserves what was measured when that is more than the estimate', () => {
    const pod = {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: {
        name: 'a-0-abcde',
        namespace: 'default',
        uid: 'uid-pod',
        labels: { [labels.model]: 'a', [labels.replica]: '0' },
        annotations: { [annotations.gpuUuids]: uuidOf('n1', 0) },
      },
    };
    const gpus = [
      gpu('n1', 0, { occupants: [{ awakeBytes: 21 * GiB }], bindings: [{ reservedBytes: 20 * GiB }] }),
    ];
    const { view } = place({ gpus, models: [model('a', { vramPerGPU: '20Gi' })], pods: [pod] });
    expect(view.books[0]?.wanted.get('default/a/0')?.reservedBytes).toBe(21 * GiB);
  });

  it('is pinned later only where there is room, and told so until then', () => {
    const popular = { fairness: { popular: true }, vramPerGPU: '20Gi' };
    const world = (other: number) => ({
      gpus: [
        gpu('n1', 0, {
          bindings: [
            { model: 'a', reservedBytes: 20 * GiB },
            { model: 'b', reservedBytes: other * GiB },
          ],
        }),
      ],
      models: [model('a', popular), model('b', { vramPerGPU: `${other}Gi` })],
    });
    expect(place(world(28)).of('default/a')[0]).toEqual({ gpus: ['gpu-n1-0'], refusal: null, popular: true });
    expect(place(world(29)).of('default/a')[0]).toMatchObject({
      gpus: ['gpu-n1-0'],
      refusal: { reason: 'NoRoomToPin' },
      popular: false,
    });
  });

  it('that has no other place to go to says why, and keeps its binding while its pod lives', () => {
    const { of } = place({
      gpus: [gpu('n1', 0, { ...bound(), health: 'Unhealthy', healthReason: 'Xid79' })],
      models: [model('a')],
    });
    expect(of('default/a')[0]).toMatchObject({
      gpus: null,
      refusal: { reason: 'NoHealthyGPU', message: '0/1 GPUs fit: 1 is Unhealthy (Xid79)' },
    });
  });
});
