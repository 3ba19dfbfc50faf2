/** Pages, errors, keys, browsers, and bytes that are no request. */
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { refuseSocket } from '../../../sidecar/act/respond.ts';
import { readEnvironment } from '../../../sidecar/decide/environment.ts';
import {
  catalogue,
  type RefusalCode,
  refusalBody,
  refusalHeaders,
} from '../../../sidecar/decide/refusals.ts';
import { createFrontDoor, type HttpEvent, httpLimits } from '../../../sidecar/observe/http.ts';
import { chat, environmentOf, openPod, type Pod, type PodOptions, until } from './pod.ts';

const own = { ...readEnvironment(environmentOf('/x', {})).own };
let pod: Pod;
beforeAll(async () => {
  pod = await openPod({ frontDoor: { maxBodyBytes: 1_000, corsOrigins: ['https://app'] } });
});
afterAll(() => pod.close());
const more: Pod[] = [];
afterEach(async () => {
  await Promise.all(more.splice(0).map((one) => one.close()));
});
async function another(options: PodOptions): Promise<Pod> {
  const one = await openPod(options);
  more.push(one);
  return one;
}
/** Sends bytes on a connection of its own; what came back once it holds. */
async function sent(
  to: Pod,
  text: string,
  holds: (answer: string, closed: boolean) => boolean,
): Promise<string> {
  const raw = to.raw();
  raw.socket.write(text, 'latin1');
  await until(`an answer to ${text.slice(0, 60)}`, () => holds(raw.text(), raw.closed()));
  raw.socket.destroy();
  return raw.text();
}

describe('pages', () => {
  it('/status begins with what clients rely on', async () => {
    const text = await (await fetch(`${pod.url}/llama/status`)).text();
    expect(text).toMatch(
      /^\{"model":"llama","state":"sleeping","bootReady":true,"queue":\{"inFlight":0,"barriered":false\}[,}]/,
    );
  });

  it('/v1/models answers from memory in vLLM’s shape, by any name, raw or encoded', async () => {
    await until('the engine told', async () =>
      (await (await fetch(`${pod.url}/v1/models`)).text()).includes('4096'),
    );
    pod.engine.die();
    const list = (await (await fetch(`${pod.url}/llama/v1/models`)).json()) as {
      object: string;
      data: { id: string; max_model_len: number }[];
    };
    expect([list.object, list.data.map(({ id, max_model_len }) => [id, max_model_len])]).toEqual([
      'list',
      [
        ['org/llama', 4096],
        ['chatty', 4096],
        ['org/other', 4096],
      ],
    ]);
    for (const id of ['org/llama', 'org%2Fllama', 'chatty']) {
      expect(await (await fetch(`${pod.url}/v1/models/${id}`)).json()).toMatchObject({
        id: decodeURIComponent(id),
        object: 'model',
      });
    }
    expect((await fetch(`${pod.url}/v1/models/gpt-4`)).status).toBe(404);
    await pod.engine.listen();
  });

  it('/metrics says what the model takes of each GPU awake, and what of it now', async () => {
    const one = await another({ state: { state: 'SERVING', vramBytes: [20_000_000_000, 19_000_000_000] } });
    const shown = async (name: string) =>
      [...(await (await fetch(`${one.url}/metrics`)).text()).matchAll(new RegExp(`^${name}(.*)$`, 'gm'))].map(
        ([, rest]) => rest,
      );
    const both = ['{gpu="GPU-1"} 20000000000', '{gpu="GPU-2"} 19000000000'];
    await until('serving', async () =>
      (await shown('gthread_sidecar_gpu_memory_serving_bytes')).includes(both[0]!),
    );
    expect(await shown('gthread_sidecar_gpu_memory_reserved_bytes')).toEqual(both);
    expect(await shown('gthread_sidecar_gpu_memory_serving_bytes')).toEqual(both);
    one.agent.tell('SLEEPING', { vramBytes: [20_000_000_000, 19_000_000_000] });
    await until('asleep', async () =>
      (await shown('gthread_sidecar_state')).includes('{state="sleeping"} 1'),
    );
    expect(await shown('gthread_sidecar_gpu_memory_reserved_bytes')).toEqual(both);
    expect(await shown('gthread_sidecar_gpu_memory_serving_bytes')).toEqual([
      '{gpu="GPU-1"} 0',
      '{gpu="GPU-2"} 0',
    ]);
  });

  it('/metrics holds ours and the engine’s, as they were when it last answered', async () => {
    const one = await another({ state: { state: 'SERVING' } });
    const first = await (await fetch(`${one.url}/metrics`)).text();
    expect(first).toContain('gthread_sidecar_state{state="serving"} 1\n');
    expect(first).toContain('\nvllm:num_requests_running 0\n');
    expect(first).not.toContain('process_open_fds');
    one.engine.die();
    one.agent.tell('SLEEPING');
    await until('asleep', async () =>
      (await (await fetch(`${one.url}/metrics`)).text()).includes('{state="sleeping"} 1'),
    );
    expect(await (await fetch(`${one.url}/metrics`)).text()).toContain('\nvllm:num_requests_running 0\n');
  });

  it('HEAD / is 200 without a body, /health and /ready follow the boot', async () => {
    const head = await fetch(`${pod.url}/`, { method: 'HEAD' });
    expect([head.status, await head.text()]).toEqual([200, '']);
    const booting = await another({ state: { state: 'WAKING', bootReady: false } });
    expect(await (await fetch(`${booting.url}/status`)).json()).toMatchObject({
      state: 'waking',
      bootReady: false,
    });
    for (const path of ['/health', '/ready']) {
      expect((await fetch(booting.url + path)).status).toBe(503);
      expect((await fetch(pod.url + path)).status).toBe(200);
    }
  });
});

