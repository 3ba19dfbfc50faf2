/** A pod is deleted by hand: its queue is handed on or refused, and it is gone soon. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  applyModel,
  clearViolations,
  client,
  deleteModels,
  type PodObject,
  podsOf,
  until,
  untilModel,
  untilPhase,
  violations,
} from '../harness/cluster.ts';
import { lost, send } from './asking.ts';
import { closeShells } from './node-shell.ts';
import {
  atEdge,
  deletePod,
  deploy,
  gpuOf,
  healGpu,
  node,
  onT4,
  slowEngines,
  statusAt,
  untilStatus,
  upstream,
} from './stage.ts';

beforeAll(clearViolations);
afterEach(async () => {
  await deleteModels('red', 'blue');
  for (const [name, index] of [
    [node, 0],
    ['n1', 0],
    ['n1', 1],
  ] as const)
    await healGpu(name, index);
});
afterAll(closeShells);

const urlOf = (pod: PodObject): string => `http://${pod.status!.podIP}:8000`;

async function getPod(pod: PodObject): Promise<PodObject | null> {
  const path = `/api/v1/namespaces/default/pods/${pod.metadata.name}`;
  const now = await (await client()).get<PodObject>(path);
  return now?.metadata.uid === pod.metadata.uid ? now : null;
}

const untilGone = (pod: PodObject, msMax?: number) =>
  until(`${pod.metadata.name} is gone`, async () => (await getPod(pod)) === null, msMax);

describe('a pod deleted while requests queue', () => {
  it('hands them to its sibling', async () => {
    for (const index of [0, 1]) await slowEngines('n1', index, { bootSeconds: 1 });
    const spec = { modelName: upstream, product: 'NVIDIA-A40', vramPerGPU: '8Gi', replicas: 2 };
    await deploy({ red: { ...spec, sleep: { idleTimeout: '1s', drainTimeout: '2s' } } });
    await untilModel('red', 'has two ready replicas', ({ status }) => status?.readyReplicas === 2);
    const [first] = await podsOf('red');
    await untilStatus(first!.status!.podIP!, 'sleeps', ({ state }) => state === 'sleeping');
    // It cannot be awake before it is gone.
    for (const index of [0, 1]) await slowEngines('n1', index, { wakeBaseMs: 4_000 });
    const url = urlOf(first!);
    const asked = Array.from({ length: 10 }, (_, n) =>
      send({ ...atEdge('red', { stream: n % 2 === 0 }), url }),
    );
    await untilStatus(first!.status!.podIP!, 'has them in its queue', ({ queued }) => queued === 10);
    await deletePod(first!.metadata.name, 'default');
    const answers = await Promise.all(asked.map(({ answer }) => answer));
    expect(answers.map(lost)).toEqual(answers.map(() => null));
    await untilGone(first!);
    expect(await violations()).toEqual([]);
  });

  it('without a sibling has the next pod serve them, or says 503 and when to come back', async () => {
    await slowEngines(node, 0, { bootSeconds: 1 });
    await deploy({ red: onT4({ sleep: { idleTimeout: '1s' } }) });
    const [pod] = await podsOf('red');
    await untilStatus(pod!.status!.podIP!, 'sleeps', ({ state }) => state === 'sleeping');
    await slowEngines(node, 0, { wakeBaseMs: 6_000 });
    const asked = Array.from({ length: 4 }, () => send({ ...atEdge('red'), url: urlOf(pod!) }));
    await untilStatus(pod!.status!.podIP!, 'has them in its queue', ({ queued }) => queued === 4);
    await deletePod(pod!.metadata.name, 'default');
    for (const { answer } of asked) {
      const { status, headers, error } = await answer;
      expect(error).toBe('');
      expect([200, 503]).toContain(status);
      if (status === 503) expect(Number(headers['retry-after'])).toBeGreaterThan(0);
    }
    await untilGone(pod!);
    await untilPhase('red', ['Ready', 'Serving', 'Sleeping']);
  });
});

/** The pods' whole grace is 30 s + drainTimeout; one that ends only when it is over was killed. */
const drainTimeout = '30s';
const graceMs = 60_000;
/** While its containers start, one after the other; SIGTERM comes once. */
const momentsMs = (process.env.GREENTHREAD_TEST_MOMENTS ?? '0,600,1200,2500').split(',').map(Number);

describe('a pod deleted before it has booted', () => {
  it.each(momentsMs)('%i ms after it was made, is gone long before its grace is over', async (afterMs) => {
    await slowEngines(node, 0, { bootSeconds: 30 });
    await applyModel('red', onT4({ sleep: { drainTimeout } }));
    const pod = await until('red has a pod', async () => (await podsOf('red'))[0]);
    await new Promise((resolve) => setTimeout(resolve, afterMs));
    const began = Date.now();
    await deletePod(pod.metadata.name, 'default');
    await untilGone(pod, graceMs / 2);
    console.log(`deleted ${afterMs} ms after it was made: gone after ${Date.now() - began} ms`);
  });

  it('while it waits for room, is gone long before its grace is over', async () => {
    await slowEngines(node, 0, { bootSeconds: 1 });
    await deploy({ blue: onT4({ fairness: { minRuntime: '1m' } }) });
    const busy = send(atEdge('blue', { tokens: 1_500, stream: true }));
    await until('blue streams', async () => busy.pieces() > 0);
    await applyModel('red', onT4({ sleep: { drainTimeout } }));
    const pod = await until('red waits for its first grant', async () => {
      const [found] = await podsOf('red');
      if (!found?.status?.podIP) return null;
      const { state, reason } = await statusAt(found.status.podIP);
      const { status } = await gpuOf(node);
      const occupant = status?.occupants?.find(({ podUid }) => podUid === found.metadata.uid);
      return state === 'pending' && reason !== undefined && occupant?.state === 'waiting' && found;
    });
    await deletePod(pod.metadata.name, 'default');
    await untilGone(pod, graceMs / 2);
    // What blue still says is nobody's wish any more.
    await slowEngines(node, 0, { tokensPerSecond: 1_000 });
    expect(lost(await busy.answer)).toBe(null);
  });
});
