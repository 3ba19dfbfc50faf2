/** The snapshot, indexed once for a plan: who is where, and what each GPU is to carry. */
import type { GpuBinding, GpuOccupant } from '#api/gpu.ts';
import type { KubernetesObject } from '#platform/kubernetes/client.ts';
import { annotations, labels } from '#proto/names.ts';
import {
  conditionStatus,
  createdAtMs,
  type Gpu,
  isTerminating,
  keyOf,
  type Model,
  type Pod,
} from './kubernetes.ts';
import type { ControllerSettings } from './settings.ts';
import type { Memory, Snapshot } from './snapshot.ts';

/** `namespace/model/replica`. */
export type ReplicaKey = string;
export const replicaKey = (namespace: string, model: string, replica: number): ReplicaKey =>
  `${namespace}/${model}/${replica}`;

/** One GPU as the plan sees it: what it is, and the bindings it is to have. */
export interface GpuBook {
  name: string;
  node: string;
  index: number;
  uuid: string;
  product: string;
  health: string;
  healthReason: string;
  /** null until the agent has said it. */
  totalBytes: number | null;
  object: Gpu;
  /** Bindings as they are in the cluster. */
  bound: ReadonlyMap<ReplicaKey, GpuBinding>;
  /** Bindings as they are to be; phases write here, and the last phase applies what differs. */
  wanted: Map<ReplicaKey, GpuBinding>;
}

export interface ReplicaPods {
  live: Pod[];
  terminating: Pod[];
}

export interface ClusterView {
  snapshot: Snapshot;
  settings: ControllerSettings;
  nowMs: number;
  /** Models in the order in which they are served: the older first, then by name. */
  models: Model[];
  /** All GPUs, by node, index. */
  books: GpuBook[];
  byUuid: ReadonlyMap<string, GpuBook>;
  byNode: ReadonlyMap<string, GpuBook[]>;
  boundBy: ReadonlyMap<ReplicaKey, GpuBook[]>;
  /** Model pods, newest first, by replica. */
  podsOf: ReadonlyMap<ReplicaKey, ReplicaPods>;
  /** All replicas that have a pod, by `namespace/model`. */
  replicasWithPods: ReadonlyMap<string, number[]>;
  occupants: ReadonlyMap<string, { occupant: GpuOccupant; gpu: string }[]>;
  /** Not ready for longer than the setting allows, or not there. */
  deadNodes: ReadonlySet<string>;
  /** Where no agent has been heard for as long. */
  silentNodes: ReadonlySet<string>;
  /** See Memory. */
  refusals: ReadonlyMap<string, string>;
  /** See Memory. */
  engineFailures: ReadonlyMap<string, string>;
  /** When the next silence grows too long, ms; null when none is counting. */
  nextSilenceMs: number | null;
}

export const noPods: ReplicaPods = { live: [], terminating: [] };

/** The GPUs that a pod was given, as its annotation says. */
export const uuidsOf = (pod: Pod): string[] =>
  (pod.metadata.annotations?.[annotations.gpuUuids] ?? '').split(',').filter((uuid) => uuid !== '');

/** The node that a pod is on or was made for. */
export const nodeOf = (pod: Pod, byUuid: ReadonlyMap<string, GpuBook>): string | null =>
  pod.spec?.nodeName ?? byUuid.get(uuidsOf(pod)[0] ?? '')?.node ?? null;

function bookOf(gpu: Gpu): GpuBook {
  const bound = new Map(
    (gpu.spec.bindings ?? []).map((binding) => [
      replicaKey(binding.namespace, binding.model, binding.replica),
      binding,
    ]),
  );
  return {
    name: gpu.metadata.name,
    node: gpu.spec.nodeName,
    index: gpu.spec.index,
    uuid: gpu.spec.uuid,
    product: gpu.status?.product ?? '',
    health: gpu.status?.health ?? 'Unknown',
    healthReason: gpu.status?.healthReason ?? '',
    totalBytes: gpu.status?.memory?.totalBytes ?? null,
    object: gpu,
    bound,
    wanted: new Map(),
  };
}

