/** The conversion: published files → headers → layout → weights, hashed → published. Each step can be cut off and is gone on from. */
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Log } from '#platform/log.ts';
import { encodeManifest, type WeightsManifest, weightsFiles } from '#proto/weights.ts';
import { damagedAt } from './act/check-form.ts';
import { acquireLock, type Lock } from './act/lock.ts';
import { removeRemains, syncFolder, writeDurably } from './act/publish.ts';
import { type Converted, type Fetched, Progress } from './act/report.ts';
import { findDamaged, removeDamaged } from './act/verify.ts';
import { writeForm } from './act/write-form.ts';
import { FetchFailure } from './decide/failures.ts';
import { type FormParts, formManifest, requireReadable } from './decide/form-manifest.ts';
import { fingerprintOf } from './decide/journal.ts';
import { layOut } from './decide/layout.ts';
import type { Manifest, ManifestFile } from './decide/manifest.ts';
import { formFolder, type Places, placesOf } from './decide/places.ts';
import { requireSpace } from './decide/remaining.ts';
import type { Settings } from './decide/settings.ts';
import { publishedManifest, roomOf } from './observe/disk.ts';
import { publishedForm } from './observe/form.ts';
import { type Checkpoint, readCheckpoint } from './observe/safetensors.ts';

export interface ConvertOptions {
  settings: Settings;
  log: Log;
  /** Aborted on SIGTERM. */
  signal: AbortSignal;
  /** Takes progress lines. */
  print: (line: string) => void;
  /** A file on the kubelet's disk (observe/disk.ts). */
  nodeFile?: string;
  lockPollMs?: number;
}

interface Run extends ConvertOptions {
  places: Places;
  manifest: Manifest;
  /** The published upstream commit. */
  source: string;
  /** Where the form is to be. */
  form: string;
  /** Also aborted when one part of the work has failed. */
  stop: AbortController;
  lock: Lock;
}

/** Checks the files' hashes; a damaged one is taken away. */
async function verify(run: Run, files: readonly ManifestFile[], signal: AbortSignal): Promise<void> {
  const damaged = await findDamaged(run.source, files, signal);
  if (damaged) throw await removeDamaged(run.source, damaged);
}

/** The headers; what is wrong in them is the disk's fault where the hash is wrong as well, else the upstream's. */
async function checkpointOf(run: Run): Promise<Checkpoint> {
  try {
    return await readCheckpoint(run.source, run.manifest.files);
  } catch (error) {
    if (error instanceof FetchFailure && error.reason === 'BadWeights') {
      await verify(run, run.manifest.files, run.signal);
    }
    throw error;
  }
}

/** Conversions of other commits that were never completed, and a published form found damaged. */
async function clear(run: Run): Promise<void> {
  const { converting } = run.places;
  await mkdir(converting, { recursive: true });
  const own = basename(run.form);
  await rename(run.form, join(converting, `${own}.damaged`)).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
  });
  for (const name of await readdir(converting)) {
    if (name !== own && name !== `${own}.journal`)
      await rm(join(converting, name), { recursive: true, force: true });
  }
}

async function publish(run: Run, folder: string, manifest: WeightsManifest): Promise<void> {
  run.lock.requireHeld();
  await writeDurably(join(folder, weightsFiles.manifest), encodeManifest(manifest));
  await rename(folder, run.form);
  await syncFolder(dirname(run.form));
  await rm(run.places.converting, { recursive: true, force: true });
}

