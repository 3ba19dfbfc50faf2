/**
 * Weights on a node: one Job for each (node, modelName, revision) and form, shared by all Models that want the same there.
 * The finished Job is the memory that the files are there; it goes when no Model wants it any more (the files stay).
 */
import type { ModelSpec } from '#api/model.ts';
import { labels, shortHash } from '#proto/names.ts';
import { paths } from './api-paths.ts';
import type { ClusterView } from './cluster-view.ts';
import { timeText } from './conditions.ts';
import { type Effect, effectKey } from './effects.ts';
import {
  type FetchFault,
  type FetchProgress,
  type FetchResult,
  faultOf,
  hopelessFault,
  imageFault,
  parseResult,
  progressOf,
  resultOf,
  saidFault,
  unschedulable,
} from './fetch-words.ts';
import {
  createdAtMs,
  isTerminating,
  type Job,
  keyOf,
  type Model,
  type ObjectCondition,
  type Pod,
} from './kubernetes.ts';
import { type LostFiles, lostOf, lostOn, ofModel } from './lost-files.ts';
import { fetchJob } from './manifests/fetch-job.ts';
import { rememberedBy } from './remembered.ts';
import { ownAnnotations } from './settings.ts';

/** A failed fetch is tried again after this, ms: a disk or a network may have been mended since. */
export const fetchRetryMs = 10 * 60_000;
/** So is one that the hub refused: a licence is accepted, a Secret of the user's edited, and nothing here shows it. */
export const accessRetryMs = 2 * 60_000;
const accessReasons = ['TokenNeeded', 'TokenRefused', 'LicenceNotAccepted', 'NotFoundOrPrivate'];
/** A Job that ended well without a result that can be read is begun again after this, ms: its pod's last words may follow it. */
export const wordlessMs = 30_000;
export type Fetch =
  | { state: 'running'; message: string; progress: FetchProgress | null }
  /** `lost`: what the node's agent says of files that are there no more. */
  | ({ state: 'done'; lost: FetchFault | null } & FetchResult)
  | ({ state: 'failed' } & FetchFault);

/**
 * Name of the Job that brings a Model's files to a node. A Job that converts has a name of its own: it begins with a fetch
 * that downloads nothing where another Job was first, and the converter's lock makes one wait for the other.
 */
export const fetchJobName: (spec: ModelSpec, node: string) => string = rememberedBy(
  ({ modelName, revision, loadFormat }: ModelSpec, node) =>
    `gt-${loadFormat === 'gthread' ? 'convert' : 'fetch'}-${shortHash(`${node}\n${modelName}\n${revision}`)}`,
);

/** The Jobs that the plan still needs, and the pods by the Job that made them. */
export interface Fetches {
  /** Where each wanted Job stands: of Models that share one, the first moves it on. */
  wanted: Map<string, Fetch>;
  /** Jobs that stay although nothing moves them on now: a place is being reserved, a pod lives there. */
  kept: Set<string>;
  podsOfJob: ReadonlyMap<string, Pod[]>;
}

export function fetchesOf(view: ClusterView): Fetches {
  const podsOfJob = Map.groupBy(
    [...view.snapshot.ownPods.values()]
      .filter((pod) => pod.metadata.labels?.['batch.kubernetes.io/job-name'])
      .sort((left, right) => createdAtMs(right) - createdAtMs(left)),
    (pod) => pod.metadata.labels!['batch.kubernetes.io/job-name']!,
  );
  return { wanted: new Map(), kept: new Set(), podsOfJob };
}

interface FetchStep {
  fetch: Fetch;
  effects: Effect[];
  wakeAtMs: number | null;
}

/** Where the fetch for a Model on a node stands, and what moves it on. */
export function fetchStep(view: ClusterView, fetches: Fetches, model: Model, node: string): FetchStep {
  const name = fetchJobName(model.spec, node);
  const shared = fetches.wanted.get(name);
  if (shared) return { fetch: shared, effects: [], wakeAtMs: null };
  const step = firstStep(view, fetches, model, { name, node });
  fetches.wanted.set(name, step.fetch);
  return step;
}

/** What a Job is for. */
interface Work {
  /** In words: which files, to which node. */
  what: string;
  /** Why they are brought once more; empty when they are not. */
  why: string;
  converts: boolean;
  /** What the node's agent says of this model's files. */
  lost: LostFiles[];
}

