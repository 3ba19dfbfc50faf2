/**
 * A cluster of plain objects that takes the plan's effects as the API server would, so that a Model's whole life can be
 * walked through without one. What kubelet and agent would say is said by the test.
 */
import type { GpuOccupant } from '../../../api/gpu.ts';
import type { ModelSpecInput, Phase } from '../../../api/model.ts';
import { type Effect, effectKey } from '../../../controller/decide/effects.ts';
import {
  type Gpu,
  type Job,
  keyOf,
  type Model,
  type Node,
  type Pod,
} from '../../../controller/decide/kubernetes.ts';
import { plan } from '../../../controller/decide/plan.ts';
import type { ControllerSettings } from '../../../controller/decide/settings.ts';
import { remember } from '../../../controller/decide/silence.ts';
import type { Memory, Snapshot, WatchedKind } from '../../../controller/decide/snapshot.ts';
import type { KubernetesObject } from '../../../platform/kubernetes/client.ts';
import { labels } from '../../../proto/names.ts';
import { settings as defaults, model, noMemory, noonMs, snapshot, type World } from './builders.ts';

/** Rounds after which a plan that still wants something is held to go in circles. */
const roundsMax = 12;

type Maps = { [Kind in WatchedKind]: Map<string, KubernetesObject> };

export class PlainCluster {
  readonly objects: Maps;
  readonly settings: ControllerSettings;
  readonly log: Effect[] = [];
  nowMs = noonMs;
  memory: Memory = noMemory;
  /** What the API server refuses for now. */
  refuse: { create: WatchedKind; message: string } | null = null;
  #serial = 0;

  constructor(world: World, settings: Partial<ControllerSettings> = {}) {
    this.objects = snapshot(world) as unknown as Maps;
    this.settings = { ...defaults, ...settings };
  }

  /** Plans and carries out until nothing is wanted any more; returns what was done. */
  settle(): Effect[] {
    const done: Effect[] = [];
    for (let round = 0; round < roundsMax; round += 1) {
      const refusals = new Map<string, string>();
      const planned = this.plan();
      for (const effect of planned) {
        if (effect.type === 'create' && effect.kind === this.refuse?.create)
          refusals.set(effectKey(effect), this.refuse.message);
      }
      this.memory = { ...this.memory, refusals };
      const effects = planned.filter((effect) => !refusals.has(effectKey(effect)));
      if (effects.length === 0 && this.plan().length === refusals.size) return done;
      for (const effect of effects) this.#take(effect);
      done.push(...effects);
      this.log.push(...effects);
    }
    throw new Error(`the plan goes in circles: ${this.plan().map(effectKey).join('; ')}`);
  }

  plan(): Effect[] {
    const view = this.objects as unknown as Snapshot;
    this.memory = remember(this.memory, view, this.nowMs);
    return plan(view, this.memory, this.settings, this.nowMs).effects;
  }

  #take(effect: Effect): void {
    const objects = this.objects[effect.kind];
    if (effect.type === 'create') {
      const object = structuredClone(effect.object) as KubernetesObject;
      if (objects.has(keyOf(object))) throw new Error(`${keyOf(object)} already exists`);
      this.#serial += 1;
      object.metadata.uid = `uid-${this.#serial}-${object.metadata.name}`;
      object.metadata.creationTimestamp = new Date(this.nowMs + this.#serial).toISOString();
      objects.set(keyOf(object), object);
    } else if (effect.type === 'apply') {
      const given = structuredClone(effect.object) as KubernetesObject;
      const found = objects.get(keyOf(given));
      if (!found) objects.set(keyOf(given), given);
      else this.#merge(effect, found, given);
    } else {
      const [name = '', , namespace = ''] = effect.path.split('/').reverse();
      const found = objects.get(`${namespace}/${name}`);
      if (!found) return;
      if (effect.type === 'patch')
        found.metadata.annotations = { ...found.metadata.annotations, ...annotationsOf(effect.patch) };
      else if (effect.kind !== 'pods' || effect.graceSeconds === 0) objects.delete(keyOf(found));
      else found.metadata.deletionTimestamp = new Date(this.nowMs).toISOString();
    }
  }

