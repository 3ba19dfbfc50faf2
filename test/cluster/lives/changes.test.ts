/** The table "Changing a spec": what is live keeps the pod, all else rolls it, and no request is lost. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import {
  applyModel,
  clearViolations,
  conditionOf,
  gpus,
  kubectl,
  type Occupant,
  podsOf,
  until,
  untilModel,
  violations,
} from '../harness/cluster.ts';
import { answered, ask, keepAsking, lostText, post, type Question, send } from './asking.ts';
import {
  atEnd,
  deploy,
  type Ending,
  makeUpstream,
  podUids,
  putSecret,
  tagImage,
  untilReady,
} from './deploying.ts';

beforeAll(clearViolations);
afterAll(async () => expect(await violations()).toEqual([]));

const modelName = 'Qwen/Qwen2.5-0.5B-Instruct';
const small = { modelName, vramPerGPU: '2Gi' };
const engineImage = 'localhost/greenthread-engine-sim';

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

const occupantsOf = async (model: string): Promise<(Occupant & { popular?: boolean })[]> =>
  (await gpus()).flatMap(({ status }) => status?.occupants ?? []).filter((each) => each.model === model);

it.concurrent('live settings apply to the running pod, each with no request lost', async (test) => {
  await deploy(test, live, small);
  await untilReady(live);
  const [uid] = await podUids(live);
  const asking = keepAsking(`/${live}`, { model: modelName });
  atEnd(test, asking.end);
  for (const { field, spec, inForce } of liveChanges) {
    await applyModel(live, { ...small, ...spec });
    await until(`${field} is in force`, inForce);
    expect(await podUids(live), field).toEqual([uid]);
  }
  const { sent, lost } = await asking.end();
  expect(lost).toEqual([]);
  expect(sent).toBeGreaterThan(liveChanges.length);
  await untilModel(live, 'sleeps by the new idleTimeout', ({ status }) => status?.phase === 'Sleeping');
  expect(await podUids(live)).toEqual([uid]);
});

/** Applies a spec and waits until a pod of its form is alone and takes requests. */
async function roll(name: string, spec: Spec): Promise<void> {
  const [before] = await podUids(name);
  await applyModel(name, spec);
  await untilReady(name);
  await until(`${name} has one pod, a new one`, async () => {
    const uids = await podUids(name);
    return uids.length === 1 && uids[0] !== before;
  });
}

interface Rolls {
  model: string;
  start: Spec;
  /** Each on top of the ones before. */
  changes: Record<string, Spec>;
  /** Clients that leave `model` out, where it is about to change. */
  unnamed?: true;
  prepare?: (test: Ending) => Promise<unknown>;
}

const rolls: Rolls[] = [
  {
    model: 'roll-engine',
    start: { ...small, product: 'NVIDIA-A40' },
    changes: {
      dtype: { dtype: 'float16' },
      extraArgs: { extraArgs: ['--max-model-len=4096'] },
      aliases: { aliases: ['small-talk'] },
    },
  },
  {
    model: 'roll-memory',
    start: { ...small, product: 'NVIDIA-A40' },
    changes: {
      vramPerGPU: { vramPerGPU: '3Gi' },
      gpuMemoryUtilization: { gpuMemoryUtilization: '0.10', vramPerGPU: '' },
      resources: { resources: { requests: { cpu: '15m' } } },
    },
  },
  {
    model: 'roll-pod',
    start: { ...small, product: 'Tesla-T4' },
    changes: {
      tolerations: { tolerations: [{ key: 'lives', operator: 'Exists' }] },
      serviceAccountName: { serviceAccountName: 'lives' },
      staging: { staging: { pinned: true } },
    },
    prepare: async (test) => {
      atEnd(test, () => kubectl('delete', 'serviceaccount', 'lives', '--ignore-not-found'));
      await kubectl('create', 'serviceaccount', 'lives');
    },
  },
  {
    model: 'roll-images',
    start: { ...small, product: 'Tesla-T4' },
    changes: {
      vllmImage: { vllmImage: `${engineImage}:lives` },
      sidecarImage: { sidecarImage: 'localhost/greenthread:lives' },
    },
    prepare: async () => {
      await tagImage(`${engineImage}:dev`, `${engineImage}:lives`, ['n2']);
      await tagImage('localhost/greenthread:dev', 'localhost/greenthread:lives', ['n2']);
    },
  },
  {
    model: 'roll-place',
    start: { ...small, product: 'NVIDIA-A40' },
    changes: {
      parallelism: { parallelism: { tensor: 2, pipeline: 1 } },
      product: { product: 'Tesla-T4', parallelism: { tensor: 1, pipeline: 1 } },
      nodeSelector: { product: '', nodeSelector: { 'kubernetes.io/hostname': 'n1' } },
    },
  },
  {
    model: 'roll-files',
    start: { ...small, product: 'NVIDIA-A40' },
    unnamed: true,
    changes: {
      quantization: { quantization: 'fp8' },
      modelName: { modelName: 'lives/other' },
    },
    prepare: (test) => makeUpstream(test, 'lives/other'),
  },
];

