/** GreenThread's chart, installed by helm as a user would. */
import { join } from 'node:path';
import { execa } from 'execa';
import { repository } from '../nodes/places.ts';
import { imageNames } from '../oci/images.ts';
import type { Cluster } from './cluster.ts';
import { hubUrl } from './hub.ts';

export const chartNamespace = 'greenthread-system';
/** Longest until controller and agents are ready on a fresh cluster, seconds. */
const readySecondsMax = 120;

/** What differs on a development cluster: its own images, its hub, its edge. */
function developmentValues(): string[] {
  const [name, tag] = imageNames.programs.split(/:(?=[^:]*$)/);
  return [
    `image.repository=${name}`,
    `image.tag=${tag}`,
    `vllm.image=${imageNames.engine}`,
    `controller.huggingFaceEndpoint=${hubUrl}`,
    // Small machines: nodes are seen to die within seconds there.
    'controller.silentAfter=5s',
    // As their kubelets do.
    'storage.keepFreePercent=1',
  ].flatMap((value) => ['--set', value]);
}

export interface Installation {
  /** On simulated GPUs: with the development values. */
  simulated: boolean;
  /** A file of helm values on top. */
  values?: string | undefined;
  /** Further `--set` values. */
  set?: string[];
}

/** Installs or upgrades the release `greenthread` and waits until its pods are ready. */
export async function installChart(
  cluster: Cluster,
  { simulated, values, set = [] }: Installation,
): Promise<void> {
  const there = await execa('helm', ['status', 'greenthread', '--namespace', chartNamespace], {
    env: cluster.env,
    reject: false,
  });
  const words = [
    'upgrade',
    '--install',
    'greenthread',
    join(repository, 'helm/greenthread'),
    ...['--namespace', chartNamespace, '--create-namespace'],
    ...(simulated ? developmentValues() : []),
    ...(values ? ['--values', values] : []),
    ...set.flatMap((value) => ['--set', value]),
  ];
  console.log(`$ helm ${words.join(' ').replaceAll(`${repository}/`, '')}`);
  await execa('helm', words, { env: cluster.env, stdio: ['ignore', 'ignore', 'inherit'] });
  const kubectl = (...args: string[]) =>
    execa('kubectl', ['--namespace', chartNamespace, ...args], {
      env: cluster.env,
      stdio: ['ignore', 'ignore', 'inherit'],
    });
  // The tag of a development image stays while its content changes.
  if (there.exitCode === 0 && simulated) {
    await kubectl('rollout', 'restart', 'deployment/greenthread-controller', 'daemonset/greenthread-agent');
  }
  for (const workload of ['daemonset/greenthread-agent', 'deployment/greenthread-controller']) {
    await kubectl('rollout', 'status', workload, `--timeout=${readySecondsMax}s`);
  }
}
