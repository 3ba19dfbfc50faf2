/**
 * Weights on a node: one Job for each (node, modelName, revision), shared by all Models that want the same files there.
 * The finished Job is the memory that the files are there; it goes when no Model wants it any more (the files stay).
 */
import type { ModelSpec } from '#api/model.ts';
import { labels, shortHash } from '#proto/names.ts';
import { paths } from './api-paths.ts';
import type { ClusterView } from './cluster-view.ts';
import { type Effect, effectKey } from './effects.ts';
import {
  conditionStatus,
  createdAtMs,
  isTerminating,
  type Job,
  keyOf,
  type Model,
  type ObjectCondition,
  type Pod,
} from './kubernetes.ts';
import { fetchJob } from './manifests/fetch-job.ts';
import { rememberedBy } from './remembered.ts';
import { ownAnnotations } from './settings.ts';

/** A failed fetch is tried again after this, ms: a token or a network may have been mended since. */
export const fetchRetryMs = 10 * 60_000;
/** Longest message of a failed fetch that is shown, characters. */
const messageCharactersMax = 1024;

export type Fetch =
  | { state: 'running'; message: string }
  | { state: 'done'; path: string; commit: string; bytes: number | null }
  | { state: 'failed'; reason: string; message: string };

/** Name of the Job that brings a Model's files to a node. */
export const fetchJobName: (spec: ModelSpec, node: string) => string = rememberedBy(
  ({ modelName, revision }: ModelSpec, node) => `gt-fetch-${shortHash(`${node}\n${modelName}\n${revision}`)}`,
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

function firstStep(
  view: ClusterView,
  fetches: Fetches,
  model: Model,
  { name, node }: { name: string; node: string },
): FetchStep {
  const { modelName, revision } = model.spec;
  const { namespace } = view.settings;
  const what = `${modelName}@${revision} to ${node}`;
  const job = view.snapshot.jobs.get(`${namespace}/${name}`);
  if (!job || isTerminating(job)) {
    const create: Effect = {
      type: 'create',
      kind: 'jobs',
      path: paths.jobs(namespace),
      object: fetchJob(view.settings, model, { name, node }),
      because: `${modelName} is wanted on ${node}`,
    };
    const said = job ? undefined : view.refusals.get(effectKey(create));
    return {
      fetch:
        said === undefined
          ? { state: 'running', message: `fetching ${what}` }
          : { state: 'failed', reason: 'JobRefused', message: said },
      effects: job ? [] : [create],
      wakeAtMs: null,
    };
  }
  return jobStep(view, fetches, job, what);
}

function jobStep(view: ClusterView, fetches: Fetches, job: Job, what: string): FetchStep {
  const pods = fetches.podsOfJob.get(job.metadata.name) ?? [];
  const path = paths.job(view.settings.namespace, job.metadata.name);
  const noted = job.metadata.annotations?.[ownAnnotations.fetchResult];
  const complete =
    conditionStatus(job.status?.conditions, 'Complete') === 'True' || (job.status?.succeeded ?? 0) > 0;
  const result = notedResult(job, noted ?? '') ?? (complete ? resultOf(pods) : null);
  if (result) {
    const note: Effect = {
      type: 'patch',
      kind: 'jobs',
      path,
      patch: { metadata: { annotations: { [ownAnnotations.fetchResult]: JSON.stringify(result) } } },
      because: `${what} is fetched`,
    };
    return { fetch: { state: 'done', ...result }, effects: noted ? [] : [note], wakeAtMs: null };
  }
  const again: Effect = {
    type: 'delete',
    kind: 'jobs',
    path,
    uid: job.metadata.uid ?? '',
    because: `fetch ${what} again`,
  };
  if (complete) {
    // Its pod is gone before its result was read. Fetching again finds every file and downloads none.
    const effects = pods.length > 0 ? [] : [again];
    return { fetch: { state: 'running', message: `fetching ${what}` }, effects, wakeAtMs: null };
  }
  const failed = job.status?.conditions?.find(({ type, status }) => type === 'Failed' && status === 'True');
  if (failed) return failedStep(view, pods, failed, again);
  const early = hopelessFailure(pods);
  return {
    fetch: early ? { state: 'failed', ...early } : pendingFetch(pods, what),
    effects: [],
    wakeAtMs: null,
  };
}

/** A Job that has used up its attempts: told, and after a while begun again. */
function failedStep(view: ClusterView, pods: Pod[], failed: ObjectCondition, again: Effect): FetchStep {
  const retryAtMs = Date.parse(failed.lastTransitionTime ?? '') + fetchRetryMs;
  const fetch: Fetch = { state: 'failed', ...failureOf(pods, failed) };
  if (!Number.isFinite(retryAtMs)) return { fetch, effects: [], wakeAtMs: null };
  const isDue = retryAtMs <= view.nowMs;
  return { fetch, effects: isDue ? [again] : [], wakeAtMs: isDue ? null : retryAtMs };
}

/** The text that the converter left as its last word, of the newest pod that left one. */
const lastWords = (pods: Pod[]): string[] =>
  pods.flatMap((pod) =>
    (pod.status?.containerStatuses ?? []).flatMap((container) => container.state?.terminated?.message ?? []),
  );

function parseResult(
  text: string | undefined,
): { path: string; commit: string; bytes: number | null } | null {
  const value = parseObject(text);
  if (!value || typeof value.path !== 'string' || typeof value.commit !== 'string') return null;
  return {
    path: value.path,
    commit: value.commit,
    bytes: typeof value.bytes === 'number' ? value.bytes : null,
  };
}

const notedResult = rememberedBy((_job: Job, noted) => parseResult(noted));

const resultOf = (pods: Pod[]) => {
  for (const text of lastWords(pods)) {
    const result = parseResult(text);
    if (result) return result;
  }
  return null;
};

/** What the converter said of its failure, by the newest pod that said anything. */
function saidFailure(pods: Pod[]): { reason: string; message: string } | null {
  for (const text of lastWords(pods)) {
    const error = parseObject(text)?.error as { reason?: unknown; message?: unknown } | undefined;
    if (typeof error?.message !== 'string') continue;
    const isName = typeof error.reason === 'string' && /^[A-Za-z][A-Za-z0-9]*$/.test(error.reason);
    return {
      reason: isName ? (error.reason as string) : 'FetchFailed',
      message: error.message.slice(0, messageCharactersMax),
    };
  }
  return null;
}

/** The converter's reasons that may pass by themselves: the Job's next attempt decides. */
const passingReasons = [
  'HubUnreachable',
  'HubUnavailable',
  'RateLimited',
  'ChecksumMismatch',
  'DiskFailed',
  'Busy',
  'Interrupted',
  'Unexpected',
  'FetchFailed',
];

/** A failure that a person must mend is told before the Job has used up its attempts. */
function hopelessFailure(pods: Pod[]): { reason: string; message: string } | null {
  const said = saidFailure(pods);
  return said && !passingReasons.includes(said.reason) ? said : null;
}

function failureOf(
  pods: Pod[],
  failed: { reason?: string; message?: string },
): { reason: string; message: string } {
  const said = saidFailure(pods);
  if (said) return said;
  const detail = lastWords(pods)[0] ?? failed.message ?? failed.reason ?? 'no reason was given';
  return { reason: 'FetchFailed', message: `the fetch Job failed: ${detail.slice(0, messageCharactersMax)}` };
}

/** A fetch under way; an image that cannot be had is said, as the Job itself would wait in silence. */
function pendingFetch(pods: Pod[], what: string): Fetch {
  const waiting = pods[0]?.status?.containerStatuses?.[0]?.state?.waiting;
  if (waiting?.reason && /^(ErrImage|ImagePull|InvalidImage|Create|Run)/.test(waiting.reason)) {
    return {
      state: 'failed',
      reason: waiting.reason.startsWith('ErrImage') ? 'ImagePullBackOff' : waiting.reason,
      message: `the fetch Job's pod: ${(waiting.message ?? waiting.reason).slice(0, messageCharactersMax)}`,
    };
  }
  const unschedulable = pods[0]?.status?.conditions?.find(
    ({ type, status }) => type === 'PodScheduled' && status === 'False',
  );
  return {
    state: 'running',
    message: unschedulable?.message ? `fetching ${what}: ${unschedulable.message}` : `fetching ${what}`,
  };
}

function parseObject(text: string | undefined): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse((text ?? '').trim().split('\n').at(-1) ?? '');
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
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
