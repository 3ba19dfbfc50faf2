/** Models that fit nowhere. */
import { expect, it } from 'vitest';
import { applyModel, conditionOf, podsOf, untilModel } from '../harness/cluster.ts';
import { answered, ask, lostText } from './asking.ts';
import { deploy, eventsOf, row, untilReady } from './deploying.ts';

const modelName = 'Qwen/Qwen2.5-0.5B-Instruct';

const refusals = [
  {
    name: 'misfit-product',
    why: 'a product that no GPU is of',
    spec: { modelName, product: 'NVIDIA-H100', vramPerGPU: '2Gi' },
    reason: 'NoMatchingGPU',
    message:
      '0/3 GPUs fit: 2 have another product (NVIDIA-A40, want NVIDIA-H100), 1 has another product (Tesla-T4, want NVIDIA-H100)',
  },
  {
    name: 'misfit-size',
    why: 'more VRAM than any GPU has',
    spec: { modelName, vramPerGPU: '60Gi' },
    reason: 'InsufficientVRAM',
    message:
      /^0\/3 GPUs fit: 2 have 4\d\.\d GiB in all, needs 60\.0 GiB, 1 has 1\d\.\d GiB in all, needs 60\.0 GiB$/,
  },
  {
    name: 'misfit-both',
    why: 'more VRAM than the GPU of the right product has',
    spec: { modelName, product: 'Tesla-T4', vramPerGPU: '20Gi' },
    reason: 'InsufficientVRAM',
    message:
      /^0\/3 GPUs fit: 2 have another product \(NVIDIA-A40, want Tesla-T4\), 1 has 1\d\.\d GiB in all, needs 20\.0 GiB$/,
  },
  {
    name: 'misfit-count',
    why: 'more GPUs than a node has',
    spec: { modelName, vramPerGPU: '2Gi', parallelism: { tensor: 4 } },
    reason: 'NotEnoughGPUs',
    message: /^0\/3 GPUs fit: /,
  },
];

it.concurrent.for(refusals)(
  'one that wants $why is Pending and says which GPUs refused it and why',
  async ({ name, spec, reason, message }, test) => {
    await deploy(test, name, spec);
    const model = await untilModel(name, 'is Pending', ({ status }) => status?.phase === 'Pending');
    expect(conditionOf(model, 'Placed')).toMatchObject({
      status: 'False',
      reason,
      message: typeof message === 'string' ? message : expect.stringMatching(message),
    });
    expect(await row(['get', 'models', '-A'], 'default', name)).toEqual(
      expect.arrayContaining(['default', name, 'Pending', '1', '0']),
    );
    expect(await podsOf(name)).toEqual([]);
    expect(await eventsOf(name)).toContainEqual(expect.objectContaining({ type: 'Warning', reason }));
  },
);

it.concurrent('one whose product is mended comes up', async (test) => {
  await deploy(test, 'mended', { modelName, product: 'Tesla-T5', vramPerGPU: '2Gi' });
  await untilModel('mended', 'is Pending', ({ status }) => status?.phase === 'Pending');
  await applyModel('mended', { modelName, product: 'Tesla T4', vramPerGPU: '2Gi' });
  const model = await untilReady('mended');
  expect(model.status).toMatchObject({ node: 'n2', gpus: '0' });
  const answer = await ask('/mended', { model: modelName });
  expect(answered(answer), lostText(answer)).toBe(true);
});