describe('a refusal', () => {
  it.each<[string, string, string, RefusalCode, number]>([
    ['POST', '/nowhere', '{}', 'route_not_found', 404],
    ['POST', '/sleep?level=1', '', 'route_not_found', 404],
    ['POST', '/v1/embeddings', '{}', 'endpoint_closed', 404],
    ['POST', '/v1/completions', '{"model":"llama"}', 'model_not_found', 404],
    ['POST', '/v1/completions', '{"model":7}', 'model_not_found', 404],
    ['POST', '/v1/completions', '{"model":"org/llama"', 'body_malformed', 400],
    ['DELETE', '/v1/completions', '', 'method_not_allowed', 405],
    ['POST', '/v1/completions', `{"model":"org/llama","x":"${'x'.repeat(1_000)}"}`, 'body_too_large', 413],
  ])('of %s %s with %.30s is %s', async (method, path, body, code, status) => {
    const answer = await fetch(pod.url + path, {
      method,
      ...(body ? { body } : {}),
      headers: { 'content-type': 'application/json' },
    });
    expect([answer.status, answer.headers.get('x-greenthread-refused')]).toEqual([status, code]);
    expect(answer.headers.get('server-timing')).toContain('queue;dur=');
    expect(answer.headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/);
    expect(await answer.json()).toMatchObject({
      error: { code, message: expect.any(String), type: catalogue[code].openai },
    });
  });

  it('of a method names those that are allowed', async () => {
    expect((await fetch(`${pod.url}/v1/completions`)).headers.get('allow')).toBe('POST, OPTIONS');
    expect((await fetch(`${pod.url}/status`, { method: 'POST' })).headers.get('allow')).toBe(
      'GET, HEAD, OPTIONS',
    );
  });

  it('of a chunked body that grows too large comes while it grows, and the connection is not left to the sender', async () => {
    const answer = await sent(
      pod,
      `POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n${'190\r\n'.concat('y'.repeat(0x190), '\r\n').repeat(3)}`,
      (text) => text.includes('body_too_large'),
    );
    expect(answer).toMatch(/^HTTP\/1.1 413 /);
  });

  it('of a body comes when all that come in to wait fill maxQueuedBytes; one alone may be larger', async () => {
    const one = await another({
      state: { state: 'SLEEPING' },
      frontDoor: { maxBodyBytes: 2_000, maxQueuedBytes: 1_000 },
    });
    const head = 'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1500\r\n\r\n';
    const body = JSON.stringify(chat()).padEnd(1_500);
    const first = one.raw();
    first.socket.write(head + body.slice(0, 1_400));
    const second = await sent(one, head + body.slice(0, 900), (text) => text.includes('}}'));
    expect(second).toMatch(/^HTTP\/1.1 429 /);
    expect(second).toContain('"code":"queue_bytes_full"');
    first.socket.write(body.slice(1_400));
    await until('the first waits', () => one.door.loop.hello().demand.queued === 1);
    one.agent.tell('SERVING');
    await until('the first is served', () => first.text().startsWith('HTTP/1.1 200 '));
    first.socket.destroy();
    const third = await sent(one, head + body, (text) => text.includes('echo'));
    expect(third).toMatch(/^HTTP\/1.1 200 /);
  });

  it('of a body, while the model serves, comes only beyond four of the largest, whatever the queue may hold', async () => {
    const one = await another({
      state: { state: 'SERVING' },
      frontDoor: { maxBodyBytes: 2_000, maxQueuedBytes: 1_000 },
    });
    const head =
      'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1999\r\nExpect: 100-continue\r\n\r\n';
    const body = JSON.stringify(chat()).padEnd(1_999);
    const four = [1, 2, 3, 4].map(() => one.raw());
    for (const { socket, text } of four) {
      socket.write(head);
      await until('its body may come', () => text().startsWith('HTTP/1.1 100 '));
      socket.write(body.slice(0, -1));
    }
    const fifth = await sent(one, head + body.slice(0, -1), (text) => text.includes('}}'));
    expect(fifth).toContain('"code":"queue_bytes_full"');
    for (const { socket } of four) socket.write(body.slice(-1));
    for (const { socket, text } of four) {
      await until('it is served', () => text().includes('HTTP/1.1 200 '));
      socket.destroy();
    }
  });

  it.each(Object.keys(catalogue) as RefusalCode[])(
    '%s has both shapes and says whether to try again',
    (code) => {
      const refusal = { code, retryAfterMs: 100_000 };
      expect(JSON.parse(refusalBody(refusal, 'openai', 'r'))).toEqual({
        error: { message: catalogue[code].sentence, type: catalogue[code].openai, param: null, code },
      });
      expect(JSON.parse(refusalBody(refusal, 'anthropic', 'r'))).toEqual({
        type: 'error',
        error: { type: catalogue[code].anthropic, message: catalogue[code].sentence },
        request_id: 'r',
      });
      const headers = refusalHeaders(refusal).join(' ');
      const expected = { yes: 'retry-after 60', never: 'x-should-retry false', no: '' }[
        catalogue[code].retry
      ];
      expect(headers.replace(`x-greenthread-refused ${code}`, '').trim()).toBe(expected);
      expect(catalogue[code].status >= 500 || catalogue[code].status === 429).toBe(
        catalogue[code].retry !== 'no',
      );
    },
  );

  it('is listed in docs/front-door.md exactly as in the catalogue', () => {
    const page = readFileSync(new URL('../../../docs/front-door.md', import.meta.url), 'utf8');
    const rows = [...page.matchAll(/^\| `([a-z_]+)` \| (\d{3}) \| ([^|]+) \|/gm)].map(
      ([, code, status, retry]) => [code, Number(status), retry!.trim()],
    );
    const words = { yes: '`Retry-After`', never: '`x-should-retry: false`', no: 'no' };
    expect(rows).toEqual(
      Object.entries(catalogue).map(([code, { status, retry }]) => [code, status, words[retry]]),
    );
  });
});

