/** The table "Changing a spec", what is live: the pod stays, and no request is lost. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import {
  applyModel,
  clearViolations,
  kubectl,
  podsOf,
  until,
  untilModel,
  violations,
} from '../harness/cluster.ts';
import { ask, keepAsking, post, send } from './asking.ts';
import { atEnd, deploy, occupantsOf, podUids, putSecret, roll, untilReady } from './deploying.ts';

beforeAll(clearViolations);
afterAll(async () => expect(await violations()).toEqual([]));

const modelName = 'Qwen/Qwen2.5-0.5B-Instruct';
const small = { modelName, vramPerGPU: '2Gi' };

type Spec = Record<string, unknown>;

/** What the node's agent acts on. */
async function liveSettings(name: string): Promise<Record<string, Record<string, unknown>>> {
  const [pod] = await podsOf(name);
  return JSON.parse(pod!.metadata.annotations!['greenthread.ai/settings']!);
}

interface LiveChange {
  field: string;
  spec: Spec;
  /** Whether it is in force. */
  inForce: () => Promise<boolean>;
}

const live = 'live';
const liveChanges: LiveChange[] = [
  {
    field: 'fairness',
    spec: { fairness: { minRuntime: '3s', maxWaitTime: '1s', priority: 7 } },
    inForce: async () => {
      const { fairness } = await liveSettings(live);
      return (
        fairness!.minRuntimeMs === 3_000 && fairness!.maxWaitTimeMs === 1_000 && fairness!.priority === 7
      );
    },
  },
  {
    field: 'fairness.popular',
    spec: { fairness: { popular: true } },
    inForce: async () => (await occupantsOf(live)).some(({ popular }) => popular === true),
  },
  {
    field: 'endpoints',
    spec: { endpoints: ['chat_completions', 'tokenize'] },
    inForce: async () => {
      const said = async (path: string) => (await send(`/${live}${path}`, post({ prompt: 'a' }))).status;
      return (await said('/tokenize')) === 200 && (await said('/v1/completions')) === 404;
    },
  },
  {
    field: 'frontDoor.maxBodyBytes',
    spec: { frontDoor: { maxBodyBytes: '2Ki' } },
    inForce: async () =>
      (await send(`/${live}/v1/completions`, post({ prompt: 'a'.repeat(3_000) }))).status === 413,
  },
  {
    field: 'frontDoor.corsOrigins',
    spec: { frontDoor: { corsOrigins: ['https://app.example.com'] } },
    inForce: async () => {
      const { headers } = await send(`/${live}/v1/models`, {
        headers: { origin: 'https://app.example.com' },
      });
      return headers.get('access-control-allow-origin') === 'https://app.example.com';
    },
  },
  {
    // Last: it sleeps as soon as the client pauses.
    field: 'sleep',
    spec: { sleep: { idleTimeout: '8s', drainTimeout: '2s', level: 'offload' } },
    inForce: async () => (await liveSettings(live)).sleep!.idleTimeoutMs === 8_000,
  },
];

it.concurrent('live settings apply to the running pod, each with no request lost', async (test) => {
  await deploy(test, live, small);
  await untilReady(live);
  const [uid] = await podUids(live);
  const asking = keepAsking(`/${live}`, { model: modelName });
  atEnd(test, asking.end);
  for (const { field, spec, inForce } of liveChanges) {
    await applyModel(live, { ...small, ...spec });
    await until(`${field} is in force`, inForce);
    const sent = asking.sent();
    await until('the client was answered under it', async () => asking.sent() > sent + 1);
    expect(await podUids(live), field).toEqual([uid]);
  }
  expect((await asking.end()).lost).toEqual([]);
  await untilModel(live, 'sleeps by the new idleTimeout', ({ status }) => status?.phase === 'Sleeping');
  expect(await podUids(live)).toEqual([uid]);
});

it.concurrent('keys change live with their Secret; another Secret rolls the pod', async (test) => {
  const secrets = ['lives-keys', 'lives-other-keys'];
  atEnd(test, () => kubectl('delete', 'secret', ...secrets, '--ignore-not-found'));
  await putSecret('lives-keys', { alice: 'key-one' });
  await putSecret('lives-other-keys', { bob: 'key-three' });
  const keyed = (secret: string) => ({ ...small, frontDoor: { apiKeysSecret: secret } });
  const statusWith = async (key: string) =>
    (await ask('/keyed', { model: modelName, headers: { authorization: `Bearer ${key}` } })).status;
  await deploy(test, 'keyed', keyed('lives-keys'));
  await untilReady('keyed');
  const [uid] = await podUids('keyed');
  expect([await statusWith('key-one'), await statusWith('key-two')]).toEqual([200, 401]);

  await putSecret('lives-keys', { alice: 'key-two' });
  await until('the new key is in force', async () => (await statusWith('key-two')) === 200, 180_000);
  expect(await statusWith('key-one')).toBe(401);
  expect(await podUids('keyed')).toEqual([uid]);

  await roll('keyed', keyed('lives-other-keys'));
  expect([await statusWith('key-three'), await statusWith('key-two')]).toEqual([200, 401]);
});
