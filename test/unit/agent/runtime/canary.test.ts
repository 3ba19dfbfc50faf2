/** The canary's question over a real socket: which route is asked, and what becomes of each answer. */
import { createServer, type ServerResponse } from 'node:http';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { askCanary, canaryTimeoutMs } from '../../../../agent/act/canary.ts';
import { engineSocket } from '../../../../agent/act/engine-socket.ts';
import { afterwards, cleanUp, folder } from './until.ts';

afterEach(cleanUp);
afterEach(() => vi.useRealTimers());

const completed = JSON.stringify({
  choices: [
    { logprobs: { tokens: ['token_id:1'], token_logprobs: [-1], top_logprobs: [{ 'token_id:2': -2 }] } },
  ],
});
const tokens = {
  type: 'answered',
  answer: {
    kind: 'tokens',
    steps: [{ token: 'token_id:1', logprob: -1, top: { 'token_id:1': -1, 'token_id:2': -2 } }],
  },
};
const embedded = JSON.stringify({ data: [{ embedding: [0.5, 0.25] }] });
const vector = { type: 'answered', answer: { kind: 'vector', values: [0.5, 0.25] } };

/** An engine that answers each path with a status and a text, 404 where none is given. */
async function asked(
  routes: Record<string, [number, string] | ((response: ServerResponse) => void)>,
  kind: Parameters<typeof askCanary>[1] = null,
) {
  const path = join(folder(), 'engine.sock');
  const seen: string[] = [];
  const server = createServer((request, response) => {
    seen.push(request.url!);
    request.resume();
    const route = routes[request.url!] ?? [404, '{}'];
    if (typeof route === 'function') route(response);
    else response.writeHead(route[0]).end(route[1]);
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  afterwards(() => {
    server.closeAllConnections();
    server.close();
  });
  const socket = engineSocket(path);
  afterwards(() => socket.close());
  return { outcome: askCanary(socket, kind), seen };
}

describe('a canary', () => {
  it.each([
    ['completions', { '/v1/completions': [200, completed] }, tokens, ['/v1/completions']],
    [
      'embeddings, where there are no completions',
      { '/v1/embeddings': [200, embedded] },
      vector,
      ['/v1/completions', '/v1/embeddings'],
    ],
    ['nothing, where there is neither', {}, { type: 'not-offered' }, ['/v1/completions', '/v1/embeddings']],
  ] as const)('is asked by %s', async (_, routes, outcome, paths) => {
    const { outcome: got, seen } = await asked(routes as never);
    expect(await got).toEqual(outcome);
    expect(seen).toEqual(paths);
  });

  it('is asked by what the engine took before', async () => {
    const { outcome, seen } = await asked({ '/v1/embeddings': [200, embedded] }, 'vector');
    expect([await outcome, seen]).toEqual([vector, ['/v1/embeddings']]);
  });

  it.each([
    [
      500,
      '{"error":{"message":"Out of range float values are not JSON compliant"}}',
      'broken',
      /answered 500 .*not JSON/,
    ],
    [200, '{"choices":[]}', 'broken', /no numbers: 200/],
    [503, 'busy', 'silent', /answered 503 busy/],
    [429, '', 'silent', /answered 429/],
  ])('that is answered %i %j is %s', async (status, text, type, message) => {
    const { outcome } = await asked({ '/v1/completions': [status, text] });
    expect(await outcome).toEqual({ type, message: expect.stringMatching(message) });
  });

  it('says no more of an answer than fits a line', async () => {
    const { outcome } = await asked({ '/v1/completions': [500, `a\n${'x'.repeat(10_000)}`] });
    const { message } = (await outcome) as { message: string };
    expect(message).toMatch(/answered 500 a x+$/);
    expect(message.length).toBeLessThan(300);
  });

  it('whose connection ends is silent', async () => {
    const { outcome } = await asked({ '/v1/completions': (response) => void response.destroy() });
    expect(await outcome).toMatchObject({ type: 'silent', message: expect.stringContaining('closed') });
  });

  it('of an engine that is not there is silent', async () => {
    const socket = engineSocket(join(folder(), 'engine.sock'));
    expect(await askCanary(socket, null)).toMatchObject({ type: 'silent' });
    socket.close();
  });

  it('is waited for 30 s', async () => {
    let waiting = false;
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const { outcome } = await asked({
      '/v1/completions': () => {
        waiting = true;
      },
    });
    await vi.waitUntil(() => waiting, { timeout: 5_000 });
    await vi.advanceTimersByTimeAsync(canaryTimeoutMs);
    expect(await outcome).toMatchObject({ type: 'silent', message: expect.stringContaining('30000 ms') });
  });
});
