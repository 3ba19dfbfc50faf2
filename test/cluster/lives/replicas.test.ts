/** Replicas by the scale subresource. */
import { expect, it } from 'vitest';
import { client, conditionOf, kubectl, podsOf, until, untilModel } from '../harness/cluster.ts';
import { answered, ask, lostText } from './asking.ts';
import { deploy, untilReady } from './deploying.ts';

const modelName = 'Qwen/Qwen2.5-0.5B-Instruct';
const scale = (replicas: number) => kubectl('scale', 'model', 'scaled', `--replicas=${replicas}`);
const route = async () =>
  (await client()).get('/apis/networking.k8s.io/v1/namespaces/default/ingresses/gt-scaled');

it('a Model scales to two GPUs, to none with its route kept, and back', async (test) => {
  await deploy(test, 'scaled', { modelName, product: 'NVIDIA-A40', vramPerGPU: '3Gi' });
  await untilReady('scaled');

  await scale(2);
  const two = await untilModel('scaled', 'has two replicas', ({ status }) => status?.readyReplicas === 2);
  expect(two.status).toMatchObject({
    replicas: 2,
    readyReplicas: 2,
    servingReplicas: 2,
    node: 'n1',
    gpus: '0,1',
  });
  const pods = await podsOf('scaled');
  expect(new Set(pods.map(({ metadata }) => metadata.annotations!['greenthread.ai/gpu-uuids'])).size).toBe(2);
  expect(await kubectl('get', 'model', 'scaled', '-o', 'jsonpath={.spec.replicas}')).toBe('2');

  await scale(0);
  const none = await untilModel('scaled', 'is scaled to zero', ({ status }) => status?.phase === 'Pending');
  for (const type of ['Placed', 'Staged', 'Available']) {
    expect(conditionOf(none, type)).toMatchObject({ status: 'False', reason: 'ScaledToZero' });
  }
  await until('its pods are gone', async () => (await podsOf('scaled')).length === 0);
  expect(await route()).not.toBeNull();

  await scale(1);
  await untilReady('scaled');
  expect(await podsOf('scaled')).toHaveLength(1);
  const answer = await ask('/scaled', { model: modelName });
  expect(answered(answer), lostText(answer)).toBe(true);
});
