/** The hub stub of a development cluster: in node 1's box, so that it ends with the cluster. */
import { spawn } from 'node:child_process';
import { existsSync, openSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { request } from 'undici';
import { cache, edgeAddress, repository } from '../nodes/places.ts';
import type { Cluster } from './cluster.ts';

/** Port of the hub at node 1's address. */
const port = 8070;
export const hubUrl = `http://${edgeAddress}:${port}`;
/** The upstream models that demo, tests and examples/ deploy; small files under the real names. */
export const models = [
  'meta-llama/Llama-3.1-8B-Instruct',
  'openai/whisper-large-v3-turbo',
  'Qwen/Qwen2.5-0.5B-Instruct',
  'Qwen/Qwen2.5-1.5B-Instruct',
  'BAAI/bge-m3',
  'BAAI/bge-reranker-v2-m3',
  'HuggingFaceTB/SmolLM3-3B',
  'Qwen/Qwen3-0.6B',
  'Qwen/Qwen3-4B',
  'Qwen/Qwen3-8B',
  'Qwen/Qwen3-14B',
  'meta-llama/Llama-3.3-70B-Instruct',
];
const startMsMax = 10_000;

const answers = (): Promise<boolean> =>
  request(`${hubUrl}/stats`, { headersTimeout: 1_000 }).then(
    async ({ statusCode, body }) => {
      await body.dump();
      return statusCode === 200;
    },
    () => false,
  );

/** Folder of the stub's models; one folder per upstream id, as hack/hub reads it. */
export const hubFiles = join(cache, 'hub');

/** Starts the hub unless it runs. */
export async function startHub(cluster: Cluster): Promise<void> {
  if (await answers()) return;
  await mkdir(hubFiles, { recursive: true });
  const missing = models.filter((id) => !existsSync(join(hubFiles, id, 'config.json')));
  if (missing.length > 0) {
    await execa(process.execPath, [join(repository, 'hack/hub/make-models.ts'), hubFiles, ...missing]);
  }
  const log = openSync(join(cache, 'hub.log'), 'w');
  // Through the cluster's own exec: the process then lives in the box's namespaces and dies with it.
  const script = join(repository, 'hack/hub/main.ts');
  const words = [
    'exec',
    'n1',
    process.execPath,
    script,
    '--listen',
    `${edgeAddress}:${port}`,
    '--files',
    hubFiles,
  ];
  spawn(join(repository, 'hack/cluster'), words, {
    detached: true,
    stdio: ['ignore', log, log],
    env: { ...process.env, ...cluster.env },
  }).unref();
  const began = Date.now();
  while (!(await answers())) {
    if (Date.now() - began > startMsMax) throw new Error(`the hub stub did not start: see ${cache}/hub.log`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** Files that the hub served for a model, all in all. */
export async function downloads(id: string): Promise<number> {
  const { body } = await request(`${hubUrl}/stats`);
  const { models } = (await body.json()) as { models: Record<string, { downloads: number }> };
  return models[id]?.downloads ?? 0;
}