const byNodeAndIndex = (left: GpuBook, right: GpuBook) =>
  left.node === right.node ? left.index - right.index : left.node < right.node ? -1 : 1;

/** Sorts by age and, of one age, by `namespace/name`. */
function byAge<T extends KubernetesObject>(objects: Iterable<T>): T[] {
  return [...objects]
    .map((object) => ({ object, atMs: createdAtMs(object), key: keyOf(object) }))
    .sort((left, right) => left.atMs - right.atMs || (left.key < right.key ? -1 : 1))
    .map(({ object }) => object);
}

/** Adds to the list under a key. */
function collect<Key, Value>(into: Map<Key, Value[]>, key: Key, value: Value): void {
  const list = into.get(key);
  if (list) list.push(value);
  else into.set(key, [value]);
}

function indexPods(snapshot: Snapshot) {
  const podsOf = new Map<ReplicaKey, ReplicaPods>();
  const replicasWithPods = new Map<string, number[]>();
  for (const pod of byAge(snapshot.pods.values()).reverse()) {
    const model = pod.metadata.labels?.[labels.model];
    const replica = Number(pod.metadata.labels?.[labels.replica]);
    if (!model || !Number.isInteger(replica)) continue;
    const key = replicaKey(pod.metadata.namespace ?? '', model, replica);
    let pods = podsOf.get(key);
    if (!pods) {
      pods = { live: [], terminating: [] };
      podsOf.set(key, pods);
      collect(replicasWithPods, `${pod.metadata.namespace}/${model}`, replica);
    }
    pods[isTerminating(pod) ? 'terminating' : 'live'].push(pod);
  }
  for (const replicas of replicasWithPods.values()) replicas.sort((left, right) => left - right);
  return { podsOf, replicasWithPods };
}

/** Names that have been silent for longer than allowed, and when the next one will have been. */
function overdue(since: ReadonlyMap<string, number>, nowMs: number, afterMs: number) {
  const names = new Set<string>();
  let nextMs: number | null = null;
  for (const [name, sinceMs] of since) {
    const dueMs = sinceMs + afterMs;
    if (dueMs <= nowMs) names.add(name);
    else nextMs = Math.min(nextMs ?? dueMs, dueMs);
  }
  return { names, nextMs };
}

/** Indexes a snapshot. */
export function viewOf(
  snapshot: Snapshot,
  memory: Memory,
  settings: ControllerSettings,
  nowMs: number,
): ClusterView {
  const books = [...snapshot.gpus.values()]
    .filter((gpu) => !isTerminating(gpu))
    .map(bookOf)
    .sort(byNodeAndIndex);
  const byUuid = new Map<string, GpuBook>();
  const byNode = new Map<string, GpuBook[]>();
  const boundBy = new Map<ReplicaKey, GpuBook[]>();
  const occupants = new Map<string, { occupant: GpuOccupant; gpu: string }[]>();
  for (const book of books) {
    byUuid.set(book.uuid, book);
    collect(byNode, book.node, book);
    for (const [key, binding] of book.bound) if (binding.uuid === book.uuid) collect(boundBy, key, book);
    for (const occupant of book.object.status?.occupants ?? [])
      collect(occupants, occupant.podUid, { occupant, gpu: book.name });
  }
  const nodes = overdue(memory.nodeSilentSince, nowMs, settings.silentAfterMs);
  const agents = overdue(memory.agentSilentSince, nowMs, settings.silentAfterMs);
  const next = [nodes.nextMs, agents.nextMs].filter((at) => at !== null);
  return {
    snapshot,
    settings,
    nowMs,
    models: byAge(snapshot.models.values()),
    books,
    byUuid,
    byNode,
    boundBy,
    ...indexPods(snapshot),
    occupants,
    deadNodes: nodes.names,
    silentNodes: agents.names,
    refusals: memory.refusals,
    engineFailures: memory.engineFailures,
    nextSilenceMs: next.length > 0 ? Math.min(...next) : null,
  };
}

/** A node that its kubelet keeps alive. */
export const isNodeReady = (view: ClusterView, name: string): boolean =>
  conditionStatus(view.snapshot.nodes.get(name)?.status?.conditions, 'Ready') === 'True';
