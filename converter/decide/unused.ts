/** Which folders under the models path no Model and no pod uses. Where there is doubt a folder counts as used. */
import { labels, modelFolder } from '#proto/names.ts';
import { weightsVersion } from '#proto/weights.ts';
import { FetchFailure } from './failures.ts';
import { isCommit } from './places.ts';

/** One folder of ours under the models path. */
export interface StoredFolder {
  /** `org--name`. */
  folder: string;
  /** Under the models path. */
  path: string;
  /** `unfinished`: all that is on its way of one model. */
  kind: 'upstream' | 'gthread' | 'unfinished';
  /** null for what is unfinished. */
  commit: string | null;
  /** Version of the gthread form; null for the rest. */
  version: number | null;
  bytes: number;
}

export interface Store {
  folders: StoredFolder[];
  /** `org--name` → revision → the commit it was when last asked for. */
  refs: ReadonlyMap<string, ReadonlyMap<string, string>>;
  /** `org--name` on which a Job works now. */
  busy: ReadonlySet<string>;
}

/** What a Model wants of the disk. */
export interface WantedModel {
  modelName: string;
  revision: string;
  isGthread: boolean;
  /** All commits that its resource names, the status included. */
  commits: string[];
}

/** What a model pod reads: that of an earlier spec goes on with files that its Model names no more. */
export interface ModelPod {
  /** `namespace/name`. */
  name: string;
  /** Under the models path: `org--name/<commit>`, and `org--name/<commit>.gthread-1` where it reads that too. */
  paths: ReadonlySet<string>;
}

/** What may use files: all Models and all model pods of the cluster. */
export interface Users {
  models: readonly WantedModel[];
  pods: readonly ModelPod[];
}

export interface Verdict extends StoredFolder {
  isUsed: boolean;
  because: string;
}

/** Items of a list as kubectl prints it. @throws FetchFailure BadSettings, so that a wrong text never means "none" */
function itemsOf<T>(text: string, bad: (why: string) => FetchFailure): T[] {
  let list: { items?: unknown } | null;
  try {
    list = JSON.parse(text) as typeof list;
  } catch {
    throw bad('it is no JSON');
  }
  if (!Array.isArray(list?.items)) throw bad('it has no list of items');
  return list.items.map((item: unknown) => (item ?? {}) as T);
}

/**
 * Reads a list of Models as `kubectl get models -A -o json` prints it.
 * @throws FetchFailure BadSettings for anything else
 */
export function parseModels(text: string): WantedModel[] {
  const bad = (why: string) =>
    new FetchFailure('BadSettings', `--models: ${why}; give it what kubectl get models -A -o json prints`);
  return itemsOf<{ kind?: unknown; spec?: Record<string, unknown> }>(text, bad).map((item) => {
    const { kind, spec } = item;
    if (kind !== 'Model' || typeof spec?.modelName !== 'string') throw bad('an item is no Model');
    return {
      modelName: spec.modelName,
      revision: typeof spec.revision === 'string' ? spec.revision : 'main',
      isGthread: spec.loadFormat === 'gthread',
      commits: [...new Set(JSON.stringify(item).match(/\b[0-9a-f]{40}\b/g) ?? [])],
    };
  });
}

/** Folders of ours as a pod's arguments, environment and annotations name them. */
const foldersOf = (pod: object): Set<string> =>
  new Set(
    [
      ...JSON.stringify(pod).matchAll(/([A-Za-z0-9][A-Za-z0-9._-]*\/[0-9a-f]{40})(\.gthread-\d+)?\b/g),
    ].flatMap(
      // Configuration and tokenizer of a form are read from the upstream files.
      ([path, upstream]) => [path, upstream!],
    ),
  );

/**
 * Reads a list of model pods as `kubectl get pods -A -l greenthread.ai/replica -o json` prints it.
 * @throws FetchFailure BadSettings for anything else, and for a pod of which is not known what it reads
 */
export function parsePods(text: string): ModelPod[] {
  const bad = (why: string) =>
    new FetchFailure(
      'BadSettings',
      `--pods: ${why}; give it what kubectl get pods -A -l ${labels.replica} -o json prints`,
    );
  type Item = { kind?: unknown; metadata?: { namespace?: string; name?: string } };
  return itemsOf<Item>(text, bad).map((item) => {
    if (item.kind !== 'Pod') throw bad('an item is no Pod');
    const name = `${item.metadata?.namespace}/${item.metadata?.name}`;
    const paths = foldersOf(item);
    if (paths.size === 0) {
      throw new FetchFailure(
        'BadSettings',
        `pod ${name} names no files, so what it uses is not known: if it is no model pod, take its label ${labels.replica} away`,
      );
    }
    return { name, paths };
  });
}

const used = (because: string) => ({ isUsed: true, because });
const unused = (because: string) => ({ isUsed: false, because });

/** Models that may want a commit: by the commit itself, whatever their name is now, else by name and revision. */
function usersOf(stored: StoredFolder, store: Store, models: readonly WantedModel[]): WantedModel[] {
  const refs = store.refs.get(stored.folder);
  return models.filter(({ modelName, revision, commits }) => {
    if (commits.includes(stored.commit ?? '')) return true;
    if (modelFolder(modelName) !== stored.folder) return false;
    const commit = isCommit(revision) ? revision : refs?.get(revision);
    // Of a revision that was never asked for here nothing is known: all commits count as its.
    return commit === undefined || commit === stored.commit;
  });
}

function verdictOf(stored: StoredFolder, store: Store, { models, pods }: Users) {
  if (store.busy.has(stored.folder)) return used('a Job works on this model');
  const pod = pods.find(({ paths }) => paths.has(stored.path));
  if (pod) return used(`pod ${pod.name} runs on it`);
  const hasName = models.some(({ modelName }) => modelFolder(modelName) === stored.folder);
  if (stored.kind === 'unfinished')
    return hasName ? used('the next Job goes on from it') : unused('no Model has this modelName');
  const users = usersOf(stored, store, models);
  if (users.length === 0) return unused(`no Model has this ${hasName ? 'commit' : 'modelName'}`);
  if (stored.kind === 'upstream') return used('a Model has this commit');
  if (stored.version !== weightsVersion) return unused('a form that this release does not read');
  return users.some(({ isGthread }) => isGthread)
    ? used('a Model has this commit in the gthread form')
    : unused('no Model of this commit has loadFormat gthread');
}

/** The largest first. */
export function judgeFolders(store: Store, users: Users): Verdict[] {
  return store.folders
    .map((stored) => ({ ...stored, ...verdictOf(stored, store, users) }))
    .sort((a, b) => b.bytes - a.bytes || (a.path < b.path ? -1 : 1));
}
