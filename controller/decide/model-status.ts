/** Model.status: what is, in the API's words; applied only when it differs, with an Event for each transition. */
import type { Assignment, ModelStatus, Phase } from '#api/model.ts';
import { formatGiB } from '#platform/quantity.ts';
import { labels } from '#proto/names.ts';
import { paths } from './api-paths.ts';
import { estimateOrNull } from './capacity.ts';
import { type ClusterView, uuidsOf } from './cluster-view.ts';
import {
  availableCondition,
  conditionTime,
  convertedCondition,
  faultsOf,
  isTrouble,
  passingConditions,
  placedCondition,
  stagedCondition,
  type Told,
} from './conditions.ts';
import { isSame } from './difference.ts';
import type { Announcement, Effect } from './effects.ts';
import type { Fetch } from './fetch.ts';
import type { Model } from './kubernetes.ts';
import type { Placement } from './placement.ts';
import type { Failure, PodState } from './pod-state.ts';
import type { Rollout } from './rollout.ts';
import type { Routing } from './routing.ts';
import { shortened } from './shortened.ts';

/** All that the earlier phases found out about one Model. */
export interface Progress {
  model: Model;
  placements: Placement[];
  /** Of each placed replica, in their order. */
  fetches: { replica: number; fetch: Fetch }[];
  rollouts: Rollout[];
  routing: Routing;
}

/** Why no new pod may be made although there is a place. */
export function blockedBy(fetches: Fetch[]): Failure | null {
  const failed = fetches.find((fetch) => fetch.state === 'failed');
  return failed ? { reason: failed.reason, message: failed.message } : null;
}

type ReplicaState = PodState | 'pending';

/** Of old and new pod the one that serves counts; of a replica without any, its place and its files. */
function replicaState(rollout: Rollout, fetch: Fetch | undefined): ReplicaState {
  const available = rollout.pods.find(({ isAvailable }) => isAvailable);
  if (available) return available.state;
  const pod = rollout.current ?? rollout.kept ?? rollout.pods[0];
  if (pod) return pod.state;
  if (!fetch) return 'pending';
  if (rollout.refusal) return 'failed';
  return blockedBy([fetch]) ? 'failed' : 'starting';
}

function phaseOf(model: Model, states: ReplicaState[], fetches: Fetch[]): Phase {
  const placed = states.filter((state) => state !== 'pending');
  if (model.spec.replicas === 0 || placed.length === 0) return 'Pending';
  if (placed.every((state) => state === 'failed')) return 'Failed';
  if (placed.includes('serving')) return 'Serving';
  if (placed.includes('ready')) return 'Ready';
  if (placed.includes('asleep')) return 'Sleeping';
  const converts = model.spec.loadFormat === 'gthread' && fetches.some(({ state }) => state !== 'done');
  return converts ? 'Converting' : 'Staging';
}

/** Where replicas run: their place or, while they have none to go to, where their pod still is. */
function assignmentsOf(view: ClusterView, rollouts: Rollout[]): Assignment[] {
  return rollouts.flatMap(({ replica, placement, pods }) => {
    const stays = pods.map(({ pod }) => uuidsOf(pod).flatMap((uuid) => view.byUuid.get(uuid) ?? []));
    const gpus = placement.target ?? stays.find((found) => found.length > 0);
    if (!gpus) return [];
    const assignment = {
      replica,
      node: gpus[0]!.node,
      gpus: gpus.map(({ index }) => index).join(','),
      uuids: gpus.map(({ uuid }) => uuid),
    };
    return [assignment];
  });
}

/** Measured where there is a measurement, else the estimate; null where neither can be had. */
function memoryOf(view: ClusterView, progress: Progress) {
  const { model, placements, rollouts } = progress;
  const occupants = rollouts.flatMap(({ pods }) =>
    pods.flatMap(({ pod }) =>
      (view.occupants.get(pod.metadata.uid ?? '') ?? []).map(({ occupant }) => occupant),
    ),
  );
  const largest = (values: (number | undefined | null)[]) => {
    const known = values.filter((value) => value !== undefined && value !== null);
    return known.length > 0 ? Math.max(...known) : null;
  };
  const targets = placements.flatMap(({ target }) => target ?? []);
  const estimates = targets.map(({ totalBytes }) => estimateOrNull(model.spec, totalBytes));
  return {
    awakeBytes:
      largest(occupants.map(({ awakeBytes }) => awakeBytes)) ??
      largest(estimates.length > 0 ? estimates : [estimateOrNull(model.spec, null)]),
    residueBytes: largest(occupants.map(({ residueBytes }) => residueBytes)),
  };
}

/** Of several nodes' files the one that lags behind. */
function conversionOf(fetches: Fetch[]): ModelStatus['conversion'] {
  const [first] = fetches;
  if (!first) return undefined;
  const [failed] = faultsOf(fetches);
  if (failed) return { state: 'Failed', message: shortened(failed.message) };
  const running = fetches.find((fetch) => fetch.state === 'running');
  if (running) {
    const { progress, message } = running;
    const bytes = progress && { bytes: progress.bytes, totalBytes: progress.totalBytes };
    return { state: progress?.part ?? 'Fetching', ...bytes, message: shortened(message) };
  }
  if (first.state !== 'done') return undefined;
  const bytes = first.gthread ? first.gthread.bytes : first.bytes;
  return {
    state: first.gthread ? 'Converted' : 'Fetched',
    ...(bytes !== null && { bytes, totalBytes: bytes }),
  };
}

