/** A popular Model is never slept and never preempted, and its VRAM is nobody else's. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import {
  applyModel,
  clearViolations,
  conditionOf,
  untilModel,
  untilPhase,
  violations,
} from '../harness/cluster.ts';
import { answered, ask, lostText, metric, statusOf } from './asking.ts';
import { deploy, podUids, untilReady } from './deploying.ts';

beforeAll(clearViolations);
afterAll(async () => expect(await violations()).toEqual([]));

const modelName = 'Qwen/Qwen2.5-0.5B-Instruct';
const onT4 = { modelName, product: 'Tesla-T4' };
const eager = { fairness: { minRuntime: '0s', maxWaitTime: '0s' } };

it('it stays awake while others on its GPU sleep and push each other out; one that does not fit beside it is refused', async (test) => {
  const popular = {
    ...onT4,
    vramPerGPU: '6Gi',
    fairness: { popular: true },
    sleep: { idleTimeout: '1s' },
  };
  await deploy(test, 'pinned', popular);
  await untilReady('pinned');
  const pod = await podUids('pinned');

  // Beside its 6 GiB either of these two is awake, never both.
  for (const name of ['left', 'right']) {
    await deploy(test, name, { ...onT4, vramPerGPU: '5Gi', ...eager, sleep: { idleTimeout: '5s' } });
    await untilReady(name);
  }
  for (let turn = 0; turn < 5; turn++) {
    for (const name of ['left', 'right']) {
      const answer = await ask(`/${name}`, { model: modelName });
      expect(answered(answer), lostText(answer)).toBe(true);
      expect((await statusOf('/pinned')).state).toBe('serving');
    }
  }
  for (const name of ['left', 'right']) await untilPhase(name, ['Sleeping']);
  expect((await statusOf('/pinned')).state).toBe('serving');
  expect(await metric('/pinned', 'gthread_sidecar_sleep_duration_seconds_count')).toBe(0);
  expect(await metric('/left', 'gthread_sidecar_sleep_duration_seconds_count')).toBeGreaterThan(0);
  const answer = await ask('/pinned', { model: modelName });
  expect(answered(answer), lostText(answer)).toBe(true);
  expect(await podUids('pinned')).toEqual(pod);

  await deploy(test, 'refused', { ...onT4, vramPerGPU: '10Gi' });
  const refused = await untilModel('refused', 'is refused', ({ status }) => status?.phase === 'Pending');
  expect(conditionOf(refused, 'Placed')).toMatchObject({
    reason: 'InsufficientVRAM',
    message: expect.stringMatching(/1 has \d+\.\d GiB left beside popular models, needs 10\.0 GiB/),
  });

  // Pinning a second one would leave no room for the larger of the others: a wish, not yet in force.
  await applyModel('left', { ...onT4, vramPerGPU: '5Gi', fairness: { ...eager.fairness, popular: true } });
  const wished = await untilModel(
    'left',
    'is told that it cannot be pinned',
    (model) => conditionOf(model, 'Placed')?.reason === 'NoRoomToPin',
  );
  expect(conditionOf(wished, 'Placed')).toMatchObject({ status: 'True' });
});