it.concurrent.for(rolls)(
  '$model: each change makes a new pod, with no request lost',
  async ({ model, start, changes, unnamed, prepare }, test) => {
    await prepare?.(test);
    await deploy(test, model, start);
    await untilReady(model);
    const question: Question = unnamed ? {} : { model: modelName };
    let spec = start;
    for (const [field, change] of Object.entries(changes)) {
      const asking = keepAsking(`/${model}`, question);
      atEnd(test, asking.end);
      spec = { ...spec, ...change };
      await roll(model, spec);
      const { sent, lost } = await asking.end();
      expect(lost, field).toEqual([]);
      expect(sent, field).toBeGreaterThan(1);
    }
  },
);

it('a place that was changed is where the Model then is', async (test) => {
  await deploy(test, 'placed', { ...small, product: 'NVIDIA-A40', parallelism: { tensor: 2 } });
  expect((await untilReady('placed')).status).toMatchObject({ node: 'n1', gpus: '0,1' });
  await roll('placed', { ...small, product: 'Tesla-T4' });
  expect((await untilReady('placed')).status).toMatchObject({ node: 'n2', gpus: '0' });
  const answer = await ask('/placed', { model: modelName });
  expect(answered(answer), lostText(answer)).toBe(true);
});

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

const large = { modelName, product: 'Tesla-T4', vramPerGPU: '10Gi' };

it('where both do not fit, the old pod sleeps while the new one boots, and ends when that serves', async (test) => {
  await deploy(test, 'large', large);
  await untilReady('large');
  const [old] = await podUids('large');
  const states = watchStates('large');
  atEnd(test, states);
  const asking = keepAsking('/large', { model: modelName });
  atEnd(test, asking.end);
  await roll('large', { ...large, dtype: 'float16' });
  expect((await asking.end()).lost).toEqual([]);
  expect((await states()).get(old!)).toContain('asleep');
});

it('a new pod that fails gives way: the old one wakes again and goes on, and says so', async (test) => {
  await deploy(test, 'large', large);
  await untilReady('large');
  const [old] = await podUids('large');
  const asking = keepAsking('/large', { model: modelName });
  atEnd(test, asking.end);

  await applyModel('large', { ...large, extraArgs: ['--no-such-flag=1'] });
  const failed = await untilModel(
    'large',
    'tells of the failed roll',
    (model) => conditionOf(model, 'Available')?.reason === 'RollFailed',
  );
  expect(conditionOf(failed, 'Available')).toMatchObject({ status: 'True' });
  const sent = asking.sent();
  await until('the old pod answers', async () => asking.sent() > sent + 3);

  await applyModel('large', { ...large, vllmImage: 'localhost/no-such-engine:1' });
  await untilModel('large', 'tells of the missing image', (model) =>
    Boolean(conditionOf(model, 'Available')?.message.includes('no-such-engine')),
  );
  await applyModel('large', large);
  await untilReady('large');
  await until('the old pod is alone', async () => (await podUids('large')).join() === old);
  expect((await asking.end()).lost).toEqual([]);
});

it('loadFormat gthread, which this release cannot convert to, keeps the old pod serving', async (test) => {
  await deploy(test, 'unconverted', small);
  await untilReady('unconverted');
  const [old] = await podUids('unconverted');
  await applyModel('unconverted', { ...small, loadFormat: 'gthread' });
  const model = await untilModel(
    'unconverted',
    'tells that it cannot',
    (each) => conditionOf(each, 'Available')?.reason === 'RollFailed',
  );
  expect(conditionOf(model, 'Available')!.message).toContain('spec.loadFormat');
  const answer = await ask('/unconverted', { model: modelName });
  expect(answered(answer), lostText(answer)).toBe(true);
  expect(await podUids('unconverted')).toEqual([old]);
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
