/** Small builders of what the API server would hold, each with the defaults it would fill in. */
import type { GpuBinding, GpuOccupant } from '../../../api/gpu.ts';
import { type ModelSpecInput, modelSpec } from '../../../api/model.ts';
import type { Gpu, Job, Model, Node, Pod } from '../../../controller/decide/kubernetes.ts';
import { keyOf } from '../../../controller/decide/kubernetes.ts';
import { plan } from '../../../controller/decide/plan.ts';
import type { ControllerSettings } from '../../../controller/decide/settings.ts';
import type { Memory, Snapshot } from '../../../controller/decide/snapshot.ts';
import { finalizer, labels } from '../../../proto/names.ts';

export const GiB = 2 ** 30;
export const MiB = 2 ** 20;
/** 2026-11-24T12:00:00Z */
export const noonMs = Date.parse('2026-11-24T12:00:00Z');
export const at = (secondsBeforeNoon: number): string =>
  new Date(noonMs - secondsBeforeNoon * 1000).toISOString().replace('.000Z', 'Z');

export const settings: ControllerSettings = {
  namespace: 'greenthread',
  image: 'localhost/greenthread:1',
  imagePullPolicy: 'IfNotPresent',
  vllmImage: 'localhost/vllm:1',
  imagePullSecrets: [],
  runtimeClassName: 'nvidia',
  modelsPath: '/mnt/models',
  keepFreePercent: 11,
  tolerations: [{ key: 'nvidia.com/gpu', operator: 'Exists' }],
  route: { kind: 'ingress', className: 'edge', host: '', annotations: {}, scheme: 'http' },
  huggingFace: { endpoint: '', secretName: 'greenthread-huggingface', tokenVersion: '7' },
  wayOut: { proxy: '', noProxy: '', caConfigMap: '' },
  progress: { configMap: 'greenthread-progress', serviceAccount: 'greenthread-fetch' },
  silentAfterMs: 10_000,
};

export const noMemory: Memory = {
  nodeSilentSince: new Map(),
  agentSilentSince: new Map(),
  refusals: new Map(),
  engineFailures: new Map(),
};

export function model(
  name: string,
  spec: Partial<ModelSpecInput> = {},
  metadata: Partial<Model['metadata']> & { status?: Model['status'] } = {},
): Model {
  const { status, ...rest } = metadata;
  const namespace = rest.namespace ?? 'default';
  return {
    apiVersion: 'greenthread.ai/v1alpha1',
    kind: 'Model',
    metadata: {
      name,
      namespace,
      uid: `uid-${namespace}-${name}`,
      generation: 1,
      resourceVersion: '1',
      creationTimestamp: at(600),
      finalizers: [finalizer],
      ...rest,
    },
    spec: modelSpec.parse({ modelName: `org/${name}`, ...spec }),
    ...(status && { status }),
  };
}

export interface GpuOptions {
  product?: string;
  totalBytes?: number | null;
  health?: 'Healthy' | 'Degraded' | 'Unhealthy' | 'Unknown';
  healthReason?: string;
  bindings?: Partial<GpuBinding>[];
  occupants?: Partial<GpuOccupant>[];
  reachable?: boolean | null;
}

export const uuidOf = (node: string, index: number): string => `GPU-${node}-${index}`;

export function gpu(node: string, index: number, options: GpuOptions = {}): Gpu {
  const { totalBytes = 48 * GiB, reachable = true } = options;
  return {
    apiVersion: 'greenthread.ai/v1alpha1',
    kind: 'GPU',
    metadata: { name: `gpu-${node}-${index}`, uid: `uid-gpu-${node}-${index}`, resourceVersion: '1' },
    spec: {
      nodeName: node,
      index,
      uuid: uuidOf(node, index),
      ...(options.bindings && {
        bindings: options.bindings.map((binding) => ({
          namespace: 'default',
          model: 'a',
          replica: 0,
          uuid: uuidOf(node, index),
          reservedBytes: 10 * GiB,
          popular: false,
          ...binding,
        })),
      }),
    },
    status: {
      product: options.product ?? 'NVIDIA-A40',
      uuid: uuidOf(node, index),
      health: options.health ?? 'Healthy',
      healthReason: options.healthReason ?? '',
      memory: totalBytes === null ? {} : { totalBytes, freeBytes: totalBytes, usedBytes: 0 },
      occupants: (options.occupants ?? []).map((occupant) => ({
        namespace: 'default',
        model: 'a',
        replica: 0,
        pod: 'a-0-xxxxx',
        podUid: 'uid-pod',
        state: 'serving' as const,
        popular: false,
        ...occupant,
      })),
      conditions:
        reachable === null
          ? []
          : [
              {
                type: 'AgentReachable',
                status: reachable ? ('True' as const) : ('False' as const),
                reason: reachable ? 'AgentReady' : 'AgentNotReady',
                message: '',
                lastTransitionTime: at(3600),
              },
            ],
    },
  };
}

export function node(
  name: string,
  options: Partial<NonNullable<Node['spec']>> & { ready?: boolean; labels?: Record<string, string> } = {},
): Node {
  const { ready = true, labels: given = {}, ...spec } = options;
  return {
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { name, labels: given },
    spec,
    status: { conditions: [{ type: 'Ready', status: ready ? 'True' : 'Unknown' }] },
  };
}

export const agentPod = (nodeName: string, ready = true): Pod => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: {
    name: `agent-${nodeName}`,
    namespace: 'greenthread',
    uid: `uid-agent-${nodeName}`,
    labels: { [labels.component]: 'agent' },
  },
  spec: { nodeName },
  status: { phase: 'Running', conditions: [{ type: 'Ready', status: ready ? 'True' : 'False' }] },
});

export interface World {
  models?: Model[];
  gpus?: Gpu[];
  nodes?: Node[];
  pods?: Pod[];
  ownPods?: Pod[];
  jobs?: Job[];
}

const byKey = <T extends Parameters<typeof keyOf>[0]>(objects: T[] = []): Map<string, T> =>
  new Map(objects.map((object) => [keyOf(object), object]));

/** A snapshot; nodes and ready agents follow from the GPUs where they are not given. */
export function snapshot(world: World): Snapshot {
  const names = [...new Set((world.gpus ?? []).map(({ spec }) => spec.nodeName))];
  return {
    models: byKey(world.models),
    gpus: byKey(world.gpus),
    nodes: byKey(world.nodes ?? names.map((name) => node(name))),
    pods: byKey(world.pods),
    ownPods: byKey(world.ownPods ?? names.map((name) => agentPod(name))),
    jobs: byKey(world.jobs),
    services: new Map(),
    routes: new Map(),
    progress: new Map(),
  };
}

export const planOf = (world: World, memory: Memory = noMemory, given = settings) =>
  plan(snapshot(world), memory, given, noonMs);
