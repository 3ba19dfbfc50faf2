/** The last second of a pod's grace: who is told, and who is cut. */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { openSibling } from '../../../sidecar/act/hand-on.ts';
import type { Exchange } from '../../../sidecar/exchange.ts';
import { chat, openPod, type Pod, until } from './pod.ts';

const pods: Pod[] = [];
const servers: Server[] = [];
afterEach(async () => {
  await Promise.all(pods.splice(0).map((pod) => pod.close()));
  for (const server of servers.splice(0)) server.close().closeAllConnections();
});
async function open(...options: Parameters<typeof openPod>): Promise<Pod> {
  const pod = await openPod(...options);
  pods.push(pod);
  return pod;
}
/** A sibling that takes requests and never answers. */
async function silent(): Promise<{ port: number; taken: () => number }> {
  let taken = 0;
  const server = createServer((req) => {
    req.resume();
    taken++;
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { port: (server.address() as AddressInfo).port, taken: () => taken };
}
const toSibling = (port: number) => ({
  GT_LLAMA_SERVICE_HOST: '127.0.0.1',
  GT_LLAMA_SERVICE_PORT: String(port),
});

describe('at the end of the grace', () => {
  it('a request with a sibling that does not answer is told, in its shape, when to come again', async () => {
    const sibling = await silent();
    const pod = await open({ state: { state: 'SLEEPING' }, env: toSibling(sibling.port) });
    const answers = ['/v1/messages', '/v1/completions'].map((path) => pod.post(path, chat()));
    await until('both wait', () => pod.door.loop.hello().demand.queued === 2);
    pod.agent.say({ end: { graceMs: 20_000 } });
    await until('both are handed on', () => sibling.taken() === 2);
    await pod.door.close();
    const [messages, completions] = await Promise.all(answers);
    for (const answer of [messages!, completions!])
      expect([answer.status, answer.headers.get('retry-after')]).toEqual([503, '5']);
    expect(await messages!.json()).toMatchObject({ type: 'error', error: { type: 'overloaded_error' } });
    expect(await completions!.json()).toMatchObject({ error: { code: 'pod_ending' } });
  });

  it('a request that waits, one the engine has not answered, and one still coming in are told', async () => {
    const pod = await open({ state: { state: 'SERVING' } });
    pod.engine.handle = () => {};
    const runs = pod.post('/v1/completions', chat());
    await until('it runs', () => pod.engine.seen.length === 1);
    pod.agent.tell('DEACTIVATING');
    await until('barred', () => pod.door.loop.hello().state === 'DEACTIVATING');
    const waits = pod.post('/v1/completions', chat());
    await until('it waits', () => pod.door.loop.hello().demand.queued === 1);
    const comes = pod.raw();
    comes.socket.write(
      'POST /v1/messages HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 900\r\n\r\n',
    );
    await until('its head is read', () => comes.text().startsWith('HTTP/1.1 100 '));
    await pod.door.close();
    for (const answer of await Promise.all([runs, waits])) {
      expect([answer.status, answer.headers.get('retry-after')]).toEqual([503, '5']);
      expect(await answer.json()).toMatchObject({ error: { code: 'pod_ending' } });
    }
    await until('its connection ends', comes.closed);
    expect(comes.text()).toMatch(
      /HTTP\/1.1 503 [\s\S]*x-greenthread-refused: pod_ending[\s\S]*overloaded_error/i,
    );
    await until('the engine is told', () => pod.engine.seen[0]!.aborted);
  });

  it('a stream of comments ends with an event, an answer that has begun is cut', async () => {
    const pod = await open({ state: { state: 'SERVING' }, frontDoor: { sseKeepAliveAfterMs: 1 } });
    pod.engine.handle = (_, res) => void res.writeHead(200, { 'content-type': 'text/plain' }).write('first ');
    const begun = await pod.post('/v1/completions', chat());
    pod.agent.tell('DEACTIVATING');
    await until('barred', () => pod.door.loop.hello().state === 'DEACTIVATING');
    const comments = await pod.post('/v1/chat/completions', chat({ stream: true }));
    await pod.door.close();
    expect(await comments.text()).toMatch(/^: waiting[\s\S]*data: \{"error":[\s\S]*pod_ending/);
    await expect(begun.text()).rejects.toThrow();
  });
});

describe('handing on', () => {
  const exchange = {
    req: { rawHeaders: ['Host', 'x'] },
    res: { headersSent: false },
    requestId: 'r',
    path: '/v1/completions',
    query: '',
    body: Buffer.from('{}'),
    mayRetry: false,
    queueMs: 0,
    wakeMs: 0,
  } as unknown as Exchange;

  it.each([
    ['is tried no more when the grace is nearly over', [20_000, 20_000, 3_500], 2],
    ['keeps a quarter of a short grace', [800, 800, 200], 2],
    ['is tried twenty times at most', [1_000_000], 20],
  ])('%s', async (_, lefts, tries) => {
    let starts = 0;
    const server = createServer((req, res) => {
      req.resume();
      starts++;
      res.writeHead(503, { 'x-greenthread-refused': 'pod_ending', 'content-length': '0' }).end();
    });
    servers.push(server);
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const sibling = openSibling({ host: '127.0.0.1', port: (server.address() as AddressInfo).port }, 1);
    let asked = 0;
    const answered = new Promise<number>((resolve) => {
      const res = Object.assign(exchange.res, {
        writeHead: resolve,
        end: () => {},
        flushHeaders: () => {},
      });
      sibling.handOn(
        { ...exchange, baseHeaders: [], res, answered: false } as Exchange,
        { sent: () => {}, finished: () => {}, failed: () => resolve(0) },
        () => lefts[Math.min(asked++, lefts.length - 1)]!,
      );
    });
    expect([await answered, starts]).toEqual([503, tries]);
    await sibling.close();
  });
});
