/** Two Models of a real vLLM on one simulated GPU that holds one: the whole way of the weights, on a real cluster. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { downloads } from '../../hack/installation/hub.ts';
import { edgeAddress } from '../../hack/nodes/places.ts';
import {
  applyModel,
  conditionOf,
  deleteModels,
  getModel,
  podsOf,
  until,
  untilModel,
  violations,
} from '../cluster/harness/cluster.ts';
import {
  answer,
  listeningPorts,
  modelSpec,
  prepare,
  stateOf,
  statusBytes,
  stream,
  type Upstream,
  usedBytes,
  workerOf,
} from './on-cluster.ts';

/** Conversion, staging, imports of three Python processes on two busy cores, ms. */
const bootMsMax = 600_000;
const MiB = 2 ** 20;
/** What threads and allocators may move besides, bytes. */
const bytesOff = 64 * MiB;
const prompts = ['one two three', 'the quick brown fox', 'hello'];
const dangerous = [
  'resume',
  'pause',
  'sleep?level=1',
  'wake_up',
  'collective_rpc',
  'reset_prefix_cache',
  'release_kv_cache_memory',
  'is_sleeping',
];

let upstreams: [Upstream, Upstream];
let end: () => Promise<unknown> = async () => {};
beforeAll(async () => {
  ({ upstreams, end } = await prepare());
}, 1_500_000);
afterAll(async () => {
  if (process.env.GREENTHREAD_TEST_KEEP !== '1') await end();
});

/** Status of a POST that would be dangerous if it arrived; 0: no HTTP answer. */
const postStatus = (url: string): Promise<number> =>
  fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: '{"method":"sleep"}',
    signal: AbortSignal.timeout(5_000),
  }).then(
    async (response) => {
      await response.body?.cancel();
      return response.status;
    },
    () => 0,
  );

const ready = (name: string) =>
  untilModel(
    name,
    'takes requests',
    (model) =>
      conditionOf(model, 'Available')?.status === 'True' &&
      ['Ready', 'Serving', 'Sleeping'].includes(model.status?.phase ?? ''),
    { msMax: bootMsMax },
  );

it(
  'converts and boots both, one after the other',
  async () => {
    await applyModel('one', modelSpec(upstreams[0]));
    await ready('one');
    await applyModel('two', modelSpec(upstreams[1]));
    await ready('two');
    for (const name of ['one', 'two'])
      expect(conditionOf((await getModel(name))!, 'Converted')?.status).toBe('True');
  },
  2 * bootMsMax,
);

it('wakes by a request; the other one sleeps, and its worker’s memory falls by its weights', async () => {
  await answer('two', 'wake up', 1);
  const two = await workerOf('two');
  const awake = await statusBytes(two, 'VmRSS');
  await answer('one', 'wake up', 1);
  const asleep = await statusBytes(two, 'VmRSS');
  expect(awake - asleep).toBeGreaterThan(upstreams[1].weightsBytes - bytesOff);
  expect(await stateOf('two')).toBe('sleeping');
  const one = await workerOf('one');
  const anonymous = (await statusBytes(one, 'RssAnon')) + (await statusBytes(two, 'RssAnon'));
  expect(Math.abs((await usedBytes()) - anonymous)).toBeLessThan(bytesOff);
});

it('answers after sleeps and wakes what it answered before', async () => {
  const before = [await answer('one', prompts[0]!), await answer('two', prompts[0]!)];
  expect(before[0]!.length).toBe(24);
  expect(before[0]).not.toEqual(before[1]);
  for (let round = 0; round < 2; round += 1)
    expect([await answer('one', prompts[0]!), await answer('two', prompts[0]!)]).toEqual(before);
});

it('freezes three streams when the other one is asked, and goes on with them token for token', async () => {
  const undisturbed = await Promise.all(prompts.map((prompt) => answer('one', prompt, 120)));
  const streams = await Promise.all(prompts.map((prompt) => stream('one', prompt, 120)));
  await until('tokens of each', async () => streams.every(({ ids }) => ids.length > 8));
  await answer('two', prompts[0]!, 1);
  const frozen = streams.map(({ finishReason }) => finishReason);
  await Promise.all(streams.map(({ done }) => done));
  expect(frozen).toEqual([null, null, null]);
  expect(streams.map(({ finishReason }) => finishReason)).toEqual(['length', 'length', 'length']);
  expect(streams.map(({ ids }) => ids)).toEqual(undisturbed);
});

it('lets nobody in the pods’ network reach what could wake it wrongly', async () => {
  await answer('one', prompts[0]!, 1);
  const [pod] = await podsOf('one');
  const ports = await listeningPorts(await workerOf('one'));
  const before = await answer('one', prompts[1]!);
  const doors = [`http://${edgeAddress}/one`, ...ports.map((port) => `http://${pod!.status!.podIP}:${port}`)];
  expect(ports.length).toBeGreaterThan(0);
  // All at once: ports that are not HTTP's take a request and stay silent.
  const reached = await Promise.all(
    doors.flatMap((door) =>
      dangerous.map(async (route) => {
        const status = await postStatus(`${door}/${route}`);
        return status > 0 && status < 400 ? [`${door}/${route} ${status}`] : [];
      }),
    ),
  );
  expect(reached.flat()).toEqual([]);
  expect(await answer('one', prompts[1]!)).toEqual(before);
});

it(
  'comes back after a deletion without a download, with the same answers',
  async () => {
    const before = await answer('one', prompts[0]!);
    const had = await downloads(upstreams[0].id);
    expect(had).toBeGreaterThan(0);
    await deleteModels('one');
    await applyModel('one', modelSpec(upstreams[0]));
    await ready('one');
    expect(await answer('one', prompts[0]!)).toEqual(before);
    expect(await downloads(upstreams[0].id)).toBe(had);
  },
  bootMsMax,
);

it('never took memory that was not free', async () => {
  expect(await violations()).toEqual([]);
  await deleteModels('one', 'two');
});
