/** Two Models of a real vLLM on one simulated GPU that holds one: the whole way of the weights, on a real cluster. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { annotations } from '#proto/names.ts';
import { downloads } from '../../hack/installation/hub.ts';
import { edgeAddress } from '../../hack/nodes/places.ts';
import {
  applyModel,
  conditionOf,
  deleteModels,
  getModel,
  until,
  untilModel,
  violations,
} from '../cluster/harness/cluster.ts';
import {
  answer,
  atSocket,
  listeningPorts,
  modelSpec,
  podEvents,
  podOf,
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
const dangerous: [method: string, route: string][] = [
  ['POST', 'resume'],
  ['POST', 'pause'],
  ['POST', 'sleep?level=1'],
  ['POST', 'wake_up'],
  ['POST', 'collective_rpc'],
  ['POST', 'reset_prefix_cache'],
  ['POST', 'release_kv_cache_memory'],
  ['GET', 'is_sleeping'],
];
/** What the agent says when weights were read from disk instead of from host memory. */
const notStaged = ['StagingFailed', 'NoRoomToStage', 'WeightsUnusable'];

let upstreams: [Upstream, Upstream];
let end: () => Promise<unknown> = async () => {};
beforeAll(async () => {
  ({ upstreams, end } = await prepare());
}, 1_500_000);
afterAll(async () => {
  if (process.env.GREENTHREAD_TEST_KEEP !== '1') await end();
});

/** Status of a request that would be dangerous if it arrived; 0: no HTTP answer. */
const statusAt = (method: string, url: string): Promise<number> =>
  fetch(url, {
    method,
    ...(method === 'POST' && {
      headers: { 'content-type': 'application/json' },
      body: '{"method":"sleep"}',
    }),
    signal: AbortSignal.timeout(5_000),
  }).then(
    async (response) => {
      await response.body?.cancel();
      return response.status;
    },
    () => 0,
  );

/** Every answer but "there is no such thing here". All at once: ports that are not HTTP's take a request and stay silent. */
async function reachedAt(doors: string[]): Promise<string[]> {
  const found = await Promise.all(
    doors.flatMap((door) =>
      dangerous.map(async ([method, route]) => {
        const status = await statusAt(method, `${door}/${route}`);
        return status === 0 || status === 404 ? [] : [`${method} ${door}/${route}: ${status}`];
      }),
    ),
  );
  return found.flat();
}

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
  'converts, stages and boots both, one after the other',
  async () => {
    await applyModel('one', modelSpec(upstreams[0]));
    await ready('one');
    await applyModel('two', modelSpec(upstreams[1]));
    await ready('two');
    for (const name of ['one', 'two']) {
      expect(conditionOf((await getModel(name))!, 'Converted')?.status).toBe('True');
      const events = await podEvents(name);
      expect(events).toContain('Staged');
      expect(events.filter((reason) => notStaged.includes(reason))).toEqual([]);
    }
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
  const lengths = () => streams.map(({ ids }) => ids.length);
  await until('tokens of each', async () => Math.min(...lengths()) > 8);
  const other = await stream('two', prompts[0]!, 4);
  await until('the other one’s first token', async () => other.ids.length > 0);
  const frozen = lengths();
  await other.done;
  expect(lengths()).toEqual(frozen);
  expect(Math.max(...frozen)).toBeLessThan(120);
  await Promise.all(streams.map(({ done }) => done));
  expect(streams.map(({ finishReason }) => finishReason)).toEqual(['length', 'length', 'length']);
  expect(streams.map(({ ids }) => ids)).toEqual(undisturbed);
});

it('lets nobody in the pods’ network reach what could wake it wrongly, asleep or awake', async () => {
  const before = await answer('one', prompts[1]!);
  const { status } = await podOf('one');
  const ports = await listeningPorts(await workerOf('one'));
  expect(ports.length).toBeGreaterThan(0);
  const doors = [`http://${edgeAddress}/one`, ...ports.map((port) => `http://${status!.podIP}:${port}`)];
  await answer('two', prompts[0]!, 1);
  expect(await reachedAt(doors)).toEqual([]);
  expect(await stateOf('one')).toBe('sleeping');
  expect(await answer('one', prompts[1]!)).toEqual(before);
  expect(await reachedAt(doors)).toEqual([]);
  expect(await answer('one', prompts[1]!)).toEqual(before);
});

it('refuses them inside the pod while it sleeps', async () => {
  const before = await answer('one', prompts[1]!);
  await answer('two', prompts[0]!, 1);
  expect((await atSocket('one', 'POST', '/resume')).status).toBe(500);
  for (const method of ['sleep', 'wake_up', 'discard'])
    expect((await atSocket('one', 'POST', '/collective_rpc', { method })).status).toBe(500);
  expect(JSON.parse((await atSocket('one', 'GET', '/is_sleeping')).text)).toEqual({ is_sleeping: true });
  expect(await answer('one', prompts[1]!)).toEqual(before);
});

it('sleeps at level discard, in force without a new pod, and answers the same', async () => {
  const before = await answer('two', prompts[2]!);
  const { uid } = (await podOf('two')).metadata;
  const spec = modelSpec(upstreams[1]);
  await applyModel('two', { ...spec, sleep: { ...spec.sleep, level: 'discard' } });
  await until('the pod’s settings', async () =>
    (await podOf('two')).metadata.annotations?.[annotations.settings]?.includes('"level":"discard"'),
  );
  await answer('two', prompts[2]!, 1);
  await answer('one', prompts[0]!, 1);
  expect((await atSocket('two', 'GET', '/metrics')).text).toMatch(/engine_sleep_state\{.*"discard_all"\} 1/);
  expect(await answer('two', prompts[2]!)).toEqual(before);
  expect((await podOf('two')).metadata.uid).toBe(uid);
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
    // The node still has what it held after its load.
    expect(await podEvents('one')).not.toContain('Staged');
  },
  bootMsMax,
);

it('never took memory that was not free', async () => {
  expect(await violations()).toEqual([]);
  await deleteModels('one', 'two');
});
