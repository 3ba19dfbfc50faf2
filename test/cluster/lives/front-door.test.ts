/** The front door as clients at the cluster's edge see it. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { edgeAddress } from '../../../hack/nodes/places.ts';
import { applyModel, deleteModels, gpuFolder, gpus, onNode, until, untilPhase } from '../harness/cluster.ts';
import { answered, ask, lostText, metric, newNonce, post, send, statusOf } from './asking.ts';
import { makeUpstream, untilReady } from './deploying.ts';

const upstream = 'lives/slow-talker';
const spec = {
  modelName: upstream,
  product: 'Tesla-T4',
  vramPerGPU: '2Gi',
  endpoints: ['chat_completions', 'completions', 'messages'],
  frontDoor: { maxBodyBytes: '64Ki' },
};
const ends: (() => void | Promise<void>)[] = [];

beforeAll(async () => {
  const test = { onTestFinished: (end: () => void | Promise<void>) => void ends.push(end) };
  await makeUpstream(test, upstream, { simulation: { tokensPerSecond: 10 } });
  await applyModel('door', spec);
  await untilReady('door');
});
afterAll(async () => {
  await deleteModels('door');
  await Promise.all(ends.map((end) => end()));
});

interface AccessLine {
  event: string;
  nonces?: string[];
  outcome?: string;
}

/** What the engine itself wrote of the request with this nonce. */
async function accessLines(nonce: string): Promise<AccessLine[]> {
  const { uuid } = (await gpus()).find(({ metadata }) => metadata.name === 'gpu-n2-0')!.spec;
  const found = await onNode('n2', 'sh', '-c', `grep -h '${nonce}' ${gpuFolder(uuid)}/access.log || true`);
  return found
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as AccessLine);
}
const hasEnded = async (nonce: string): Promise<AccessLine | undefined> =>
  (await accessLines(nonce)).find(({ event }) => event === 'end');

/** A stream of server-sent events of so many tokens, at ten a second. */
async function stream(nonce: string, tokens: number, signal?: AbortSignal) {
  const body = {
    model: upstream,
    messages: [{ role: 'user', content: `Count ${nonce}` }],
    max_tokens: tokens,
    min_tokens: tokens,
    ignore_eos: true,
    stream: true,
  };
  const response = await fetch(`http://${edgeAddress}/door/v1/chat/completions`, {
    ...post(body),
    ...(signal && { signal }),
  });
  expect(response.status).toBe(200);
  expect(response.headers.get('content-type')).toContain('text/event-stream');
  return response.body!.pipeThrough(new TextDecoderStream());
}

it('a stream passes as it is made: the first words are here while the engine still talks', async () => {
  const nonce = newNonce();
  let text = '';
  let chunks = 0;
  for await (const chunk of await stream(nonce, 40)) {
    text += chunk;
    chunks += 1;
    if (chunks === 2) expect(await hasEnded(nonce)).toBeUndefined();
  }
  expect(chunks).toBeGreaterThan(20);
  expect(text).toContain(nonce);
  expect(text.trimEnd()).toMatch(/data: \[DONE\]$/);
});

it('a client that leaves is cancelled in the engine', async () => {
  const nonce = newNonce();
  const leaving = new AbortController();
  const reading = (await stream(nonce, 2_000, leaving.signal)).getReader();
  await reading.read();
  leaving.abort();
  const end = await until('the engine saw it leave', () => hasEnded(nonce), 30_000);
  expect(end.outcome).toBe('cancelled');
});

it('Anthropic’s clients get their answers and their errors', async () => {
  const nonce = newNonce();
  const said = { max_tokens: 4, messages: [{ role: 'user', content: `Say ${nonce}` }] };
  const good = await send('/door/v1/messages', post({ model: upstream, ...said }));
  expect([good.status, good.text]).toEqual([200, expect.stringContaining(nonce)]);
  const bad = await send('/door/v1/messages', post({ model: 'claude', ...said }));
  expect(bad.status).toBe(404);
  expect(JSON.parse(bad.text)).toMatchObject({ type: 'error', error: { type: 'not_found_error' } });
});

it('asleep, it answers from memory, and refuses what it would refuse awake; only a request that it takes wakes it', async () => {
  await applyModel('door', { ...spec, sleep: { idleTimeout: '1s' } });
  await untilPhase('door', ['Sleeping']);
  const wakes = await metric('/door', 'gthread_sidecar_wake_duration_seconds_count');
  const models = await send('/door/v1/models');
  expect(models.status).toBe(200);
  expect(JSON.parse(models.text)).toMatchObject({
    object: 'list',
    data: [{ id: upstream, object: 'model', max_model_len: expect.any(Number) }],
  });
  expect((await send(`/door/v1/models/${encodeURIComponent(upstream)}`)).status).toBe(200);
  expect((await send('/door/health')).status).toBe(200);
  expect((await send('/door/', { method: 'HEAD' })).status).toBe(200);
  expect((await send('/door/v1/chat/completions')).status).toBe(405);
  expect((await send('/door/v1/chat/completions', { method: 'OPTIONS' })).status).toBeLessThan(300);

  const wrong = await ask('/door', { model: 'gpt-4o' });
  expect(wrong.status).toBe(404);
  expect(JSON.parse(wrong.text)).toMatchObject({ error: { code: 'model_not_found', param: 'model' } });
  const closed = await send('/door/v1/embeddings', post({ model: upstream, input: 'a' }));
  expect([closed.status, JSON.parse(closed.text)]).toMatchObject([
    404,
    { error: { code: 'endpoint_closed' } },
  ]);
  const large = await send('/door/v1/completions', post({ model: upstream, prompt: 'a'.repeat(70_000) }));
  expect([large.status, JSON.parse(large.text)]).toMatchObject([413, { error: { code: 'body_too_large' } }]);

  expect(await statusOf('/door')).toMatchObject({ state: 'sleeping', queue: { inFlight: 0 } });
  expect(await metric('/door', 'gthread_sidecar_wake_duration_seconds_count')).toBe(wakes);
  const answers = await Promise.all([1, 2, 3].map(() => ask('/door', { model: upstream })));
  for (const answer of answers) expect(answered(answer), lostText(answer)).toBe(true);
  expect(answers[0]!.headers.get('server-timing')).toMatch(/wake|queue/);
  expect(await metric('/door', 'gthread_sidecar_wake_duration_seconds_count')).toBe(wakes + 1);
});

it('the engine’s own administration is not to be reached', async () => {
  for (const path of ['/sleep', '/wake_up', '/is_sleeping', '/collective_rpc', '/v1/../sleep', '/%73leep']) {
    expect((await send(`/door${path}`, { method: 'POST' })).status, path).toBe(404);
  }
});