/** Under the lock: writes the form and publishes it. @param isFresh whether every byte was hashed as it came, just now */
async function convertCommit(run: Run, isFresh: boolean): Promise<Converted> {
  const { log, manifest, places, settings, signal } = run;
  const { shards, tensors, warning } = await checkpointOf(run);
  if (warning !== null) log.warn('the files do not agree', { commit: manifest.commit, detail: warning });
  const layout = layOut(tensors);
  const sources = manifest.files.filter((file) => shards.some(({ path }) => path === file.path));
  const parts: FormParts = { modelName: settings.modelName, commit: manifest.commit, layout, sources };
  requireReadable(formManifest(parts));
  await clear(run);
  const folder = join(places.converting, basename(run.form));
  const partial = await stat(join(folder, weightsFiles.weights)).catch(() => null);
  const lackBytes = Math.max(layout.bytes - (partial?.size ?? 0), 0);
  requireSpace(
    { downloadBytes: 0, formBytes: lackBytes },
    await roomOf(places.converting, run.nodeFile ?? null),
    settings,
  );
  log.info('converting', { commit: manifest.commit, tensors: tensors.length, bytes: layout.bytes });
  const progress = new Progress(run.print, { state: 'Converting', totalBytes: layout.bytes, haveBytes: 0 });
  let written = 0;
  const working = AbortSignal.any([signal, run.stop.signal]);
  // The first that fails stops the other, whose own failure then says no more.
  let first: unknown = null;
  const failing = (error: unknown): never => {
    first ??= error;
    run.stop.abort(error);
    throw error;
  };
  const results = await Promise.allSettled([
    writeForm({
      source: run.source,
      folder,
      journal: `${folder}.journal`,
      layout,
      fingerprint: fingerprintOf(layout, sources),
      signal: working,
      onKept: (bytes) => progress.add(bytes, Date.now()),
      onWritten: (bytes) => {
        written += bytes;
        progress.add(bytes, Date.now());
      },
    }).catch(failing),
    (isFresh ? Promise.resolve() : verify(run, sources, working)).catch(failing),
  ]);
  progress.print(Date.now());
  if (first !== null) throw first;
  const chunkHashes = (results[0] as PromiseFulfilledResult<Buffer>).value;
  await publish(run, folder, formManifest(parts, chunkHashes));
  const said = warning === null ? {} : { warning };
  return { path: run.form, bytes: layout.bytes, tensors: tensors.length, written, ...said };
}

/**
 * Brings a fetched commit into the gthread form; what is there already is not written again.
 * @throws FetchFailure with the reason and the remedy; what was written stays for the next run
 */
export async function convertFetched(options: ConvertOptions, fetched: Fetched): Promise<Converted> {
  const { settings, log } = options;
  const { commit } = fetched;
  const places = placesOf(settings.modelsDir, settings.modelName, settings.revision);
  const form = formFolder(settings.modelsDir, settings.modelName, commit);
  const there = async (): Promise<Converted | null> => {
    const found = await publishedForm(form, commit);
    const damaged = found && settings.checksForm ? await damagedAt(form, found, options.signal) : null;
    if (damaged !== null) {
      log.warn('the gthread form is damaged and is written again', { form, byte: damaged });
      return null;
    }
    return found && { path: form, bytes: found.bytes, tensors: found.tensors.length, written: 0 };
  };
  // What is read again is read once, under the lock.
  const present = settings.checksForm ? null : await there();
  if (present) {
    const own = basename(form);
    await removeRemains(places.converting, [`${own}.journal`, `${own}.damaged`]);
    return present;
  }
  const stop = new AbortController();
  const lock = await acquireLock(places.lock, {
    signal: options.signal,
    onWait: () => log.info('another Job works on this model: waiting for it'),
    onLost: () => stop.abort(new FetchFailure('Busy', 'another Job took this model over: this one stops')),
    ...(options.lockPollMs === undefined ? {} : { pollMs: options.lockPollMs }),
  });
  try {
    const meanwhile = await there();
    if (meanwhile) return meanwhile;
    const manifest = await publishedManifest(fetched.path, commit);
    if (!manifest) {
      throw new FetchFailure(
        'ChecksumMismatch',
        `${fetched.path} was changed after it was fetched: the next run fetches it again; nobody but this system may write there`,
      );
    }
    const run: Run = { ...options, places, manifest, source: fetched.path, form, stop, lock };
    return await convertCommit(run, fetched.downloaded === manifest.files.length);
  } finally {
    await lock.release();
  }
}
