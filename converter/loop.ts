/** The fetch: revision → commit → what is left → downloads → published. Each step can be cut off and is gone on from. */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Log } from '#platform/log.ts';
import { download } from './act/download.ts';
import { acquireLock, type Lock } from './act/lock.ts';
import { hashSmallFiles, publish, rememberRevision, removeRemains } from './act/publish.ts';
import { type Fetched, Progress } from './act/report.ts';
import { FetchFailure, hubIsAway } from './decide/failures.ts';
import { chooseFiles, type WantedFile } from './decide/files.ts';
import { type Manifest, makeManifest } from './decide/manifest.ts';
import { formFolder, isCommit, type Places, placesOf } from './decide/places.ts';
import { remaining, requireSpace } from './decide/remaining.ts';
import type { Settings } from './decide/settings.ts';
import { Http, interruption } from './http.ts';
import { inventory, knownCommit, publishedManifest, roomOf } from './observe/disk.ts';
import { publishedForm } from './observe/form.ts';
import { listCommit, resolveRevision } from './observe/hub.ts';

/** Files downloaded at once. */
const parallelMax = 4;
/** Tries of the first question when this node could do without the answer. */
const triesWithKnownCommit = 2;

export interface FetchOptions {
  settings: Settings;
  log: Log;
  /** Aborted on SIGTERM. */
  signal: AbortSignal;
  /** Told of bytes as they come, more of them at each retry. */
  onReceived?: (bytes: number) => void;
  /** Takes progress lines. */
  print: (line: string) => void;
  /** What is fetched will be converted: there must be room for both. */
  alsoConverts?: boolean;
  /** A file on the kubelet's disk (observe/disk.ts). */
  nodeFile?: string;
  backoffMs?: number;
  lockPollMs?: number;
}

interface Run extends FetchOptions {
  places: Places;
  /** Also aborted when one part of the work has failed. */
  stop: AbortController;
}

function httpOf(run: Run, tries?: number): Http {
  const { endpoint, token, modelName, revision } = run.settings;
  return new Http({
    asked: { endpoint, modelName, revision, hasToken: token !== null },
    token,
    signal: AbortSignal.any([run.signal, run.stop.signal]),
    ...(run.backoffMs === undefined ? {} : { backoffMs: run.backoffMs }),
    ...(tries === undefined ? {} : { tries }),
  });
}

/** The commit to fetch. A hub that is away does not keep a revision from being used that this node already has. */
async function findCommit(run: Run): Promise<string> {
  const { settings, places, log } = run;
  const known = isCommit(settings.revision) ? settings.revision : await knownCommit(places.ref);
  const present = known !== null && (await publishedManifest(join(places.model, known), known)) !== null;
  if (present && isCommit(settings.revision)) return settings.revision;
  const http = httpOf(run, present ? triesWithKnownCommit : undefined);
  try {
    return await resolveRevision(http);
  } catch (error) {
    if (!(present && error instanceof FetchFailure && hubIsAway(error))) throw error;
    log.warn('the hub is away: the commit of the last fetch is used', {
      reason: error.reason,
      commit: known,
    });
    return known;
  } finally {
    await http.close();
  }
}

/** Downloads all, four at a time; the first failure stops the others. */
async function downloadAll(
  run: Run,
  files: WantedFile[],
  http: Http,
  onFile: (file: WantedFile) => Promise<void>,
) {
  const queue = [...files];
  const worker = async (): Promise<void> => {
    for (let file = queue.shift(); file && !http.signal.aborted; file = queue.shift()) await onFile(file);
  };
  const results = await Promise.allSettled(
    Array.from({ length: parallelMax }, () =>
      worker().catch((error: unknown) => {
        const failure = http.failureOf(error);
        run.stop.abort(failure);
        throw failure;
      }),
    ),
  );
  // All have ended, so nobody writes any more. The first abort's reason is the one that counts.
  const failed = results.find((result) => result.status === 'rejected');
  if (failed || http.signal.aborted)
    throw http.signal.reason instanceof FetchFailure ? http.signal.reason : http.failureOf(failed?.reason);
}

