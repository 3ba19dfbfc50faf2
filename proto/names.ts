/** Names that more than one program must agree on: labels, annotations, objects, paths and ports. */
import { createHash } from 'node:crypto';

export const labels = {
  /** `greenthread.ai/model=<name>`: on pods, Service, route and fetch Job. */
  model: 'greenthread.ai/model',
  replica: 'greenthread.ai/replica',
  /** The Model's namespace, on what lives in the chart's namespace. */
  modelNamespace: 'greenthread.ai/model-namespace',
  component: 'app.kubernetes.io/component',
  partOf: 'app.kubernetes.io/part-of',
  managedBy: 'app.kubernetes.io/managed-by',
} as const;

export const annotations = {
  /** JSON of proto/settings.ts: what may change while the pod lives. */
  settings: 'greenthread.ai/settings',
  /** GPU indices for people; the pod itself reads UUIDs from its environment. */
  gpus: 'greenthread.ai/gpus',
  /** GPU UUIDs, comma-separated: a grant needs this and the binding to agree. */
  gpuUuids: 'greenthread.ai/gpu-uuids',
  /** Hash of all that a running pod cannot change. */
  podHash: 'greenthread.ai/pod-hash',
  /** Hash of what decides an engine's VRAM, for measurements kept on disk. */
  engineHash: 'greenthread.ai/engine-hash',
  /** Bytes per GPU that the engine takes awake, as the controller last knew. */
  vramBytes: 'greenthread.ai/vram-bytes',
  /** Folder of the gthread form that the engine loads, below the models path: `org--name/<commit>.gthread-1`. */
  weights: 'greenthread.ai/weights',
  /** Folder of the upstream files that the engine loads, below the models path: `org--name/<commit>`. */
  files: 'greenthread.ai/files',
  /** `true`: these weights stay in host memory (spec.staging.pinned). */
  weightsPinned: 'greenthread.ai/weights-pinned',
} as const;

/** As api/crd.ts has it, for programs that have no room for the schema library that api/ brings. */
export const apiVersion = 'greenthread.ai/v1alpha1';

export const finalizer = 'greenthread.ai/cleanup';

/** Server-side-apply field managers, one per writer. */
export const fieldManagers = {
  controller: 'greenthread-controller',
  agent: 'greenthread-agent',
} as const;

/** First 10 characters of a sha256 in base 36: short enough for a name, long enough not to meet twice. */
export function shortHash(text: string): string {
  return BigInt(`0x${createHash('sha256').update(text).digest('hex')}`)
    .toString(36)
    .slice(0, 10);
}

/**
 * The folder of the node's images that pods of one namespace share with each other and with nobody else (docs/weights.md): the agent
 * links into it by the namespace that the API server gives, the plug-in of the pod reads it. 160 bits, as the engine hash may be chosen.
 */
export const imagesFolder = (namespace: string, engineHash: string): string =>
  createHash('sha256').update(`${namespace}\n${engineHash}`).digest('hex').slice(0, 40);

export const serviceName = (model: string): string => `gt-${model}`;
/** A replica's pod; `hash` keeps an old and a new one apart while one rolls. */
export const podName = (model: string, replica: number, hash: string): string =>
  `${model}-${replica}-${hash.slice(0, 5)}`;
/** As in api/gpu.ts, whose rule over names follows this; test/unit/agent/gpu-resources.test.ts holds them together. */
const gpuNodePrefixMax = 220;
/**
 * `gpu-<node>-<index>`: a DNS-1123 subdomain of at most 253 characters. A node's name may be that long itself: then it is
 * cut and a hash of the whole follows without a dash, so that the cut may fall anywhere, after a dot too.
 */
export function gpuName(node: string, index: number): string {
  const part = node.length <= gpuNodePrefixMax ? node : node.slice(0, gpuNodePrefixMax) + shortHash(node);
  return `gpu-${part}-${index}`;
}

/** Where a pod's three sockets lie. */
export const sockets = { agent: 'agent.sock', grant: 'grant.sock', engine: 'engine.sock' } as const;

export const paths = {
  /** On the node: one directory per model pod, named by its UID. */
  podsOnNode: '/run/greenthread/pods',
  /** Inside a model pod: that directory. */
  podInside: '/run/greenthread/pod',
  /** On the node and in pods alike: weights. */
  models: '/mnt/models',
  /** On the node, a tmpfs: staged weights and engines' images (docs/weights.md). */
  poolOnNode: '/dev/shm/greenthread',
  /** Inside an engine's container: the pool, read-only, and the pod's own folder of it, writable. */
  poolInside: '/run/greenthread/pool',
  imageInside: '/run/greenthread/image',
  /** In the engine's container: launcher and plug-in, put there by an init container. */
  launcherInside: '/greenthread',
} as const;

export const ports = {
  /** The sidecar's front door; the Service maps 80 to it. */
  frontDoor: 8000,
  agentMetrics: 9401,
  controllerMetrics: 9402,
} as const;

/** Folder of one upstream revision's files under the models path: `org--name/<commit>`. */
export const modelFolder = (modelName: string): string => modelName.replaceAll('/', '--');
