/** What a model pod is, as the kubelet and the node's agent tell it. */
import type { GpuOccupant } from '#api/gpu.ts';
import type { ClusterView } from './cluster-view.ts';
import { type ContainerStatus, conditionStatus, type Pod } from './kubernetes.ts';
import { quoted } from './shortened.ts';

export interface Failure {
  reason: string;
  message: string;
}

/** serving: awake and used; ready: awake, nobody has asked yet; asleep: also on its way back. */
export type PodState = 'failed' | 'starting' | 'ready' | 'serving' | 'asleep';

export interface PodView {
  pod: Pod;
  state: PodState;
  /** Its engine has been up, whatever its front door says at this moment. */
  hasBooted: boolean;
  /** Booted once, and its front door takes requests. */
  isAvailable: boolean;
  /** Its engine sleeps now, all of it. */
  isAsleep: boolean;
  failure: Failure | null;
  /** What it waits for, in words; empty when that is not known. */
  waitingFor: string;
  /** What its node's agent says of it; null: nothing. */
  told: string | null;
}

/** Reasons of a waiting container that will not pass by waiting: a person must act. */
const hopeless: Record<string, string> = {
  ErrImagePull: 'ImagePullBackOff',
  ImagePullBackOff: 'ImagePullBackOff',
  ImageInspectError: 'ImageInspectError',
  ErrImageNeverPull: 'ErrImageNeverPull',
  InvalidImageName: 'InvalidImageName',
  CreateContainerConfigError: 'CreateContainerConfigError',
  CreateContainerError: 'CreateContainerError',
  RunContainerError: 'RunContainerError',
  CrashLoopBackOff: 'CrashLoopBackOff',
};
/** From this restart on, a container that has not come up counts as failed also while it tries again. */
const restartsFailed = 2;

function containerFailure(status: ContainerStatus): Failure | null {
  const { waiting } = status.state ?? {};
  const ended = status.state?.terminated ?? status.lastState?.terminated;
  const how = ended
    ? ended.message?.trim() || `${ended.reason ?? 'ended'} (exit code ${ended.exitCode})`
    : '';
  const reason = hopeless[waiting?.reason ?? ''];
  if (reason) {
    const detail =
      waiting?.reason === 'CrashLoopBackOff' && how !== '' ? how : (waiting?.message ?? waiting?.reason);
    return { reason, message: quoted(`container ${status.name}: ${detail}`) };
  }
  const failedBefore =
    ended !== undefined && ended.exitCode !== 0 && (status.restartCount ?? 0) >= restartsFailed;
  if (failedBefore && !status.ready) {
    return {
      reason: ended.reason ?? 'Error',
      message: quoted(`container ${status.name} ends again and again: ${how}`),
    };
  }
  return null;
}

function failureOf(view: ClusterView, pod: Pod): Failure | null {
  const { status } = pod;
  if (status?.phase === 'Failed') {
    return { reason: status.reason ?? 'PodFailed', message: status.message ?? 'the pod failed' };
  }
  const failed = view.engineFailures.get(pod.metadata.uid ?? '');
  if (failed !== undefined) return { reason: 'EngineFailed', message: failed };
  for (const container of [...(status?.initContainerStatuses ?? []), ...(status?.containerStatuses ?? [])]) {
    const failure = containerFailure(container);
    if (failure) return failure;
  }
  return null;
}

function waitingFor(pod: Pod, occupants: readonly GpuOccupant[]): string {
  const unschedulable = pod.status?.conditions?.find(
    ({ type, status }) => type === 'PodScheduled' && status === 'False',
  );
  if (unschedulable) return unschedulable.message ?? unschedulable.reason ?? 'to be scheduled';
  const occupant = occupants[0];
  return occupant ? (occupant.message ?? occupant.state) : (pod.status?.phase ?? '');
}

/** An engine that was measured awake, or that is in a state which only a booted one is in. */
const isBooted = ({ state, awakeBytes, residueBytes }: GpuOccupant): boolean =>
  awakeBytes !== undefined ||
  residueBytes !== undefined ||
  ['serving', 'draining', 'sleeping', 'asleep', 'waking'].includes(state);

const awakeStates = ['serving', 'draining', 'sleeping'];

/** Reads one pod. */
export function podView(view: ClusterView, pod: Pod): PodView {
  const occupants = (view.occupants.get(pod.metadata.uid ?? '') ?? []).map(({ occupant }) => occupant);
  const isReady = conditionStatus(pod.status?.conditions, 'Ready') === 'True';
  const booted = occupants.length > 0 && occupants.every(isBooted);
  const failure = failureOf(view, pod);
  const isAvailable = isReady && booted && failure === null;
  const base = {
    pod,
    hasBooted: booted,
    isAvailable,
    isAsleep: booted && occupants.every(({ state }) => state === 'asleep'),
    failure,
    waitingFor: waitingFor(pod, occupants),
    told: occupants[0]?.message ?? null,
  };
  if (failure) return { ...base, state: 'failed' };
  if (!isAvailable || occupants.some(({ state }) => state === 'booting'))
    return { ...base, state: 'starting' };
  if (!occupants.every(({ state }) => awakeStates.includes(state))) return { ...base, state: 'asleep' };
  return { ...base, state: occupants.some(({ served }) => served) ? 'serving' : 'ready' };
}
