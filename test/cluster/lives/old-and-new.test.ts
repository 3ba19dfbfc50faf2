/** The old pod of a roll: asleep while the new one boots, awake again when that fails. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import {
  applyModel,
  clearViolations,
  conditionOf,
  until,
  untilModel,
  violations,
} from '../harness/cluster.ts';
import { keepAsking } from './asking.ts';
import { atEnd, deploy, occupantsOf, podUids, roll, untilReady } from './deploying.ts';

beforeAll(clearViolations);
afterAll(async () => expect(await violations()).toEqual([]));

const modelName = 'Qwen/Qwen2.5-0.5B-Instruct';
const small = { modelName, vramPerGPU: '2Gi' };

/** States in which an agent reported a pod, each once until it changes; looked at until told to end. */
function watchStates(model: string) {
  let going = true;
  const seen = new Map<string, string[]>();
  const watching = (async () => {
    while (going) {
      for (const { podUid, state } of await occupantsOf(model).catch(() => [])) {
        const states = seen.get(podUid) ?? [];
        if (states.at(-1) !== state) seen.set(podUid, [...states, state]);
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  })();
  return async () => {
    going = false;
    await watching;
    return seen;
  };
}

/** Two of each do not fit on one GPU of its kind. */
const onT4 = { modelName, product: 'Tesla-T4', vramPerGPU: '10Gi' };
const onA40 = { modelName, product: 'NVIDIA-A40', vramPerGPU: '30Gi' };

it.concurrent('where both do not fit, the old pod sleeps while the new one boots, and ends when that serves', async (test) => {
  await deploy(test, 'giving-way', onT4);
  await untilReady('giving-way');
  const [old] = await podUids('giving-way');
  const states = watchStates('giving-way');
  atEnd(test, states);
  const asking = keepAsking('/giving-way', { model: modelName });
  atEnd(test, asking.end);
  await roll('giving-way', { ...onT4, dtype: 'float16' });
  expect((await asking.end()).lost).toEqual([]);
  expect((await states()).get(old!)).toContain('asleep');
});

it.concurrent('a new pod that fails gives way: the old one wakes again and goes on, and says so', async (test) => {
  await deploy(test, 'coming-back', onA40);
  await untilReady('coming-back');
  const [old] = await podUids('coming-back');
  const asking = keepAsking('/coming-back', { model: modelName });
  atEnd(test, asking.end);

  await applyModel('coming-back', { ...onA40, extraArgs: ['--no-such-flag=1'] });
  const failed = await untilModel(
    'coming-back',
    'tells of the failed roll',
    (model) => conditionOf(model, 'Available')?.reason === 'RollFailed',
  );
  expect(conditionOf(failed, 'Available')).toMatchObject({ status: 'True' });
  const sent = asking.sent();
  await until('the old pod answers', async () => asking.sent() > sent + 3);

  await applyModel('coming-back', { ...onA40, vllmImage: 'localhost/no-such-engine:1' });
  await untilModel('coming-back', 'tells of the missing image', (model) =>
    Boolean(conditionOf(model, 'Available')?.message.includes('no-such-engine')),
  );
  await applyModel('coming-back', onA40);
  await untilReady('coming-back');
  await until('the old pod is alone', async () => (await podUids('coming-back')).join() === old);
  expect((await asking.end()).lost).toEqual([]);
});

it.concurrent('to loadFormat gthread the old pod serves until the form is there and the new pod up', async (test) => {
  await deploy(test, 'converted', small);
  await untilReady('converted');
  const asking = keepAsking('/converted', { model: modelName });
  atEnd(test, asking.end);
  await roll('converted', { ...small, loadFormat: 'gthread' });
  const model = await untilModel(
    'converted',
    'tells that it is converted',
    (each) => conditionOf(each, 'Converted')?.reason === 'Converted',
  );
  expect(conditionOf(model, 'Converted')).toMatchObject({ status: 'True' });
  expect((await asking.end()).lost).toEqual([]);
});