describe('API keys', () => {
  it('open everything but what machines poll, follow the Secret, and go no further', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'gt-keys-'));
    mkdirSync(join(dir, '..data'));
    writeFileSync(join(dir, 'one'), 'alpha\n');
    const one = await another({ state: { state: 'SERVING' }, env: { GREENTHREAD_API_KEYS_DIR: dir } });
    for (const path of ['/status', '/health', '/ready', '/metrics', '/'])
      expect((await fetch(one.url + path)).status).toBe(200);
    const none = await one.post('/v1/chat/completions', chat());
    expect([none.status, await none.json()]).toMatchObject([401, { error: { code: 'invalid_api_key' } }]);
    expect(await (await one.post('/v1/messages', chat(), { 'x-api-key': 'no' })).json()).toMatchObject({
      error: { type: 'authentication_error' },
    });
    expect((await fetch(`${one.url}/v1/models`)).status).toBe(401);
    expect((await fetch(`${one.url}/v1/models`, { headers: { authorization: 'Bearer alpha' } })).status).toBe(
      200,
    );
    expect((await one.post('/v1/messages', chat(), { 'x-api-key': 'alpha' })).status).toBe(200);
    expect((await one.post('/v1/messages', chat(), { authorization: 'Bearer alpha' })).status).toBe(200);
    for (const { headers } of one.engine.seen)
      expect([headers['x-api-key'], headers.authorization]).toEqual([undefined, undefined]);
    writeFileSync(join(dir, 'one'), 'beta');
    await until(
      'the new key opens',
      async () => (await one.post('/v1/messages', chat(), { 'x-api-key': 'beta' })).status === 200,
    );
    expect((await one.post('/v1/messages', chat(), { 'x-api-key': 'alpha' })).status).toBe(401);
    rmSync(dir, { recursive: true });
  });
});

