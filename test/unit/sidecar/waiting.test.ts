/** Asleep, waking, barred, ending: what becomes of requests, and what the agent hears. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import type { Demand } from '#proto/link.ts';
import { chat, openPod, type Pod, type PodOptions, until } from './pod.ts';

const pods: Pod[] = [];
afterEach(async () => {
  await Promise.all(pods.splice(0).map((pod) => pod.close()));
});
async function open(options: PodOptions = {}): Promise<Pod> {
  const pod = await openPod(options);
  pods.push(pod);
  return pod;
}
const demands = (pod: Pod): Demand[] => pod.agent.heard.flatMap(({ demand }) => (demand ? [demand] : []));
const queued = (pod: Pod, count: number) =>
  until(
    `${count} wait`,
    async () => ((await (await fetch(`${pod.url}/status`)).json()) as { queued: number }).queued === count,
  );
const status = async (pod: Pod) =>
  (await (await fetch(`${pod.url}/status`)).json()) as Record<string, unknown>;

describe('a sleeping model', () => {
  it('is woken by one wish for all who wait, and serves them in order', async () => {
    const pod = await open();
    const answers: Promise<Response>[] = [];
    for (let at = 0; at < 8; at++) {
      answers.push(pod.post(`/llama/v1/chat/completions?n=${at}`, chat()));
      await queued(pod, at + 1);
    }
    expect(demands(pod)[0]).toMatchObject({ queued: 1, inFlight: 0, requestsTotal: 1 });
    expect(demands(pod)[0]!.oldestWaitMs).toBeGreaterThan(0);
    expect(pod.engine.seen).toEqual([]);
    pod.agent.tell('WAKING');
    await until('waking', async () => (await status(pod)).state === 'waking');
    pod.agent.tell('SERVING');
    for (const answer of answers) expect((await answer).status).toBe(200);
    expect(pod.engine.seen.map(({ url }) => url)).toEqual(
      answers.map((_, at) => `/v1/chat/completions?n=${at}`),
    );
    const timing = (await answers[0]!).headers.get('server-timing')!;
    const [queue, wake] = [...timing.matchAll(/dur=([\d.]+)/g)].map(([, figure]) => Number(figure));
    expect(queue).toBeGreaterThan(0);
    expect(wake).toBeGreaterThan(0);
    expect(wake).toBeLessThanOrEqual(queue!);
    const metrics = await (await fetch(`${pod.url}/metrics`)).text();
    expect(metrics).toMatch(/gthread_sidecar_wake_deduplications_total 7\n/);
    expect(metrics).toMatch(/gthread_sidecar_wake_duration_seconds_count 1\n/);
    expect(metrics).toMatch(/gthread_sidecar_requests_total\{status="200"\} 8\n/);
  });

  it('is never woken by GET, HEAD or OPTIONS, by a wrong model, or by a closed endpoint', async () => {
    const pod = await open();
    for (const method of ['GET', 'HEAD', 'OPTIONS']) {
      for (const path of [
        '/',
        '/status',
        '/health',
        '/ready',
        '/metrics',
        '/v1/models',
        '/v1/models/org/llama',
        '/v1/chat/completions',
        '/x',
      ]) {
        await (await fetch(pod.url + path, { method })).text();
      }
    }
    expect((await pod.post('/v1/chat/completions', chat({ model: 'gpt-4' }))).status).toBe(404);
    expect((await pod.post('/v1/embeddings', chat())).status).toBe(404);
    expect((await pod.post('/v1/chat/completions', 'no json')).status).toBe(400);
    expect((await status(pod)).queued).toBe(0);
    expect(pod.door.loop.hello().demand.requestsTotal).toBe(0);
    expect(demands(pod)).toEqual([]);
  });

  it('forgets a client that leaves while it waits', async () => {
    const pod = await open();
    const abort = new AbortController();
    const gone = fetch(`${pod.url}/v1/completions`, {
      method: 'POST',
      body: JSON.stringify(chat()),
      signal: abort.signal,
    });
    gone.catch(() => {});
    await queued(pod, 1);
    abort.abort();
    await until('the wish is taken back', () => demands(pod).at(-1)?.queued === 0);
    pod.agent.tell('SERVING');
    expect((await pod.post('/v1/completions', chat())).status).toBe(200);
    expect(pod.engine.seen).toHaveLength(1);
    expect(await (await fetch(`${pod.url}/metrics`)).text()).toMatch(/requests_total\{status="499"\} 1\n/);
  });

  it('refuses beyond maxQueued, maxQueuedBytes and maxWait, each in its client’s shape', async () => {
    const pod = await open({ frontDoor: { maxQueued: 1, maxWaitMs: 80 } });
    const first = pod.post('/v1/messages', chat());
    await queued(pod, 1);
    const second = await pod.post('/v1/chat/completions', chat());
    expect([second.status, second.headers.get('retry-after')]).toEqual([429, '5']);
    expect(await second.json()).toMatchObject({
      error: { type: 'rate_limit_error', param: null, code: 'queue_full' },
    });
    const late = await first;
    expect([late.status, late.headers.get('retry-after')]).toEqual([503, '5']);
    expect(await late.json()).toMatchObject({
      type: 'error',
      error: { type: 'overloaded_error', message: /maxWait/ },
    });
    pod.settings({ maxQueued: 9, maxQueuedBytes: 200, maxWaitMs: 60_000 });
    await until('the settings hold', () => pod.door.loop.settings().frontDoor.maxQueuedBytes === 200);
    const held = pod.post('/v1/completions', chat());
    await queued(pod, 1);
    const big = await pod.post('/v1/completions', chat({ prompt: 'x'.repeat(200) }));
    expect([big.status, await big.json()]).toMatchObject([429, { error: { code: 'queue_bytes_full' } }]);
    pod.agent.tell('SERVING');
    expect((await held).status).toBe(200);
  });

  it('that can never be served is refused with the reason, for good', async () => {
    const pod = await open();
    const waits = pod.post('/v1/chat/completions', chat());
    await queued(pod, 1);
    pod.agent.tell('FAILED', { reason: 'LargerThanGPU', message: 'It needs 90 GiB, the GPU has 48.' });
    for (const answer of [await waits, await pod.post('/v1/chat/completions', chat())]) {
      expect([
        answer.status,
        answer.headers.get('x-should-retry'),
        answer.headers.get('retry-after'),
      ]).toEqual([503, 'false', null]);
      expect(await answer.text()).toContain('LargerThanGPU: It needs 90 GiB, the GPU has 48.');
    }
    pod.agent.tell('FAILED', { reason: 'X', retryAfterMs: 300_000 });
    await until('told', async () => (await status(pod)).reason === 'X');
    const later = await pod.post('/v1/chat/completions', chat());
    expect([later.status, later.headers.get('retry-after')]).toEqual([503, '60']);
  });
});

describe('a barrier', () => {
  it('is answered at once and whenever less runs; a stream goes on across the freeze', async () => {
    const pod = await open({ state: { state: 'SERVING' } });
    const writes: ((text: string | null) => void)[] = [];
    pod.engine.handle = (_, res) => {
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      res.write('data: 1\n\n');
      writes.push((text) => (text === null ? res.end() : res.write(text)));
    };
    const [one, two] = await Promise.all([
      pod.post('/v1/completions', chat()),
      pod.post('/v1/completions', chat()),
    ]);
    const epoch = pod.agent.raise();
    const ups = () =>
      pod.agent.heard.flatMap(({ barrierUp }) =>
        barrierUp ? [`${barrierUp.epoch}:${barrierUp.inFlight}`] : [],
      );
    await until('the barrier stands', () => ups().length > 0);
    const late = pod.post('/v1/completions?late', chat());
    await queued(pod, 1);
    expect(await status(pod)).toMatchObject({
      state: 'deactivating',
      queue: { inFlight: 2, barriered: true },
    });
    writes[0]!(null);
    await one.text();
    await until('one less', () => ups().includes(`${epoch}:1`));
    expect(ups()).toEqual([`${epoch}:2`, `${epoch}:1`]);
    pod.agent.tell('SLEEPING');
    await until('asleep', async () => (await status(pod)).state === 'sleeping');
    expect(pod.engine.seen.some(({ url }) => url.includes('late'))).toBe(false);
    expect(pod.door.loop.hello().demand).toMatchObject({ inFlight: 1, queued: 1 });
    pod.agent.tell('SERVING');
    await until('the late one runs', () => pod.engine.seen.length === 3);
    writes[1]!('data: 2\n\n');
    writes[1]!(null);
    expect(await two.text()).toBe('data: 1\n\ndata: 2\n\n');
    writes[2]!(null);
    expect((await late).status).toBe(200);
    expect(await (await fetch(`${pod.url}/metrics`)).text()).toMatch(/barrier_timeouts_total 1\n/);
  });
});

describe('a preemption', () => {
  it('is counted as the agent tells it, on either side', async () => {
    const pod = await open({ state: { state: 'SERVING' } });
    pod.agent.raise();
    pod.agent.tell('SLEEPING', { gaveWay: true });
    pod.agent.tell('WAKING', { tookRoom: true });
    await until('it wakes', async () => (await status(pod)).state === 'waking');
    pod.agent.tell('SERVING');
    const metrics = async () => (await fetch(`${pod.url}/metrics`)).text();
    await until('it serves again', async () => (await metrics()).includes('{state="serving"} 1'));
    expect(await metrics()).toMatch(
      /preemptions_total\{role="victim"\} 1\n.*preemptions_total\{role="waiter"\} 1\n/s,
    );
    expect(await metrics()).toMatch(/sleep_duration_seconds_count 1\n/);
  });
});

describe('without an agent', () => {
  it('what is awake goes on, what is not waits as pending, and the next agent hears the facts', async () => {
    const pod = await open({ state: { state: 'SERVING', epoch: 7 } });
    pod.agent.close();
    await until('the agent is gone', async () => (await status(pod)).agent === 'gone');
    expect((await pod.post('/v1/completions', chat())).status).toBe(200);
    expect(await status(pod)).toMatchObject({ state: 'serving' });
    pod.agent.state = { ...pod.agent.state, epoch: 8, state: 'SLEEPING' };
    await pod.agent.listen();
    await until('asleep', async () => (await status(pod)).state === 'sleeping');
    expect(pod.agent.hellos.at(-1)).toMatchObject({
      protocol: 1,
      podUid: 'uid-1',
      pod: 'llama-0-abcde',
      namespace: 'team-a',
      model: 'llama',
      replica: 0,
      gpuUuids: ['GPU-1', 'GPU-2'],
      state: 'SERVING',
      epoch: 7,
      bootReady: true,
      demand: { requestsTotal: 1, queued: 0 },
    });
    pod.agent.close();
    await until('pending', async () => (await status(pod)).state === 'pending');
    const waits = pod.post('/v1/completions', chat());
    await queued(pod, 1);
    await pod.agent.listen();
    await until('the wish is in the hello', () => pod.agent.hellos.at(-1)?.demand.queued === 1);
    pod.agent.tell('SERVING');
    expect((await waits).status).toBe(200);
  });

  it('a barrier stays, and is said again to the next one', async () => {
    const pod = await open({ state: { state: 'SERVING' } });
    const epoch = pod.agent.raise();
    await until('up', () => pod.agent.heard.some(({ barrierUp }) => barrierUp?.epoch === epoch));
    pod.agent.close();
    await until('gone', async () => (await status(pod)).agent === 'gone');
    const waits = pod.post('/v1/completions', chat());
    await queued(pod, 1);
    expect(await status(pod)).toMatchObject({ state: 'deactivating', queue: { barriered: true } });
    pod.agent.heard.length = 0;
    // What an agent tells that has not heard of the barrier is older, and ignored.
    pod.agent.state = { ...pod.agent.state, state: 'SERVING', epoch: epoch - 1 };
    await pod.agent.listen();
    await until('said again', () => pod.agent.heard.some(({ barrierUp }) => barrierUp?.epoch === epoch));
    expect(pod.engine.seen).toEqual([]);
    pod.agent.tell('SERVING', { epoch: epoch + 1 });
    expect((await waits).status).toBe(200);
    pod.agent.say({ end: { graceMs: 800 } });
    await until('drained', () => pod.agent.heard.some(({ ending }) => ending?.drained));
    pod.agent.close();
    await until('gone', async () => (await status(pod)).agent === 'gone');
    pod.agent.heard.length = 0;
    await pod.agent.listen();
    await until('drained is said again', () => pod.agent.heard.some(({ ending }) => ending?.drained));
  });

  it('a new pod waits as pending and dials until one answers', async () => {
    const pod = await open({ agentUp: false });
    expect(await status(pod)).toMatchObject({ state: 'pending', bootReady: false });
    expect((await fetch(`${pod.url}/health`)).status).toBe(503);
    pod.agent.state = { ...pod.agent.state, state: 'PENDING', bootReady: false, expectedMs: 40_000 };
    await pod.agent.listen();
    await until('heard', async () => typeof (await status(pod)).expectedMs === 'number');
    pod.agent.tell('SERVING', { bootReady: true });
    await until('healthy', async () => (await fetch(`${pod.url}/health`)).status === 200);
  });
});

describe('a pod that ends', () => {
  const toSibling = (port: number) => ({
    GT_LLAMA_SERVICE_HOST: '127.0.0.1',
    GT_LLAMA_SERVICE_PORT: String(port),
  });

  it('hands its queue to a sibling by one hop, lets what runs finish, then says so', async () => {
    const sibling = await open({ state: { state: 'SERVING' }, endpoints: ['completions'] });
    const pod = await open({ state: { state: 'SERVING' }, env: toSibling(sibling.door.port) });
    let finish = () => {};
    pod.engine.handle = (_, res) => {
      finish = () => res.end('done');
    };
    const runs = pod.post('/v1/completions', chat());
    await until('it runs', () => pod.engine.seen.length === 1);
    pod.agent.tell('DEACTIVATING');
    const waits = pod.post('/llama/v1/completions?q=1', chat(), { 'x-request-id': 'r-1' });
    await queued(pod, 1);
    pod.agent.say({ end: { graceMs: 800 } });
    const handed = await waits;
    expect([handed.status, handed.headers.get('x-request-id')]).toEqual([200, 'r-1']);
    expect(sibling.engine.seen[0]).toMatchObject({
      url: '/v1/completions?q=1',
      headers: { 'x-request-id': 'r-1' },
    });
    expect(sibling.engine.seen[0]!.headers['x-greenthread-hop']).toBeUndefined();
    expect((await pod.post('/v1/completions', chat())).status).toBe(200);
    expect(sibling.engine.seen).toHaveLength(2);
    const endings = () => pod.agent.heard.flatMap(({ ending }) => (ending ? [ending.drained] : []));
    expect(endings()).toEqual([false]);
    expect((await fetch(`${pod.url}/ready`)).status).toBe(503);
    finish();
    expect(await (await runs).text()).toBe('done');
    await until('drained', () => endings().at(-1) === true);
    expect(endings()).toEqual([false, true]);
    expect(await status(pod)).toMatchObject({ ending: true });
  });

  it('never hands on what was handed to it, and tries again where the Service still leads to one that ends', async () => {
    const sibling = await open({ state: { state: 'SERVING' } });
    const pod = await open({ state: { state: 'SERVING' }, env: toSibling(sibling.door.port) });
    for (const { agent } of [pod, sibling]) agent.say({ end: { graceMs: 800 } });
    await until(
      'both end',
      async () => (await status(pod)).ending === true && (await status(sibling)).ending === true,
    );
    const hopped = await pod.post('/v1/messages', chat(), { 'x-greenthread-hop': '1' });
    expect([hopped.status, hopped.headers.get('retry-after')]).toEqual([503, '5']);
    expect(await hopped.json()).toMatchObject({ type: 'error', error: { type: 'overloaded_error' } });
    const lost = await pod.post('/v1/completions', chat());
    expect([lost.status, lost.headers.get('retry-after')]).toEqual([503, '5']);
    expect([pod.engine.seen, sibling.engine.seen]).toEqual([[], []]);
  });

  it('finds the sibling at a later try', async () => {
    let tries = 0;
    const sibling = createServer((req, res) => {
      req.resume();
      if (++tries > 1)
        return res.end(`hop ${req.headers['x-greenthread-hop']} key ${req.headers.authorization}`);
      return res.writeHead(503, { 'x-greenthread-refused': 'pod_ending' }).end('{}');
    });
    await new Promise<void>((resolve) => sibling.listen(0, '127.0.0.1', resolve));
    const pod = await open({ env: toSibling((sibling.address() as AddressInfo).port) });
    pod.agent.say({ end: { graceMs: 800 } });
    await until('it ends', async () => (await status(pod)).ending === true);
    const answer = await pod.post('/v1/completions', chat(), { authorization: 'Bearer k' });
    expect([answer.status, await answer.text(), tries]).toEqual([200, 'hop 1 key Bearer k', 2]);
    sibling.close();
  });

  it('answers 503 with Retry-After where there is no sibling', async () => {
    const pod = await open({ state: { state: 'SLEEPING' }, env: toSibling(1) });
    const waits = pod.post('/v1/completions', chat());
    await queued(pod, 1);
    pod.agent.say({ end: { graceMs: 800 } });
    const answer = await waits;
    expect([answer.status, answer.headers.get('retry-after')]).toEqual([503, '5']);
    expect(await answer.json()).toMatchObject({ error: { code: 'pod_ending' } });
    await until('drained', () => pod.agent.heard.some(({ ending }) => ending?.drained));
  });
});

describe('settings', () => {
  it('apply at once, and bad ones not at all', async () => {
    const lines: string[] = [];
    const pod = await open({ state: { state: 'SERVING' }, log: (line) => void lines.push(line) });
    expect((await pod.post('/v1/embeddings', chat())).status).toBe(404);
    pod.settings({ maxBodyBytes: 64 }, { endpoints: ['embeddings'] });
    await until('they hold', () => pod.door.loop.settings().frontDoor.maxBodyBytes === 64);
    expect((await pod.post('/v1/embeddings', { model: 'chatty' })).status).toBe(200);
    expect((await pod.post('/v1/embeddings', chat({ input: 'x'.repeat(64) }))).status).toBe(413);
    pod.agent.say({ settings: { settings: 'no json' } });
    await until('said', () => lines.some((line) => line.includes('no JSON object')));
    expect(pod.door.loop.settings().frontDoor.maxBodyBytes).toBe(64);
    expect(JSON.parse(pod.door.loop.hello().settings)).toMatchObject({ endpoints: ['embeddings'] });
  });
});
