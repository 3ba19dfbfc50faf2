/** A steady cluster writes nothing but what leader election needs. */
import { expect, it } from 'vitest';
import { chartNamespace, client, until, untilPhase } from '../harness/cluster.ts';
import { deploy, untilReady } from './deploying.ts';

interface Listed {
  metadata: { name: string; namespace?: string; resourceVersion: string };
}

/** Everything that this system makes or writes, but Leases. */
const collections = [
  '/apis/greenthread.ai/v1alpha1/models',
  '/apis/greenthread.ai/v1alpha1/gpus',
  '/api/v1/namespaces/default/pods',
  '/api/v1/namespaces/default/services',
  `/api/v1/namespaces/${chartNamespace}/pods`,
  `/api/v1/namespaces/${chartNamespace}/secrets`,
  '/api/v1/events',
  '/apis/networking.k8s.io/v1/ingresses',
  '/apis/batch/v1/jobs',
  '/apis/apps/v1/deployments',
  '/apis/apps/v1/daemonsets',
];

/** Resource version of every object, by its path. */
async function versions(): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const path of collections) {
    const { items } = await (await client()).list<Listed>(path);
    for (const { metadata } of items)
      found[`${path} ${metadata.namespace ?? ''}/${metadata.name}`] = metadata.resourceVersion;
  }
  return found;
}

const steadyMs = 20_000;
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

it('two Models asleep: for 20 s no object changes', async (test) => {
  const sleep = { idleTimeout: '1s' };
  for (const [name, product] of [
    ['steady-a', 'NVIDIA-A40'],
    ['steady-b', 'Tesla-T4'],
  ] as const) {
    await deploy(test, name, { modelName: 'Qwen/Qwen2.5-0.5B-Instruct', product, vramPerGPU: '2Gi', sleep });
  }
  for (const name of ['steady-a', 'steady-b']) {
    await untilReady(name);
    await untilPhase(name, ['Sleeping']);
  }
  // What the last change still causes comes first: free bytes are written at most every 5 s.
  await until('the last change is written', async () => {
    const before = await versions();
    await pause(6_000);
    return JSON.stringify(await versions()) === JSON.stringify(before);
  });
  const before = await versions();
  expect(Object.keys(before)).toEqual(
    expect.arrayContaining([
      '/apis/greenthread.ai/v1alpha1/models default/steady-a',
      '/apis/greenthread.ai/v1alpha1/gpus /gpu-n2-0',
    ]),
  );
  await pause(steadyMs);
  expect(await versions()).toEqual(before);
});
