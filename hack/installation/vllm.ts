/** The real vLLM on the development cluster: packages on this machine, image and mount on a node, random models on the hub. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cp, mkdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { importImages } from '../nodes/imports.ts';
import { cache, repository } from '../nodes/places.ts';
import { say } from '../nodes/progress.ts';
import { findNode, readRecord } from '../nodes/record.ts';
import { vllmImage, vllmImageName } from '../oci/vllm-image.ts';
import type { Cluster } from './cluster.ts';
import { hubFiles } from './hub.ts';

/** A download of 2.7 GB on a slow line, ms. */
const installMsMax = 1_800_000;
const makeModelMsMax = 600_000;
/** Where the simulated runtime looks for what it brings into containers (hack/gpu). */
const libraries = '/run/gpu-sim/libraries';

/** @returns path of a python3 that has vLLM; it is installed when it is not there */
export async function vllmPython(): Promise<string> {
  const { stdout } = await execa(join(repository, 'hack/vllm/install.sh'), [], {
    stderr: 'inherit',
    timeout: installMsMax,
  });
  return stdout.trim();
}

/** A Llama of random float32 weights in the cache, made when it is not there. @returns its folder */
export async function randomModel(python: string, gigabytes: number, seed = 1): Promise<string> {
  const script = join(repository, 'hack/vllm/make_model.py');
  const words = ['--gigabytes', String(gigabytes), '--dtype', 'float32', '--seed', String(seed)];
  const { stdout } = await execa(python, [script, ...words], { stderr: 'inherit', timeout: makeModelMsMax });
  return stdout.trim();
}

/** Publishes a random model on the hub stub under this id. @returns its folder in the cache */
export async function publishRandomModel(
  python: string,
  id: string,
  gigabytes: number,
  seed: number,
): Promise<string> {
  const made = await randomModel(python, gigabytes, seed);
  const folder = join(hubFiles, id);
  await mkdir(join(folder, '..'), { recursive: true });
  await rm(`${folder}.new`, { recursive: true, force: true });
  await cp(made, `${folder}.new`, { recursive: true, preserveTimestamps: true });
  await rm(folder, { recursive: true, force: true });
  await rename(`${folder}.new`, folder);
  return made;
}

/**
 * A program outside all pods that takes memory of a node's first GPU until the cluster ends. An engine without a GPU takes 0.6 GiB
 * asleep and its weights more awake, and no card is so small that it holds only one of two.
 */
export async function occupyGpu(cluster: Cluster, node: string, mib: number): Promise<void> {
  const uuids = await cluster.inNode(node, ['sh', '-c', 'ls -d /run/gpu-sim/GPU-*']);
  const uuid = uuids.split('\n')[0]!.replace('/run/gpu-sim/', '');
  const there = await cluster.inNode(node, ['sh', '-c', `pgrep -f '[g]pu-sim-hold ${uuid}' || true`]);
  if (there !== '') return;
  const hold = join(readRecord()!.programs.gpu!, 'gpu-sim-hold');
  // Through the cluster's own exec: the process then lives in the box's namespaces and dies with it.
  const words = ['exec', node, hold, uuid, String(mib)];
  const child = spawn(join(repository, 'hack/cluster'), words, {
    detached: true,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const said = await Promise.race([
    once(child.stdout, 'data').then(([data]) => String(data)),
    once(child, 'exit').then(() => ''),
  ]);
  if (!said.startsWith('holding')) throw new Error(`gpu-sim-hold took no ${mib} MiB of ${uuid} on ${node}`);
  child.stdout.destroy();
  child.unref();
}

/** Brings the image and the packages to a node: a Model with `vllmImage: ` this name then runs the real vLLM there. */
export async function bringVllm(cluster: Cluster, python: string, node: string): Promise<string> {
  const script = 'import sysconfig; print(sysconfig.get_path("purelib"))';
  const { stdout: packages } = await execa(python, ['-c', script]);
  const record = readRecord();
  const gpu = record?.programs.gpu;
  if (!record || !gpu) throw new Error('no cluster with simulated GPUs is up: ./hack/cluster up');
  const sources = { repository, store: join(cache, 'images'), pauseName: '', say };
  const image = await vllmImage(sources, packages.trim(), gpu);
  const imported = await importImages(record, findNode(record, node), [image]);
  if (imported.length > 0) say(`${node}: imported ${imported.join(', ')}`);
  await cluster.inNode(node, ['ln', '-sfn', packages.trim(), libraries]);
  return vllmImageName;
}
