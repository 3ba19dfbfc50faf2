/**
 * The pods of one replica. A pod is never changed but in its live settings: what else differs means a new pod beside the
 * old one, which the agent puts to sleep for as long as the new one boots; the old one goes once the new one serves, and
 * stays (and wakes) when the new one fails.
 */
import { annotations, serviceName } from '#proto/names.ts';
import { paths } from './api-paths.ts';
import { type ClusterView, nodeOf, noPods, replicaKey } from './cluster-view.ts';
import { type Effect, effectKey } from './effects.ts';
import { createdAtMs, type Model, type Pod } from './kubernetes.ts';
import { liveSettings } from './live-settings.ts';
import { modelPod, type PodIdentity, podIdentity } from './manifests/model-pod.ts';
import { areSized, type Placement } from './placement.ts';
import { type Failure, type PodView, podView } from './pod-state.ts';
import { ownAnnotations } from './settings.ts';

/** A pod that ended is replaced no sooner than this after it was made, ms: no hot loop on a node that refuses it. */
export const replaceAfterMs = 10_000;

export interface Rollout {
  replica: number;
  placement: Placement;
  /** Live pods, newest first. */
  pods: PodView[];
  /** The pod of the wanted form. */
  current: PodView | null;
  /** The old pod that serves until the current one does. */
  kept: PodView | null;
  /** Why the API server takes no such pod; null when it was not asked or has taken it. */
  refusal: Failure | null;
  /** The current pod is of the wanted spec but of older images. */
  isOutdated: boolean;
}

/** One image roll at a time in the whole cluster. */
export interface ImageRolls {
  isTaken: boolean;
}

interface Result {
  rollout: Rollout;
  effects: Effect[];
  wakeAtMs: number | null;
}

const specHashOf = (pod: Pod) => pod.metadata.annotations?.[ownAnnotations.specHash];
const podHashOf = (pod: Pod) => pod.metadata.annotations?.[annotations.podHash];

/** Whether some replica is between two images at this moment. */
export function imageRollsOf(view: ClusterView): ImageRolls {
  for (const { live } of view.podsOf.values()) {
    if (live.length < 2) continue;
    const [newest, ...others] = live;
    const rolls = others.some(
      (pod) => specHashOf(pod) === specHashOf(newest!) && podHashOf(pod) !== podHashOf(newest!),
    );
    if (rolls) return { isTaken: true };
  }
  return { isTaken: false };
}

/** Ends a pod; one on a dead node is taken out of the books at once, as nobody there can answer. */
export function endPod(view: ClusterView, pod: Pod, because: string): Effect {
  const node = nodeOf(pod, view.byUuid);
  return {
    type: 'delete',
    kind: 'pods',
    path: paths.pod(pod.metadata.namespace ?? '', pod.metadata.name),
    uid: pod.metadata.uid ?? '',
    because,
    ...(node !== null && view.deadNodes.has(node) && { graceSeconds: 0 }),
  };
}

/** Pods that are going, but on a node that will not say that they are gone. */
export const forceGone = (view: ClusterView, terminating: readonly Pod[]): Effect[] =>
  terminating
    .filter((pod) => view.deadNodes.has(nodeOf(pod, view.byUuid) ?? ''))
    .map((pod) => endPod(view, pod, 'its node is dead'));

/** The pod that this replica is to have; null while its place or its files are missing. */
function wantedPod(view: ClusterView, model: Model, placement: Placement, weightsPath: string | null) {
  if (!placement.target || weightsPath === null) return null;
  const service = view.snapshot.services.get(
    `${model.metadata.namespace}/${serviceName(model.metadata.name)}`,
  );
  return {
    model,
    replica: placement.replica,
    gpus: placement.target,
    weightsPath,
    popular: placement.popular,
    settings: view.settings,
    serviceIp: service?.spec?.clusterIP && service.spec.clusterIP !== 'None' ? service.spec.clusterIP : null,
    hasService: service !== undefined,
  };
}