function firstStep(
  view: ClusterView,
  fetches: Fetches,
  model: Model,
  at: { name: string; node: string },
): FetchStep {
  const { modelName, revision, loadFormat } = model.spec;
  const { namespace } = view.settings;
  const lost = ofModel(lostOn(view, at.node), modelName);
  const work: Work = {
    what: `${modelName}@${revision} to ${at.node}`,
    why: lost[0] ? `: ${lost[0].message}` : '',
    converts: loadFormat === 'gthread',
    lost,
  };
  const { what } = work;
  const job = view.snapshot.jobs.get(`${namespace}/${at.name}`);
  if (!job || isTerminating(job)) {
    const create: Effect = {
      type: 'create',
      kind: 'jobs',
      path: paths.jobs(namespace),
      object: jobToBe(view, model, at),
      because: `${modelName} is wanted on ${at.node}`,
    };
    const said = job ? undefined : view.refusals.get(effectKey(create));
    return {
      fetch:
        said === undefined
          ? { state: 'running', message: `fetching ${what}${work.why}`, progress: null }
          : { state: 'failed', reason: 'JobRefused', message: said, part: 'Fetching' },
      effects: job ? [] : [create],
      wakeAtMs: null,
    };
  }
  const strayed = whyStrayed(view, job, at.node);
  if (strayed !== null) {
    return {
      fetch: { state: 'running', message: `fetching ${what}: ${strayed}`, progress: null },
      effects: [deletion(view, job, `fetch ${what} again: ${strayed}`)],
      wakeAtMs: null,
    };
  }
  const pods = (fetches.podsOfJob.get(at.name) ?? []).filter((pod) => isOf(pod, job));
  const step = jobStep(view, job, pods, work);
  // What failed with another token, endpoint or image than today's is not waited for.
  const isStuck = step.fetch.state === 'failed' || (step.fetch.state === 'running' && isTroubled(pods));
  if (!isStuck || step.effects.length > 0 || inputsOf(job) === inputsOf(jobToBe(view, model, at)))
    return step;
  return {
    fetch: step.fetch,
    effects: [deletion(view, job, `try ${what} with what has changed`)],
    wakeAtMs: null,
  };
}

/** Why a Job's files, there or on their way, are not where pods look for them; null when they are. */
function whyStrayed(view: ClusterView, job: Job, nodeName: string): string | null {
  const { modelsPath } = view.settings;
  const volume = job.spec?.template.spec.volumes.find(({ hostPath }) => hostPath !== undefined);
  const path = volume?.hostPath?.path ?? modelsPath;
  if (path !== modelsPath) return `storage.modelsPath was ${path}, is ${modelsPath}`;
  const node = view.snapshot.nodes.get(nodeName);
  const isOther = node !== undefined && createdAtMs(node) > createdAtMs(job);
  return isOther ? `${nodeName} is a newer Node than the one that they were brought to` : null;
}

/** The Job, with a hash of all that its outcome depends on. */
function jobToBe(view: ClusterView, model: Model, at: { name: string; node: string }): Job {
  const { settings } = view;
  const lost = ofModel(lostOn(view, at.node), model.spec.modelName);
  const job = fetchJob(settings, model, { ...at, checksForm: lost.some(({ state }) => state === 'Damaged') });
  const inputs = shortHash(JSON.stringify([job.spec, settings.huggingFace.tokenVersion]));
  job.metadata.annotations = { [ownAnnotations.fetchInputs]: inputs };
  return job;
}

const inputsOf = (job: Job): string => job.metadata.annotations?.[ownAnnotations.fetchInputs] ?? '';

/** Of an earlier Job of the same name pods may be left for a while. */
const isOf = (pod: Pod, job: Job): boolean => {
  const uid = pod.metadata.labels?.['batch.kubernetes.io/controller-uid'];
  return uid === undefined || uid === job.metadata.uid;
};

/** A Job that goes on, but of which an attempt failed or a pod finds no place. */
const isTroubled = (pods: Pod[]): boolean => saidFault(pods) !== null || unschedulable(pods) !== null;

const deletion = (view: ClusterView, job: Job, because: string): Effect => ({
  type: 'delete',
  kind: 'jobs',
  path: paths.job(view.settings.namespace, job.metadata.name),
  uid: job.metadata.uid ?? '',
  because,
});

const trueCondition = (job: Job, wanted: string): ObjectCondition | undefined =>
  job.status?.conditions?.find(({ type, status }) => type === wanted && status === 'True');

