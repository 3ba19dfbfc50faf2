/** A hub stub with one model, a models folder, and the fetch between them, for the fetch's tests. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createLog } from '#platform/log.ts';
import type { Fetched } from '../../../converter/act/report.ts';
import { convertFetched } from '../../../converter/conversion.ts';
import { FetchFailure } from '../../../converter/decide/failures.ts';
import { readSettings } from '../../../converter/decide/settings.ts';
import { fetchRevision } from '../../../converter/loop.ts';
import { type Hub, type HubOptions, startHub } from '../../../hack/hub/hub.ts';
import { type ModelOptions, writeModel } from '../../../hack/hub/models.ts';
import type { RepositoryConfig } from '../../../hack/hub/repository.ts';

export const id = 'org/model';

export interface Bench {
  hub: Hub;
  /** The hub's own folder of the model. */
  source: string;
  modelsDir: string;
  /** All that was logged or printed. */
  output: string[];
  fetch(options?: RunOptions): Promise<Fetched>;
  /** Fetches, then converts. */
  convert(options?: RunOptions): Promise<Required<Fetched>>;
  close(): Promise<void>;
}

export interface RunOptions {
  env?: Record<string, string>;
  signal?: AbortSignal;
  onLine?: (line: string) => void;
}

const open: Bench[] = [];

export async function bench(
  options: { config?: RepositoryConfig; hub?: Partial<HubOptions>; model?: ModelOptions } = {},
): Promise<Bench> {
  const folder = mkdtempSync(join(tmpdir(), 'gt-fetch-'));
  const files = join(folder, 'hub');
  const modelsDir = join(folder, 'models');
  mkdirSync(modelsDir);
  await writeModel(files, id, options.model);
  if (options.config) writeFileSync(join(files, id, '.hub.json'), JSON.stringify(options.config));
  const hub = await startHub({ files, pageSize: 2, ...options.hub });
  const output: string[] = [];
  const runOf = ({ env, signal, onLine }: RunOptions) => ({
    settings: readSettings({ HF_ENDPOINT: hub.url, MODEL_NAME: id, MODELS_DIR: modelsDir, ...env }),
    log: createLog('converter', 'debug', (line) => void output.push(line)),
    signal: signal ?? new AbortController().signal,
    print: (line: string) => {
      output.push(line);
      onLine?.(line);
    },
    backoffMs: 2,
    lockPollMs: 20,
  });
  const made: Bench = {
    hub,
    source: join(files, id),
    modelsDir,
    output,
    fetch: (run = {}) => fetchRevision(runOf(run)),
    convert: async (run = {}) => {
      const options = runOf(run);
      const fetched = await fetchRevision({ ...options, alsoConverts: true });
      return { ...fetched, gthread: await convertFetched(options, fetched) };
    },
    close: async () => {
      await hub.close();
      rmSync(folder, { recursive: true, force: true });
    },
  };
  open.push(made);
  return made;
}

export async function closeAll(): Promise<void> {
  await Promise.all(open.splice(0).map((one) => one.close()));
}

/** What a fetch fails with. @throws what is no FetchFailure */
export async function failure(promise: Promise<unknown>): Promise<FetchFailure> {
  const error = await promise.then(
    () => new Error('nothing was thrown'),
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof FetchFailure)) throw error;
  return error;
}
