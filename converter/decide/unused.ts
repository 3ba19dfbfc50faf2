/** Which folders under the models path no Model uses. Where there is doubt a folder counts as used. */
import { modelFolder } from '#proto/names.ts';
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
  /** All commits that its resource names, the status included: old pods run on what was fetched then. */
  commits: string[];
}

export interface Verdict extends StoredFolder {
  isUsed: boolean;
  because: string;
}

/**
 * Reads a list of Models as `kubectl get models -A -o json` prints it.
 * @throws FetchFailure BadSettings for anything else, so that a wrong text never means "no Model"
 */
export function parseModels(text: string): WantedModel[] {
  const bad = (why: string) =>
    new FetchFailure('BadSettings', `--models: ${why}; give it what kubectl get models -A -o json prints`);
  let list: { kind?: unknown; items?: unknown };
  try {
    list = JSON.parse(text) as typeof list;
  } catch {
    throw bad('it is no JSON');
  }
  if (!Array.isArray(list?.items)) throw bad('it has no list of items');
  return list.items.map((item: unknown) => {
    const { kind, spec } = (item ?? {}) as { kind?: unknown; spec?: Record<string, unknown> };
    if (kind !== 'Model' || typeof spec?.modelName !== 'string') throw bad('an item is no Model');
    return {
      modelName: spec.modelName,
      revision: typeof spec.revision === 'string' ? spec.revision : 'main',
      isGthread: spec.loadFormat === 'gthread',
      commits: [...new Set(JSON.stringify(item).match(/\b[0-9a-f]{40}\b/g) ?? [])],
    };
  });
}

const used = (because: string) => ({ isUsed: true, because });
const unused = (because: string) => ({ isUsed: false, because });

function verdictOf(stored: StoredFolder, store: Store, models: readonly WantedModel[]) {
  if (store.busy.has(stored.folder)) return used('a Job works on this model');
  const own = models.filter(({ modelName }) => modelFolder(modelName) === stored.folder);
  if (own.length === 0) return unused('no Model has this modelName');
  if (stored.kind === 'unfinished') return used('the next Job goes on from it');
  const refs = store.refs.get(stored.folder);
  const users = own.filter(({ revision, commits }) => {
    const commit = isCommit(revision) ? revision : refs?.get(revision);
    // Of a revision that was never asked for here nothing is known: all commits count as its.
    return commit === undefined || commit === stored.commit || commits.includes(stored.commit ?? '');
  });
  if (users.length === 0) return unused('no Model has this commit');
  if (stored.kind === 'upstream') return used('a Model has this commit');
  if (stored.version !== weightsVersion) return unused('a form that this release does not read');
  return users.some(({ isGthread }) => isGthread)
    ? used('a Model has this commit in the gthread form')
    : unused('no Model of this commit has loadFormat gthread');
}

/** The largest first. */
export function judgeFolders(store: Store, models: readonly WantedModel[]): Verdict[] {
  return store.folders
    .map((stored) => ({ ...stored, ...verdictOf(stored, store, models) }))
    .sort((a, b) => b.bytes - a.bytes || (a.path < b.path ? -1 : 1));
}
