/** Conditions of a Model, with the sentences that people read in `kubectl describe`. */
import type { Condition } from '#api/schema.ts';
import { formatGiB } from '#platform/quantity.ts';
import type { Fetch } from './fetch.ts';
import type { FetchFault, FetchPart, FetchResult } from './fetch-words.ts';
import type { Model } from './kubernetes.ts';
import type { Placement } from './placement.ts';
import type { Failure } from './pod-state.ts';
import type { Rollout } from './rollout.ts';
import { shortened } from './shortened.ts';

export type Told = Pick<Condition, 'type' | 'status' | 'reason' | 'message'>;

/** Reasons that are steps on the way, not worth a warning. */
const progress = [
  'ScaledToZero',
  'NotPlaced',
  'Fetching',
  'Converting',
  'NotConverted',
  'Starting',
  'NotNeeded',
  'Rolling',
];

/** Whether a condition tells of trouble: then its coming is an Event of type Warning. */
export const isTrouble = ({ type, status, reason }: Told): boolean =>
  ((status === 'False' && !progress.includes(reason)) ||
    type === 'RouteConflict' ||
    reason === 'RollFailed' ||
    reason === 'NoRoomToPin') &&
  type !== 'Outdated';

/** RFC 3339 to the second, as metav1.Time is written. */
export const timeText = (ms: number): string => new Date(ms).toISOString().replace(/\.\d{3}Z$/, 'Z');

/** When a condition last changed its status: its old time while the status is the same. */
export const conditionTime = (
  found: { status: string; lastTransitionTime: string } | undefined,
  status: string,
  nowMs: number,
): string => (found?.status === status ? found.lastTransitionTime : timeText(nowMs));

const placeText = ({ replica, target }: Placement): string =>
  `replica ${replica} on ${target![0]!.node}, GPU ${target!.map(({ index }) => index).join(',')}`;

const told = (type: string, status: Told['status'], reason: string, message: string): Told => ({
  type,
  status,
  reason,
  // A hundred replicas are not told one by one.
  message: shortened(message),
});

const scaledToZero = (type: string) => told(type, 'False', 'ScaledToZero', 'spec.replicas is 0');

/** Messages of several replicas; the same one is said once. */
const joined = (items: { replica: number; message: string }[], replicas: number): string =>
  replicas === 1
    ? (items[0]?.message ?? '')
    : [...Map.groupBy(items, ({ message }) => message)]
        .map(([message, same]) => `replica ${same.map(({ replica }) => replica).join(', ')}: ${message}`)
        .join('; ');

export function placedCondition(model: Model, placements: Placement[]): Told {
  if (model.spec.replicas === 0) return scaledToZero('Placed');
  const refused = placements.filter(({ target }) => target === null);
  const unfulfilled = refused.length > 0 ? refused : placements.filter(({ refusal }) => refusal !== null);
  if (unfulfilled.length > 0) {
    const messages = unfulfilled.map(({ replica, refusal }) => ({ replica, message: refusal!.message }));
    const status = refused.length > 0 ? 'False' : 'True';
    return told('Placed', status, unfulfilled[0]!.refusal!.reason, joined(messages, placements.length));
  }
  return told('Placed', 'True', 'Placed', placements.map(placeText).join('; '));
}

/** What failed, or is there no more. */
export const faultsOf = (fetches: Fetch[]): FetchFault[] =>
  fetches.flatMap((fetch) =>
    fetch.state === 'failed' ? [fetch] : fetch.state === 'done' && fetch.lost ? [fetch.lost] : [],
  );

const failedIn = (fetches: Fetch[], part: FetchPart) =>
  faultsOf(fetches).find((fault) => fault.part === part);

/** Commits and size of what is on the disks. */
function filesText(fetches: Fetch[], bytesOf: (fetch: FetchResult) => number | null): string {
  const done = fetches.flatMap((fetch) => (fetch.state === 'done' ? [fetch] : []));
  const commits = [...new Set(done.map(({ commit }) => commit))];
  const bytes = done[0] ? bytesOf(done[0]) : null;
  return `commit ${commits.join(', ')}${bytes === null ? '' : `, ${formatGiB(bytes)}`}`;
}