/** @param weightsPath of the files on the placement's node; null while they are not there */
export function rollReplica(
  view: ClusterView,
  model: Model,
  placement: Placement,
  given: { weightsPath: string | null; imageRolls: ImageRolls },
): Result {
  const key = replicaKey(model.metadata.namespace ?? '', model.metadata.name, placement.replica);
  const { live, terminating } = view.podsOf.get(key) ?? noPods;
  const ended = endedPods(view, live);
  const pods = live.filter((pod) => !ended.pods.includes(pod)).map((pod) => podView(view, pod));
  const rollout: Rollout = {
    replica: placement.replica,
    placement,
    pods,
    current: null,
    kept: null,
    refusal: null,
    isOutdated: false,
  };
  const effects = [...ended.effects, ...forceGone(view, terminating)];
  const wanted = wantedPod(view, model, placement, given.weightsPath);
  if (!wanted) {
    // Nothing new can be made: what runs goes on.
    rollout.kept = pods.find(({ isAvailable }) => isAvailable) ?? pods[0] ?? null;
    return {
      rollout,
      effects: [...effects, ...settingsEffects(model, placement, pods)],
      wakeAtMs: ended.wakeAtMs,
    };
  }
  const identity = podIdentity(wanted);
  const exact = pods.find(({ pod }) => podHashOf(pod) === identity.podHash) ?? null;
  const outdated = exact ? null : (pods.find(({ pod }) => specHashOf(pod) === identity.specHash) ?? null);
  rollout.current = exact ?? outdated;
  rollout.isOutdated = outdated !== null;
  const isTurn = outdated?.isAsleep === true && !given.imageRolls.isTaken;
  const occupied = [...terminating, ...ended.pods].some(({ metadata }) => metadata.name === identity.name);
  const mayMake = wanted.hasService && !occupied && areSized(wanted.gpus);
  if (!exact && (!outdated || isTurn) && mayMake) {
    if (outdated) given.imageRolls.isTaken = true;
    const create = creation(wanted, identity, pods.length > 0);
    const said = view.refusals.get(effectKey(create));
    if (said !== undefined) rollout.refusal = { reason: 'PodRefused', message: said };
    effects.push(create);
  }
  const others = pods.filter((pod) => pod !== rollout.current);
  const { kept, unneeded } = sortOut(view, others, rollout.current?.isAvailable === true);
  rollout.kept = kept;
  effects.push(...unneeded.map(({ pod }) => endPod(view, pod, 'replaced by a pod of the wanted form')));
  const staying = pods.filter((pod) => !unneeded.includes(pod));
  effects.push(...settingsEffects(model, placement, staying));
  return { rollout, effects, wakeAtMs: ended.wakeAtMs };
}

/** Of the old pods one that has been up is kept until the new one is; those that never came up are not. */
function sortOut(
  view: ClusterView,
  others: PodView[],
  currentIsAvailable: boolean,
): { kept: PodView | null; unneeded: PodView[] } {
  const mayComeBack = ({ pod, hasBooted, failure }: PodView) =>
    hasBooted && failure === null && !view.deadNodes.has(nodeOf(pod, view.byUuid) ?? '');
  const kept = currentIsAvailable
    ? null
    : (others.find(({ isAvailable }) => isAvailable) ?? others.find(mayComeBack) ?? null);
  return { kept, unneeded: others.filter((pod) => pod !== kept) };
}

function creation(wanted: Parameters<typeof modelPod>[0], identity: PodIdentity, isRoll: boolean): Effect {
  const { namespace = '', name, uid = '' } = wanted.model.metadata;
  const node = wanted.gpus[0]!.node;
  const indices = wanted.gpus.map(({ index }) => index).join(',');
  return {
    type: 'create',
    kind: 'pods',
    path: paths.pods(namespace),
    object: modelPod(wanted),
    because: `replica ${wanted.replica} of ${namespace}/${name}: ${isRoll ? 'its spec changed' : 'it has no pod'}`,
    announce: [
      {
        type: 'Normal',
        reason: isRoll ? 'Rolling' : 'PodCreated',
        message: `pod ${identity.name} on ${node}, GPU ${indices}${isRoll ? '; the old pod stays until it serves' : ''}`,
        regarding: { apiVersion: wanted.model.apiVersion, kind: wanted.model.kind, name, namespace, uid },
      },
    ],
  };
}

/** Pods that have come to their end (evicted, refused by the kubelet): bare pods stay so until somebody removes them. */
function endedPods(
  view: ClusterView,
  live: Pod[],
): { pods: Pod[]; effects: Effect[]; wakeAtMs: number | null } {
  const pods = live.filter(({ status }) => status?.phase === 'Failed' || status?.phase === 'Succeeded');
  const dueMs = (pod: Pod) => createdAtMs(pod) + replaceAfterMs;
  const later = pods.map(dueMs).filter((at) => at > view.nowMs);
  return {
    pods,
    effects: pods
      .filter((pod) => dueMs(pod) <= view.nowMs)
      .map((pod) => endPod(view, pod, `the pod ended: ${pod.status?.reason ?? pod.status?.phase}`)),
    wakeAtMs: later.length > 0 ? Math.min(...later) : null,
  };
}

/** Live settings go to every pod that stays, without a restart. */
function settingsEffects(model: Model, placement: Placement, pods: PodView[]): Effect[] {
  const wanted = liveSettings(model.spec, placement.popular);
  return pods
    .filter(({ pod }) => pod.metadata.annotations?.[annotations.settings] !== wanted)
    .map(({ pod }) => ({
      type: 'patch',
      kind: 'pods',
      path: paths.pod(pod.metadata.namespace ?? '', pod.metadata.name),
      patch: { metadata: { annotations: { [annotations.settings]: wanted } } },
      because: 'live settings changed',
    }));
}