/** The status as it is to be. */
export function statusOf(view: ClusterView, progress: Progress): ModelStatus {
  const { model, placements, rollouts, routing } = progress;
  const fetches = progress.fetches.map(({ fetch }) => fetch);
  const fetchOf = new Map(progress.fetches.map(({ replica, fetch }) => [replica, fetch]));
  const states = rollouts.map((rollout) => replicaState(rollout, fetchOf.get(rollout.replica)));
  const assignments = assignmentsOf(view, rollouts);
  const { awakeBytes, residueBytes } = memoryOf(view, progress);
  const conversion = conversionOf(fetches);
  const conditions: Told[] = [
    placedCondition(model, placements),
    convertedCondition(model, fetches),
    stagedCondition(model, fetches),
    availableCondition(model, rollouts, blockedBy(fetches)),
    ...passingConditions(model, rollouts, routing.lostTo),
  ];
  const generation = model.metadata.generation;
  return {
    phase: phaseOf(model, states, fetches),
    ...(generation !== undefined && { observedGeneration: generation }),
    conditions: conditions.map((condition) => ({
      ...condition,
      ...(generation !== undefined && { observedGeneration: generation }),
      lastTransitionTime: conditionTime(
        model.status?.conditions?.find(({ type }) => type === condition.type),
        condition.status,
        view.nowMs,
      ),
    })),
    replicas: rollouts.filter(({ pods }) => pods.length > 0).length,
    readyReplicas: rollouts.filter(({ pods }) => pods.some(({ isAvailable }) => isAvailable)).length,
    servingReplicas: states.filter((state) => state === 'serving' || state === 'ready').length,
    sleepingReplicas: states.filter((state) => state === 'asleep').length,
    selector: `${labels.model}=${model.metadata.name}`,
    ...(assignments.length > 0 && {
      node: [...new Set(assignments.map(({ node }) => node))].join(','),
      // Assignments tell the rest.
      gpus: shortened(assignments.map(({ gpus }) => gpus).join(',')),
      assignments,
    }),
    ...(awakeBytes !== null && { vramPerGPU: awakeBytes, vram: formatGiB(awakeBytes) }),
    ...(residueBytes !== null && { residuePerGPU: residueBytes }),
    ...(routing.url !== null && { url: routing.url }),
    ...(conversion && { conversion }),
  };
}

const byType = (status: ModelStatus): ModelStatus => ({
  ...status,
  ...(status.conditions && {
    conditions: [...status.conditions].sort((left, right) => (left.type < right.type ? -1 : 1)),
  }),
});

/** Phases between which traffic moves a Model: not worth an Event each. */
const trafficPhases: Phase[] = ['Ready', 'Serving', 'Sleeping'];

function announcements(model: Model, status: ModelStatus): Announcement[] {
  const { namespace = '', name, uid = '' } = model.metadata;
  const regarding = { apiVersion: model.apiVersion, kind: model.kind, name, namespace, uid };
  const before = model.status;
  const found: Announcement[] = [];
  const phase = status.phase!;
  const isTraffic = trafficPhases.includes(phase) && before?.phase && trafficPhases.includes(before.phase);
  if (phase !== before?.phase && !isTraffic && phase !== 'Failed') {
    found.push({ type: 'Normal', reason: phase, message: sentenceOf(phase, status), regarding });
  }
  for (const condition of status.conditions ?? []) {
    const old = before?.conditions?.find(({ type }) => type === condition.type);
    const isNew = old?.status !== condition.status || old.reason !== condition.reason;
    if (isNew && isTrouble(condition)) {
      found.push({ type: 'Warning', reason: condition.reason, message: condition.message, regarding });
    }
  }
  return found;
}

function sentenceOf(phase: Phase, status: ModelStatus): string {
  const messageOf = (type: string) =>
    status.conditions?.find((condition) => condition.type === type)?.message ?? '';
  switch (phase) {
    case 'Pending':
      return messageOf('Placed');
    case 'Converting':
      return `${messageOf('Placed')}: ${messageOf('Converted')}`;
    case 'Staging':
      return `${messageOf('Placed')}: ${messageOf('Staged')}`;
    case 'Ready':
    case 'Serving':
    case 'Sleeping':
    case 'Failed':
      return messageOf('Available');
  }
}

/** One apply of the status when it differs from what is there. */
export function statusEffects(view: ClusterView, progress: Progress): Effect[] {
  const { model } = progress;
  const status = statusOf(view, progress);
  if (isSame(byType(status), byType(model.status ?? {}))) return [];
  const { namespace = '', name, uid } = model.metadata;
  return [
    {
      type: 'apply',
      kind: 'models',
      path: `${paths.model(namespace, name)}/status`,
      object: {
        apiVersion: model.apiVersion,
        kind: model.kind,
        metadata: { name, namespace, uid },
        status,
      },
      because: `phase ${status.phase}`,
      announce: announcements(model, status),
    },
  ];
}