function jobStep(view: ClusterView, job: Job, pods: Pod[], work: Work): FetchStep {
  const { what, converts } = work;
  const noted = job.metadata.annotations?.[ownAnnotations.fetchResult];
  const ended = trueCondition(job, 'Complete');
  const complete = ended !== undefined || (job.status?.succeeded ?? 0) > 0;
  const result = notedResult(job, noted ?? '') ?? (complete ? resultOf(pods) : null);
  if (result && (result.gthread !== null || !converts)) {
    const endedAtMs = ended?.lastTransitionTime ? Date.parse(ended.lastTransitionTime) : createdAtMs(job);
    const step = lostStep(view, job, work, { result, endedAtMs });
    if (step) return step;
    const note: Effect = {
      type: 'patch',
      kind: 'jobs',
      path: paths.job(view.settings.namespace, job.metadata.name),
      patch: { metadata: { annotations: { [ownAnnotations.fetchResult]: JSON.stringify(result) } } },
      because: `${what} is ${converts ? 'converted' : 'fetched'}`,
    };
    return { fetch: { state: 'done', lost: null, ...result }, effects: noted ? [] : [note], wakeAtMs: null };
  }
  const again = deletion(view, job, `fetch ${what} again`);
  if (complete) return wordlessStep(view, pods, ended, { what, again });
  const failed = trueCondition(job, 'Failed');
  if (failed) return failedStep(view, pods, failed, again);
  const fault = hopelessFault(pods) ?? imageFault(pods);
  return {
    fetch: fault ? { state: 'failed', ...fault } : runningFetch(view, job, pods, work),
    effects: [],
    wakeAtMs: null,
  };
}

/** A finished Job whose files are there no more; null when they are. Begun again once it is time, told until then. */
function lostStep(
  view: ClusterView,
  job: Job,
  { what, lost }: Work,
  { result, endedAtMs }: { result: FetchResult; endedAtMs: number },
): FetchStep | null {
  const word = lostOf(lost, result, endedAtMs);
  if (!word) return null;
  const { fault, redoAtMs } = word;
  const message = `fetching ${what} again: ${fault.message}`;
  if (redoAtMs <= view.nowMs) {
    const fetch: Fetch = { state: 'running', message, progress: null };
    return { fetch, effects: [deletion(view, job, message)], wakeAtMs: null };
  }
  const again = `; its Job is begun again at ${timeText(redoAtMs)}`;
  const told = { ...fault, message: `${fault.message}${again}` };
  return { fetch: { state: 'done', lost: told, ...result }, effects: [], wakeAtMs: redoAtMs };
}

/** A Job whose pod is gone before its result was read, or left none: begun again, it finds every file and downloads none. */
function wordlessStep(
  view: ClusterView,
  pods: Pod[],
  ended: ObjectCondition | undefined,
  { what, again }: { what: string; again: Effect },
): FetchStep {
  const message = `fetching ${what}: its Job ended without a result (is the node's disk full?) and is begun again`;
  const fetch: Fetch = { state: 'running', message, progress: null };
  const dueMs = pods.length > 0 ? Date.parse(ended?.lastTransitionTime ?? '') + wordlessMs : view.nowMs;
  if (dueMs <= view.nowMs) return { fetch, effects: [again], wakeAtMs: null };
  return { fetch, effects: [], wakeAtMs: Number.isFinite(dueMs) ? dueMs : null };
}

/** A Job that has used up its attempts: told, and after a while begun again. */
function failedStep(view: ClusterView, pods: Pod[], failed: ObjectCondition, again: Effect): FetchStep {
  const fault = faultOf(pods, failed);
  const fetch: Fetch = { state: 'failed', ...fault };
  const pauseMs = accessReasons.includes(fault.reason) ? accessRetryMs : fetchRetryMs;
  const retryAtMs = Date.parse(failed.lastTransitionTime ?? '') + pauseMs;
  if (!Number.isFinite(retryAtMs)) return { fetch, effects: [], wakeAtMs: null };
  const isDue = retryAtMs <= view.nowMs;
  return { fetch, effects: isDue ? [again] : [], wakeAtMs: isDue ? null : retryAtMs };
}

const notedResult = rememberedBy((_job: Job, noted) => parseResult(noted));

function runningFetch(view: ClusterView, job: Job, pods: Pod[], { what, why }: Work): Fetch {
  const { namespace, progress: told } = view.settings;
  const notes = told ? view.snapshot.progress.get(`${namespace}/${told.configMap}`) : undefined;
  const progress = progressOf(notes, job.metadata.name);
  const doing = progress?.part === 'Converting' ? 'converting' : 'fetching';
  const waits = unschedulable(pods);
  return { state: 'running', message: `${doing} ${what}${waits ? `: ${waits}` : why}`, progress };
}

/** Jobs of ours that no Model wants any more. */
export function unwantedFetches(view: ClusterView, fetches: Fetches): Effect[] {
  return [...view.snapshot.jobs.values()]
    .filter((job) => job.metadata.labels?.[labels.model] !== undefined)
    .filter(({ metadata }) => !fetches.wanted.has(metadata.name) && !fetches.kept.has(metadata.name))
    .filter((job) => !isTerminating(job))
    .map((job) => ({
      type: 'delete',
      kind: 'jobs',
      path: paths.job(view.settings.namespace, job.metadata.name),
      uid: job.metadata.uid ?? '',
      because: `no Model wants ${keyOf(job)} any more`,
    }));
}