describe('a browser', () => {
  it('has its preflight answered and the asked headers echoed', async () => {
    const ask = {
      origin: 'https://app',
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'authorization,x-stainless-lang',
    };
    const answer = await fetch(`${pod.url}/v1/chat/completions`, { method: 'OPTIONS', headers: ask });
    expect([
      answer.status,
      answer.headers.get('access-control-allow-origin'),
      answer.headers.get('access-control-allow-headers'),
    ]).toEqual([204, 'https://app', 'authorization,x-stainless-lang']);
    const other = await fetch(`${pod.url}/v1/chat/completions`, {
      method: 'OPTIONS',
      headers: { ...ask, origin: 'https://evil' },
    });
    expect([other.status, other.headers.get('access-control-allow-origin')]).toEqual([204, null]);
    const refused = await fetch(`${pod.url}/nowhere`, { headers: { origin: 'https://app' } });
    expect([
      refused.status,
      refused.headers.get('access-control-allow-origin'),
      refused.headers.get('vary'),
    ]).toEqual([404, 'https://app', 'Origin']);
  });
});

describe('bytes', () => {
  const post = (headers: string, body = '') =>
    `POST /v1/completions HTTP/1.1\r\nHost: x\r\n${headers}\r\n${body}`;

  it('Expect: 100-continue is answered at once, and a refusal comes instead of it', async () => {
    const one = await another({ state: { state: 'SERVING' } });
    const body = JSON.stringify(chat());
    const raw = one.raw();
    raw.socket.write(post(`Expect: 100-continue\r\nContent-Length: ${body.length}\r\n`));
    await until('100', () => raw.text().startsWith('HTTP/1.1 100 Continue\r\n\r\n'));
    expect(one.engine.seen).toEqual([]);
    raw.socket.write(body);
    await until('200', () => raw.text().includes('HTTP/1.1 200 OK'));
    expect(one.engine.seen[0]!.headers.expect).toBeUndefined();
    raw.socket.destroy();
    const refused = await sent(
      pod,
      post('Expect: 100-continue\r\nContent-Length: 2000\r\n'),
      (_, closed) => closed,
    );
    expect(refused).toMatch(/^HTTP\/1.1 413 /);
    expect(refused).toMatch(/\r\nconnection: close\r\n/i);
  });

  it.each<[string, string, string]>([
    ['two lengths', post('Content-Length: 2\r\nContent-Length: 5\r\n', '{}'), 'HTTP/1.1 400 '],
    [
      'a length and chunks',
      post('Content-Length: 5\r\nTransfer-Encoding: chunked\r\n', '0\r\n\r\nGET /status HTTP/1.1\r\n\r\n'),
      'HTTP/1.1 400 ',
    ],
    ['an unknown coding', post('Transfer-Encoding: xchunked\r\n', '0\r\n\r\n'), 'HTTP/1.1 400 '],
    ['a folded header', post('A: b\r\n c\r\nContent-Length: 2\r\n', '{}'), 'HTTP/1.1 400 '],
    ['a bare line feed in the head', 'POST /v1/completions HTTP/1.1\nHost: x\n\n', 'HTTP/1.1 400 '],
    ['no host', 'GET /status HTTP/1.1\r\n\r\n', 'HTTP/1.1 400 '],
    ['no HTTP', 'hello\r\n\r\n', 'HTTP/1.1 400 '],
    [
      'endless headers',
      `GET /status HTTP/1.1\r\nHost: x\r\nA: ${'a'.repeat(40_000)}\r\n\r\n`,
      'HTTP/1.1 431 ',
    ],
  ])('with %s are refused and the connection ends', async (_, text, expected) => {
    const seen = pod.engine.seen.length;
    const answer = await sent(pod, text, (_text, closed) => closed);
    expect(answer.startsWith(expected)).toBe(true);
    expect(answer.match(/HTTP\/1.1 /g)).toHaveLength(1);
    expect(pod.engine.seen).toHaveLength(seen);
  });

  it('after a good request never mix into its answer', async () => {
    const body = JSON.stringify(chat());
    const raw = pod.raw();
    raw.socket.write(`${post(`Content-Length: ${body.length}\r\n`, body)}GARBAGE\r\n\r\n`);
    await until('cut', raw.closed);
    expect(raw.text()).toBe('');
    await until('nobody waits', () => pod.door.loop.hello().demand.queued === 0);
  });

  it('of two requests at once on one connection are answered in order', async () => {
    const text = await sent(
      pod,
      'GET /v1/models/chatty HTTP/1.1\r\nHost: x\r\n\r\nGET /status HTTP/1.1\r\nHost: x\r\n\r\n',
      (answer) => answer.includes('bootReady'),
    );
    expect(text.indexOf('chatty')).toBeLessThan(text.indexOf('bootReady'));
  });

  it.each([
    ['headers', 'POST /v1/completions HTTP/1.1\r\nHost: x\r\n', 'HTTP/1.1 408 '],
    ['a body', `${post('Content-Length: 50\r\n')}{"mod`, 'HTTP/1.1 408 '],
  ])('of %s that come too slowly are answered 408', async (_, text, expected) => {
    const events: HttpEvent[] = [];
    const facts = {
      own: own,
      settings: pod.door.loop.settings,
      keys: () => null,
      bodyRoom: () => ({ bytesMax: 1_000, waitingBytes: 0 }),
    };
    const server = createFrontDoor(
      facts,
      (event) => {
        events.push(event);
        if (event.type === 'broken') refuseSocket(event.socket, event.code, event.exchange);
      },
      { ...httpLimits, headersTimeoutMs: 60, requestTimeoutMs: 90, checkEveryMs: 20 },
    );
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const socket = connect((server.address() as AddressInfo).port, '127.0.0.1');
    let answer = '';
    socket.on('data', (chunk) => {
      answer += chunk;
    });
    socket.write(text);
    await until('408', () => answer.startsWith(expected));
    expect(events.some(({ type }) => type === 'arrived')).toBe(false);
    socket.destroy();
    server.close();
  });

  it('on more connections than the limit are not taken', async () => {
    const facts = {
      own: own,
      settings: pod.door.loop.settings,
      keys: () => null,
      bodyRoom: () => ({ bytesMax: 1_000, waitingBytes: 0 }),
    };
    const server = createFrontDoor(facts, () => {}, { ...httpLimits, connectionsMax: 1 });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    const first = connect(port, '127.0.0.1');
    await once(first, 'connect');
    const second = connect(port, '127.0.0.1');
    await once(second, 'close');
    expect(first.destroyed).toBe(false);
    first.destroy();
    server.close();
  });
});
