/** The chart as helm renders it: helm from PATH or from the development cluster's programs; null where neither is there. */
import { existsSync, readdirSync } from 'node:fs';
import { homedir } from 'node:os';
import { delimiter, join } from 'node:path';
import { execa } from 'execa';
import { parseAllDocuments } from 'yaml';
import { root } from '../../tidy/sources.ts';

export const chart = join(root, 'helm/greenthread');
/** A render takes 0.3 s alone. */
const helmMsMax = 30_000;

function findHelm(): string | null {
  const cache = process.env.GREENTHREAD_CACHE || join(homedir(), '.cache/greenthread');
  const built = existsSync(cache) ? readdirSync(cache).filter((name) => name.startsWith('cluster-v')) : [];
  const folders = [...(process.env.PATH ?? '').split(delimiter), ...built.map((name) => join(cache, name))];
  return folders.map((folder) => join(folder, 'helm')).find((file) => existsSync(file)) ?? null;
}
export const helm = findHelm();

export interface Rendered {
  apiVersion: string;
  kind: string;
  metadata: {
    name: string;
    namespace?: string;
    annotations?: Record<string, string>;
    labels?: Record<string, string>;
  };
  // biome-ignore lint/suspicious/noExplicitAny: objects of many kinds, read by what a test knows of them
  [field: string]: any;
}

/** @param set values as `--set` takes them */
export async function render(...set: string[]): Promise<Rendered[]> {
  const { stdout } = await execa(
    helm!,
    ['template', 'greenthread', chart, '--namespace', 'gt', ...set.flatMap((each) => ['--set', each])],
    { timeout: helmMsMax },
  );
  return parseAllDocuments(stdout, { version: '1.1' })
    .map((document) => document.toJS() as Rendered | null)
    .filter((object) => object !== null);
}

/** What helm says of values that it refuses. */
export async function refusal(...set: string[]): Promise<string> {
  const result = await execa(
    helm!,
    ['template', 'greenthread', chart, ...set.flatMap((each) => ['--set', each])],
    {
      reject: false,
      timeout: helmMsMax,
    },
  );
  return result.exitCode === 0 ? '' : result.stderr;
}
