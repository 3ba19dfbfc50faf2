/** What the API server and the driver list: pods, GPU resources, GPUs. */
import { claimBytes } from './ledger.ts';
import { leaseGraceMs, stillBytes } from './limits.ts';
import { type ArbiterState, type Gpu, isDue, newReplica, type Replica, type Step } from './state.ts';
import type { ArbiterEvent, GpuFact, PodFact } from './words.ts';

export function replicaOf(step: Step, podUid: string): Replica {
  const { state } = step;
  let replica = state.replicas.get(podUid);
  if (!replica) {
    replica = newReplica(podUid, step.now, state.order++);
    state.replicas.set(podUid, replica);
  }
  return replica;
}

type Name = Pick<PodFact, 'pod' | 'namespace' | 'model' | 'replica'>;

/** Which Model's replica it is. */
export function nameReplica(state: ArbiterState, replica: Replica, name: Name): void {
  replica.pod = name.pod;
  const key = `${name.namespace}/${name.model}/${name.replica}`;
  if (replica.key === key) return;
  unname(state, replica);
  replica.namespace = name.namespace;
  replica.model = name.model;
  replica.replica = name.replica;
  replica.key = key;
  const pods = state.keys.get(key);
  if (pods) pods.push(replica.podUid);
  else state.keys.set(key, [replica.podUid]);
}

function unname(state: ArbiterState, replica: Replica): void {
  const pods = state.keys.get(replica.key)?.filter((uid) => uid !== replica.podUid) ?? [];
  if (pods.length > 0) state.keys.set(replica.key, pods);
  else state.keys.delete(replica.key);
}

export function onPods(step: Step, event: ArbiterEvent & { type: 'pods' }): void {
  const { state } = step;
  state.podsListed = true;
  state.bindingsStale = true;
  step.changed = true;
  const listed = new Set<string>();
  for (const pod of event.pods) {
    listed.add(pod.podUid);
    const replica = replicaOf(step, pod.podUid);
    nameReplica(state, replica, pod);
    replica.listed = true;
    if (pod.deleting && !replica.deleting) replica.deletingSinceMs = step.now;
    replica.deleting = pod.deleting;
    replica.graceMs = pod.graceMs;
    replica.uuids = pod.uuids.length > 0 ? pod.uuids : replica.uuids;
    replica.vramBytes = pod.vramBytes ?? replica.vramBytes;
    replica.settings = pod.settings;
  }
  for (const replica of state.replicas.values()) {
    if (!listed.has(replica.podUid)) replica.listed = false;
  }
}

/** A pod that the API server does not list and that nobody has spoken for of late is gone; what its memory leaves is a stranger's. */
export function forgetGone(step: Step): void {
  const { state } = step;
  if (!state.podsListed) return;
  for (const replica of state.replicas.values()) {
    if (replica.listed || replica.attached || replica.launcher === 'connected') continue;
    if (!isDue(step, Math.max(replica.detachedAtMs, replica.launcherGoneAtMs) + leaseGraceMs)) continue;
    unname(state, replica);
    state.replicas.delete(replica.podUid);
    for (const uuid of replica.uuids) {
      const gpu = state.gpus.get(uuid);
      if (!gpu) continue;
      // Until the next measurement what it held is still counted, as nobody's.
      const bytes = claimBytes(replica, gpu);
      gpu.foreignBytes += bytes;
      if (bytes > stillBytes) gpu.foreignSinceMs = step.now;
      gpu.changedAtMs = step.now;
      gpu.wantedMs = step.now;
    }
    state.measureAgainAtMs = step.now;
    step.changed = true;
  }
}

export function onResources(step: Step, event: ArbiterEvent & { type: 'gpu-resources' }): void {
  const { state } = step;
  state.resourcesListed = true;
  state.bindingsStale = true;
  step.changed = true;
  for (const gpu of state.gpus.values()) {
    gpu.resource = false;
    gpu.bindings = [];
  }
  for (const { uuid, bindings } of event.resources) {
    const gpu = gpuOf(step, uuid);
    gpu.resource = true;
    gpu.bindings = bindings;
  }
}

function gpuOf(step: Step, uuid: string): Gpu {
  const { state } = step;
  let gpu = state.gpus.get(uuid);
  if (!gpu) {
    gpu = {
      uuid,
      index: -1,
      totalBytes: 0,
      usable: false,
      listed: false,
      unusableSinceMs: step.now,
      resource: !state.resourcesListed,
      bindings: [],
      freeBytes: null,
      usedBytes: null,
      measuredAtMs: -1,
      foreignBytes: 0,
      foreignSinceMs: step.now,
      changedAtMs: step.now,
      wantedMs: step.now,
    };
    state.gpus.set(uuid, gpu);
  }
  return gpu;
}

export function onGpus(step: Step, event: ArbiterEvent & { type: 'gpus' }): void {
  const { state } = step;
  step.changed = true;
  state.bindingsStale = true;
  const listed = new Set<string>();
  for (const fact of event.gpus) {
    listed.add(fact.uuid);
    const gpu = gpuOf(step, fact.uuid);
    gpu.index = fact.index;
    gpu.totalBytes = fact.totalBytes;
    use(step, gpu, true, fact);
  }
  for (const gpu of state.gpus.values()) {
    if (!listed.has(gpu.uuid)) use(step, gpu, false, null);
  }
}

function use(step: Step, gpu: Gpu, listed: boolean, fact: GpuFact | null): void {
  const usable = listed && fact?.usable === true;
  if (usable) gpu.unusableSinceMs = null;
  else gpu.unusableSinceMs ??= step.now;
  if (!gpu.listed && listed) {
    // What was measured before it was away says nothing.
    gpu.freeBytes = null;
    gpu.usedBytes = null;
    gpu.changedAtMs = step.now;
    gpu.wantedMs = step.now;
  }
  gpu.listed = listed;
  gpu.usable = usable;
}

/** A figure from an earlier life stands in until this life has measured its own. */
export function onRemembered(
  _step: Step,
  replica: Replica,
  event: ArbiterEvent & { type: 'remembered' },
): void {
  replica.awakeBytes ??= event.awakeBytes;
  replica.residueBytes ??= event.residueBytes;
  replica.firstResidueBytes ??= event.residueBytes;
}