/** What the conversion after this fetch will write, all but the gaps between tensors; 0 where there is none to come. */
async function formBytesOf(run: Run, commit: string, wanted: readonly WantedFile[]): Promise<number> {
  const { modelsDir, modelName } = run.settings;
  if (!run.alsoConverts || (await publishedForm(formFolder(modelsDir, modelName, commit), commit))) return 0;
  return wanted
    .filter(({ path }) => /^[^/]+\.safetensors$/.test(path))
    .reduce((sum, { bytes }) => sum + bytes, 0);
}

/** Under the lock: fetches what is missing and publishes. @returns the manifest and how many files came */
async function fetchCommit(
  run: Run,
  commit: string,
  lock: Lock,
): Promise<{ manifest: Manifest; downloaded: number }> {
  const { settings, places, log } = run;
  const folder = join(places.incoming, commit);
  const http = httpOf(run);
  try {
    const wanted = chooseFiles(await listCommit(http, commit), settings.modelName);
    // What was converted of files that are not there any more may not be gone on from.
    await rm(places.converting, { recursive: true, force: true });
    await mkdir(folder, { recursive: true });
    const left = remaining(wanted, await inventory(folder, join(places.model, commit), wanted));
    requireSpace(
      { downloadBytes: left.bytes, formBytes: await formBytesOf(run, commit, wanted) },
      await roomOf(folder, run.nodeFile ?? null),
      settings,
    );
    log.info('fetching', {
      commit,
      files: left.files.length,
      bytes: left.bytes,
      totalBytes: left.totalBytes,
    });
    const progress = new Progress(run.print, { state: 'Fetching', ...left });
    const onBytes = (bytes: number): void => {
      progress.add(bytes, Date.now());
      run.onReceived?.(Math.max(bytes, 0));
    };
    await downloadAll(run, left.files, http, async (file) => {
      await download(file, { http, lock, commit, folder, onBytes });
      progress.fileDone();
    });
    progress.print(Date.now());
    const source = {
      modelName: settings.modelName,
      revision: settings.revision,
      commit,
      fetchedAtMs: Date.now(),
    };
    const manifest = makeManifest(source, wanted, await hashSmallFiles(places, commit, wanted));
    if (http.signal.aborted) throw interruption(http.signal);
    lock.requireHeld();
    await publish(places, manifest);
    return { manifest, downloaded: left.files.length };
  } finally {
    await http.close();
  }
}

/**
 * Brings the revision to the node's disk; what is there already is not fetched again.
 * @throws FetchFailure with the reason and the remedy; what was received stays for the next run
 */
export async function fetchRevision(options: FetchOptions): Promise<Fetched> {
  const { settings, log } = options;
  const places = placesOf(settings.modelsDir, settings.modelName, settings.revision);
  const run: Run = { ...options, places, stop: new AbortController() };
  const commit = await findCommit(run);
  const path = join(places.model, commit);
  const result = (manifest: Manifest, downloaded: number): Fetched => ({
    commit,
    path,
    bytes: manifest.bytes,
    files: manifest.files.length,
    downloaded,
  });
  const present = await publishedManifest(path, commit);
  if (present) {
    await removeRemains(places.incoming, [commit]);
    await rememberRevision(places, commit);
    return result(present, 0);
  }
  const lock = await acquireLock(places.lock, {
    signal: options.signal,
    onWait: () => log.info('another fetch of this model is under way: waiting for it'),
    onLost: () =>
      run.stop.abort(new FetchFailure('Busy', 'another fetch of this model took over: this one stops')),
    ...(options.lockPollMs === undefined ? {} : { pollMs: options.lockPollMs }),
  });
  try {
    const meanwhile = await publishedManifest(path, commit);
    const { manifest, downloaded } = meanwhile
      ? { manifest: meanwhile, downloaded: 0 }
      : await fetchCommit(run, commit, lock);
    await rememberRevision(places, commit);
    return result(manifest, downloaded);
  } finally {
    await lock.release();
  }
}