export function convertedCondition(model: Model, fetches: Fetch[]): Told {
  if (model.spec.loadFormat === 'auto') {
    return told('Converted', 'True', 'NotNeeded', 'loadFormat auto reads the upstream files as they are');
  }
  if (fetches.length === 0) return told('Converted', 'False', 'NotPlaced', 'no place to convert on yet');
  const failed = failedIn(fetches, 'Converting');
  if (failed) return told('Converted', 'False', failed.reason, failed.message);
  const converting = fetches.flatMap((fetch) =>
    fetch.state === 'running' && fetch.progress?.part === 'Converting' ? [fetch] : [],
  )[0];
  if (converting) return told('Converted', 'False', 'Converting', converting.message);
  if (fetches.some(({ state }) => state !== 'done')) {
    return told('Converted', 'False', 'Fetching', 'the upstream files come first');
  }
  const text = filesText(fetches, ({ gthread }) => gthread?.bytes ?? null);
  const warning = fetches.flatMap((fetch) =>
    fetch.state === 'done' && fetch.gthread?.warning ? [`; ${fetch.gthread.warning}`] : [],
  )[0];
  return told('Converted', 'True', 'Converted', `the gthread form of ${text} is on disk${warning ?? ''}`);
}

export function stagedCondition(model: Model, fetches: Fetch[]): Told {
  if (model.spec.replicas === 0) return scaledToZero('Staged');
  if (fetches.length === 0) return told('Staged', 'False', 'NotPlaced', 'no node to fetch to yet');
  const failed = failedIn(fetches, 'Fetching');
  if (failed) return told('Staged', 'False', failed.reason, failed.message);
  if (failedIn(fetches, 'Converting')) {
    return told(
      'Staged',
      'False',
      'NotConverted',
      'the upstream files are on disk, their gthread form is not',
    );
  }
  const running = fetches.find((fetch) => fetch.state === 'running');
  if (running) return told('Staged', 'False', running.progress?.part ?? 'Fetching', running.message);
  return told(
    'Staged',
    'True',
    'Fetched',
    `files of ${filesText(fetches, ({ bytes }) => bytes)} are on disk`,
  );
}

export function availableCondition(model: Model, rollouts: Rollout[], blocked: Failure | null): Told {
  if (model.spec.replicas === 0) return scaledToZero('Available');
  const available = rollouts.filter(({ pods }) => pods.some(({ isAvailable }) => isAvailable));
  const failures = rollouts.flatMap(({ replica, current, refusal }) => {
    const failure = current?.failure ?? refusal;
    return failure ? [{ replica, ...failure }] : [];
  });
  const message = joined(failures, rollouts.length);
  if (available.length === 0) {
    if (failures.length > 0) return told('Available', 'False', failures[0]!.reason, message);
    if (blocked) return told('Available', 'False', blocked.reason, blocked.message);
    const waiting = rollouts.flatMap(({ replica, pods: [pod] }) =>
      pod ? [{ replica, message: `waits: ${pod.waitingFor}` }] : [],
    );
    return waiting.length > 0
      ? told('Available', 'False', 'Starting', joined(waiting, rollouts.length))
      : told('Available', 'False', 'NotPlaced', 'no pod yet');
  }
  const count = `${available.length} of ${rollouts.length} replicas take requests`;
  const keptOnes = rollouts.filter(({ kept, current }) => kept && !current?.isAvailable);
  if (failures.length > 0) {
    const kept = keptOnes.length > 0 ? '; the old pod goes on' : '';
    return told('Available', 'True', 'RollFailed', `${count}${kept}: ${message}`);
  }
  if (keptOnes.length > 0 && blocked) {
    return told('Available', 'True', 'RollFailed', `${count}; the old pod goes on: ${blocked.message}`);
  }
  if (keptOnes.some(({ current }) => current !== null)) {
    const why = keptOnes.flatMap(({ replica, current }) =>
      current?.told ? [{ replica, message: current.told }] : [],
    );
    const waits = why.length > 0 ? `: ${joined(why, rollouts.length)}` : '';
    return told('Available', 'True', 'Rolling', `${count}; a new pod comes up beside the old one${waits}`);
  }
  return told('Available', 'True', 'Available', count);
}

/** Conditions that are there only while they are true. */
export function passingConditions(model: Model, rollouts: Rollout[], lostTo: string | null): Told[] {
  const { namespace, name } = model.metadata;
  const found: Told[] = [];
  if (lostTo !== null) {
    const message = `/${name} belongs to the older Model ${lostTo}/${name}; this one is reached under /${namespace}/${name}`;
    found.push(told('RouteConflict', 'True', 'NameTaken', message));
  }
  const outdated = rollouts.filter(({ isOutdated }) => isOutdated).map(({ replica }) => replica);
  if (outdated.length > 0) {
    const message = `replica ${outdated.join(', ')} runs older images; replaced while asleep, one at a time`;
    found.push(told('Outdated', 'True', 'NewImages', message));
  }
  return found;
}