  #merge(effect: Effect, found: KubernetesObject, given: KubernetesObject): void {
    if (effect.path.endsWith('/status')) {
      found.status =
        effect.kind === 'gpus' ? { ...(found.status as object), ...(given.status as object) } : given.status;
    } else if (effect.kind === 'models') {
      found.metadata.finalizers = given.metadata.finalizers ?? [];
      if (found.metadata.deletionTimestamp && found.metadata.finalizers.length === 0)
        this.objects.models.delete(keyOf(found));
    } else if (effect.kind === 'gpus') {
      found.spec = { ...(found.spec as object), ...(given.spec as object) };
    } else this.objects[effect.kind].set(keyOf(given), { ...found, ...given });
  }

  // What people, kubelets and agents do.

  model(key = 'default/a'): Model {
    return this.objects.models.get(key) as Model;
  }

  phase(key = 'default/a'): Phase | undefined {
    return this.model(key).status?.phase;
  }

  condition(type: string, key = 'default/a') {
    return this.model(key).status?.conditions?.find((condition) => condition.type === type);
  }

  edit(spec: Partial<ModelSpecInput>, key = 'default/a'): void {
    const found = this.model(key);
    found.spec = model(found.metadata.name, { ...(found.spec as ModelSpecInput), ...spec }).spec;
    found.metadata.generation = (found.metadata.generation ?? 0) + 1;
  }

  remove(key = 'default/a'): void {
    this.model(key).metadata.deletionTimestamp = new Date(this.nowMs).toISOString();
  }

  pods(name = 'a', namespace = 'default'): Pod[] {
    return ([...this.objects.pods.values()] as Pod[]).filter(
      ({ metadata }) => metadata.labels?.[labels.model] === name && metadata.namespace === namespace,
    );
  }

  gpu(name: string): Gpu {
    return this.objects.gpus.get(name) as Gpu;
  }

  bindings(name: string): string[] {
    return (this.gpu(name).spec.bindings ?? []).map(
      (binding) => `${binding.namespace}/${binding.model}/${binding.replica}`,
    );
  }

  jobs(): Job[] {
    return [...this.objects.jobs.values()] as Job[];
  }

  node(name: string): Node {
    return this.objects.nodes.get(name) as Node;
  }

  /** Pods that were told to end have ended. */
  podsEnd(): void {
    for (const [key, { metadata }] of this.objects.pods)
      if (metadata.deletionTimestamp) this.objects.pods.delete(key);
    for (const gpu of this.objects.gpus.values() as Iterable<Gpu>) {
      const uids = new Set([...this.objects.pods.values()].map(({ metadata }) => metadata.uid));
      if (gpu.status?.occupants)
        gpu.status.occupants = gpu.status.occupants.filter(({ podUid }) => uids.has(podUid));
    }
  }

  /** Every running fetch Job ends with these last words. */
  fetchesEnd(words: object, result: 'Complete' | 'Failed' = 'Complete'): void {
    for (const job of this.jobs()) {
      if (job.status?.conditions) continue;
      job.status = {
        conditions: [
          { type: result, status: 'True', lastTransitionTime: new Date(this.nowMs).toISOString() },
        ],
        ...(result === 'Complete' && { succeeded: 1 }),
      };
      this.fetchAttemptEnds(words, job);
    }
  }

  /** One pod of a fetch Job ends with these last words. */
  fetchAttemptEnds(words: object, job = this.jobs()[0]!): void {
    this.#serial += 1;
    const name = `${job.metadata.name}-${this.#serial}`;
    this.objects.ownPods.set(`greenthread/${name}`, {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: {
        name,
        namespace: 'greenthread',
        uid: `uid-${name}`,
        creationTimestamp: new Date(this.nowMs + this.#serial * 1000).toISOString(),
        labels: { 'batch.kubernetes.io/job-name': job.metadata.name },
      },
      status: {
        containerStatuses: [
          { name: 'fetch', state: { terminated: { exitCode: 0, message: JSON.stringify(words) } } },
        ],
      },
    });
  }

  fetched(): void {
    this.fetchesEnd({
      commit: 'c0ffee',
      path: '/mnt/models/org--a/c0ffee',
      bytes: 1000,
      files: 3,
      downloaded: 3,
    });
  }

  podStatus(pod: Pod, status: NonNullable<Pod['status']>): void {
    pod.status = status;
  }

  /** The kubelet runs the pod, and the agent says this of its engine. */
  engineIs(pod: Pod, state: GpuOccupant['state'], more: Partial<GpuOccupant> = {}): void {
    const isBooting = state === 'booting' || state === 'waiting' || state === 'failed';
    pod.status = { phase: 'Running', conditions: [{ type: 'Ready', status: isBooting ? 'False' : 'True' }] };
    const uuids = (pod.metadata.annotations?.['greenthread.ai/gpu-uuids'] ?? '').split(',');
    for (const gpu of this.objects.gpus.values() as Iterable<Gpu>) {
      if (!uuids.includes(gpu.spec.uuid)) continue;
      const others = (gpu.status?.occupants ?? []).filter(({ podUid }) => podUid !== pod.metadata.uid);
      const occupant: GpuOccupant = {
        namespace: pod.metadata.namespace ?? '',
        model: pod.metadata.labels?.[labels.model] ?? '',
        replica: Number(pod.metadata.labels?.[labels.replica]),
        pod: pod.metadata.name,
        podUid: pod.metadata.uid ?? '',
        state,
        popular: false,
        ...more,
      };
      gpu.status = { ...gpu.status, occupants: [...others, occupant] };
    }
  }

  /** Brings every pod of a Model up to an awake engine that nobody has asked yet. */
  comeUp(name = 'a'): void {
    this.settle();
    this.fetched();
    this.settle();
    for (const pod of this.pods(name)) this.engineIs(pod, 'serving', { awakeBytes: 20 * 2 ** 30 });
    this.settle();
  }
}

const annotationsOf = (patch: object) =>
  (patch as { metadata: { annotations: Record<string, string> } }).metadata.annotations;
