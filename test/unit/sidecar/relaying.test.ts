/** What passes through: bytes, streams, cuts, clients that leave, engines that die. */
import { randomBytes } from 'node:crypto';
import { rmSync, writeFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { chat, openPod, type Pod, type PodOptions, until } from './pod.ts';

const pods: Pod[] = [];
afterEach(async () => {
  await Promise.all(pods.splice(0).map((pod) => pod.close()));
});
async function serving(options: PodOptions = {}): Promise<Pod> {
  const pod = await openPod({ state: { state: 'SERVING' }, ...options });
  pods.push(pod);
  return pod;
}
const requestText = (body: string, headers = '') =>
  `POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n${headers}Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
/** An engine that answers with these bytes as they are, then does as told. */
async function rawEngine(pod: Pod, answer: (socket: Socket) => void): Promise<void> {
  pod.engine.die();
  const path = join(pod.dir, 'engine.sock');
  rmSync(path, { force: true });
  const server = createServer((socket) => {
    let request = '';
    let answered = false;
    socket.on('error', () => {});
    socket.on('data', (chunk) => {
      request += chunk.toString('latin1');
      if (answered || !request.includes('\r\n\r\n')) return;
      answered = true;
      answer(socket);
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const { die } = pod.engine;
  pod.engine.die = () => {
    server.close();
    die.call(pod.engine);
  };
}

describe('a body', () => {
  it('reaches the engine unchanged, with its query, chunked or not', async () => {
    const pod = await serving();
    const text = JSON.stringify(chat({ seed: 1 }), null, 3).replace('"org/llama"', '"org\\/llama"');
    await pod.post('/llama/v1/chat/completions?a=%20&a&=', text, {
      traceparent: '00-abc',
      'x-request-id': 'mine',
      'x-custom': 'ü'.normalize('NFC'),
    });
    const [seen] = pod.engine.seen;
    expect(seen!.body.toString()).toBe(text);
    expect(seen!.url).toBe('/v1/chat/completions?a=%20&a&=');
    expect(seen!.headers).toMatchObject({ traceparent: '00-abc', 'x-request-id': 'mine' });
    const stream = new ReadableStream({
      async start(controller) {
        for (const part of ['{"prompt":"', 'x'.repeat(100_000), '","model":"chatty"}']) {
          controller.enqueue(Buffer.from(part));
          await new Promise((resolve) => setTimeout(resolve, 2));
        }
        controller.close();
      },
    });
    const chunked = await fetch(`${pod.url}/v1/completions`, {
      method: 'POST',
      body: stream,
      duplex: 'half',
    });
    expect(chunked.status).toBe(200);
    expect(pod.engine.seen[1]!.body).toHaveLength(100_000 + '{"prompt":"","model":"chatty"}'.length);
    expect(pod.engine.seen[1]!.headers['content-length']).toBe(String(pod.engine.seen[1]!.body.length));
  });

  it('as a form is read for its model only, and passes byte for byte', async () => {
    const pod = await serving();
    const file = randomBytes(300_000);
    const form = new FormData();
    form.set('file', new Blob([file]), 'a.wav');
    form.set('model', 'org/llama');
    expect((await fetch(`${pod.url}/v1/audio/transcriptions`, { method: 'POST', body: form })).status).toBe(
      200,
    );
    expect(pod.engine.seen[0]!.body.includes(file)).toBe(true);
    form.set('model', 'whisper');
    const wrong = await fetch(`${pod.url}/v1/audio/transcriptions`, { method: 'POST', body: form });
    expect([wrong.status, await wrong.json()]).toMatchObject([
      404,
      { error: { code: 'model_not_found', param: 'model' } },
    ]);
    expect(pod.engine.seen).toHaveLength(1);
  });

  it('and a query of bytes that need no encoding on the wire pass as they are', async () => {
    const pod = await serving();
    const raw = pod.raw();
    raw.socket.write(
      requestText(JSON.stringify(chat()), 'X-Name: caf\xe9\r\n').replace(
        'completions',
        'completions?q="<>|^`{}',
      ),
      'latin1',
    );
    await until('answered', () => raw.text().includes('echo'));
    expect([pod.engine.seen[0]!.url, pod.engine.seen[0]!.headers['x-name']]).toEqual([
      '/v1/completions?q="<>|^`{}',
      'caf\xe9',
    ]);
    raw.socket.destroy();
  });

  it('on /invocations needs no model', async () => {
    const pod = await serving();
    expect((await pod.post('/invocations', { inputs: 'x' })).status).toBe(200);
  });
});

describe('an answer', () => {
  it('streams: each piece is with the client before the next is made', async () => {
    const pod = await serving();
    pod.engine.handle = (_, res) => {
      res.writeHead(200, {
        'content-type': 'text/event-stream',
        'x-engine': '1',
        connection: 'keep-alive, x-hop',
        'x-hop': '1',
      });
      res.flushHeaders();
      pieces.push((text) => (text === null ? res.end() : res.write(text)));
    };
    const pieces: ((text: string | null) => void)[] = [];
    const answer = await pod.post('/v1/chat/completions', chat({ stream: true }));
    expect([answer.status, answer.headers.get('x-engine'), answer.headers.get('x-hop')]).toEqual([
      200,
      '1',
      null,
    ]);
    const reader = answer.body!.getReader();
    for (const piece of ['data: 1\n\n', 'data: 2\n\n', 'data: [DONE]\n\n']) {
      pieces[0]!(piece);
      expect(Buffer.from((await reader.read()).value!).toString()).toBe(piece);
    }
    pieces[0]!(null);
    expect((await reader.read()).done).toBe(true);
  });

  it('of the engine’s own errors passes as it is', async () => {
    const pod = await serving();
    pod.engine.handle = (_, res) => {
      res.writeHead(422, {
        'content-type': 'application/json',
        'retry-after': '9',
        'access-control-allow-origin': '*',
      });
      res.end('{"detail":1}');
    };
    const answer = await pod.post('/v1/completions', chat());
    expect([answer.status, await answer.text(), answer.headers.get('retry-after')]).toEqual([
      422,
      '{"detail":1}',
      '9',
    ]);
    expect(answer.headers.get('access-control-allow-origin')).toBeNull();
    expect(answer.headers.get('server-timing')).toBe('queue;dur=0, wake;dur=0');
  });

  it('to a slow reader holds the engine back instead of filling memory', async () => {
    const pod = await serving();
    let written = 0;
    pod.engine.handle = (_, res) => {
      const more = () => {
        while (written < 64 * 1024 * 1024) {
          written += 65_536;
          if (!res.write(Buffer.alloc(65_536))) return res.once('drain', more);
        }
        return res.end();
      };
      more();
    };
    const raw = pod.raw();
    raw.socket.pause();
    raw.socket.write(requestText(JSON.stringify(chat())));
    let before = -1;
    await until('the engine stands still', async () => {
      const still = written === before && written > 0;
      before = written;
      await new Promise((resolve) => setTimeout(resolve, 50));
      return still;
    });
    expect(written).toBeLessThan(24 * 1024 * 1024);
    raw.socket.destroy();
  });

  it('is cancelled at the engine when the client leaves', async () => {
    const pod = await serving();
    pod.engine.handle = (_, res) => {
      res.write('data: 1\n\n');
    };
    const abort = new AbortController();
    const answer = await fetch(`${pod.url}/v1/completions`, {
      method: 'POST',
      body: JSON.stringify(chat()),
      signal: abort.signal,
    });
    expect(answer.status).toBe(200);
    abort.abort();
    await until('the engine sees it', () => pod.engine.seen[0]!.aborted);
    await until('nothing runs', () => pod.door.loop.hello().demand.inFlight === 0);
  });

  it.each<[string, string]>([
    ['chunked', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\ndata: \r\n'],
    ['of a known length', 'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ndata: '],
  ])('that ends early, %s, ends the connection and is no clean end', async (_, bytes) => {
    const pod = await serving();
    await rawEngine(pod, (socket) => socket.end(bytes));
    const raw = pod.raw();
    raw.socket.write(requestText(JSON.stringify(chat())));
    await until('cut', raw.closed);
    expect(raw.text()).toContain('data: ');
    expect(raw.text()).not.toContain('0\r\n\r\n');
  });

  it('that ends early for an HTTP/1.0 client, whose answers end with the connection, is reset', async () => {
    const pod = await serving();
    await rawEngine(pod, (socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ndata: '));
    const raw = pod.raw();
    const errors: string[] = [];
    raw.socket.on('error', (error: NodeJS.ErrnoException) => errors.push(error.code ?? ''));
    raw.socket.write(requestText(JSON.stringify(chat())).replace('HTTP/1.1', 'HTTP/1.0'));
    await until('cut', raw.closed);
    expect(errors).toEqual(['ECONNRESET']);
  });

  it.each<[string, string, number, string]>([
    ['without any framing', 'HTTP/1.1 200 OK\r\n\r\ndata', 502, 'engine_bad_response'],
    ['that is no HTTP', 'hello\r\n\r\n', 502, 'engine_bad_response'],
    ['that never begins', '', 502, 'engine_died'],
  ])('%s is an error of ours', async (_, bytes, status, code) => {
    const pod = await serving();
    await rawEngine(pod, (socket) => socket.end(bytes));
    const answer = await pod.post('/v1/chat/completions', chat());
    expect([answer.status, answer.headers.get('retry-after')]).toEqual([status, '5']);
    expect(await answer.json()).toMatchObject({ error: { code, type: 'server_error' } });
    const other = await pod.post('/v1/messages', chat());
    expect(await other.json()).toMatchObject({ type: 'error', error: { type: 'api_error' } });
  });
});

describe('an engine that dies', () => {
  it('costs a request already sent, once more only where the client allowed it and the body was kept', async () => {
    const pod = await serving();
    let tries = 0;
    await rawEngine(pod, (socket) => {
      tries++;
      socket.destroy();
    });
    const again = { 'x-greenthread-retry': '1' };
    expect((await pod.post('/v1/completions', chat())).status).toBe(502);
    expect(tries).toBe(1);
    expect((await pod.post('/v1/completions', chat(), again)).status).toBe(502);
    expect(tries).toBe(3);
    expect((await pod.post('/v1/completions', chat({ prompt: 'x'.repeat(1024 * 1024) }), again)).status).toBe(
      502,
    );
    expect(tries).toBe(4);
  });

  it('costs nothing that was never sent: it waits in its place until the engine is back', async () => {
    const pod = await serving();
    pod.engine.die();
    writeFileSync(join(pod.dir, 'engine.sock'), '');
    const answers = [1, 2, 3].map((at) => pod.post(`/v1/completions?n=${at}`, chat()));
    await until('all wait', () => pod.door.loop.hello().demand.queued === 3);
    await pod.engine.listen();
    for (const answer of answers) expect((await answer).status).toBe(200);
    expect(pod.engine.seen).toHaveLength(3);
  });
});

describe('a waiting stream', () => {
  const waiting = async (shape: string, more: PodOptions = {}) => {
    const pod = await serving({
      state: { state: 'SLEEPING' },
      frontDoor: { sseKeepAliveAfterMs: 10, ...more.frontDoor },
    });
    const answer = await pod.post(shape, chat({ stream: true }));
    const reader = answer.body!.getReader();
    const first = Buffer.from((await reader.read()).value!).toString();
    const rest = async () => {
      let text = '';
      for (let read = await reader.read(); !read.done; read = await reader.read())
        text += Buffer.from(read.value).toString();
      return text;
    };
    return { pod, answer, reader, first, rest };
  };

  it('gets comments, then the engine’s events', async () => {
    const { pod, answer, reader, first, rest } = await waiting('/v1/chat/completions');
    expect([answer.status, answer.headers.get('content-type'), first]).toEqual([
      200,
      'text/event-stream; charset=utf-8',
      ': waiting for the model\n\n',
    ]);
    expect(Buffer.from((await reader.read()).value!).toString()).toBe(': waiting for the model\n\n');
    pod.engine.handle = (_, res) => {
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      res.end('data: 1\n\ndata: [DONE]\n\n');
    };
    pod.agent.tell('SERVING');
    expect(await rest()).toBe('data: 1\n\ndata: [DONE]\n\n');
  });

  it.each([
    [
      '/v1/chat/completions',
      /^data: \{"error":\{"message":"[^\n]*maxWait[^\n]*"code":"wait_timeout"\}\}\n\n$/,
    ],
    ['/v1/messages', /^event: error\ndata: \{"type":"error","error":\{"type":"overloaded_error"[^\n]*\n\n$/],
  ])('on %s hears of a later error as an event', async (path, expected) => {
    const { rest } = await waiting(path, { frontDoor: { maxWaitMs: 200 } });
    expect(await rest()).toMatch(expected);
  });

  it('hears of the engine’s error as an event, and of a cut as a cut', async () => {
    const { pod, rest } = await waiting('/v1/chat/completions');
    pod.engine.handle = (_, res) => {
      res.writeHead(400, { 'content-type': 'application/json' });
      res.end('{"error":{\n"message":"too long"}}');
    };
    pod.agent.tell('SERVING');
    expect(await rest()).toBe('data: {"error":{"message":"too long"}}\n\n');
    const cut = await waiting('/v1/chat/completions');
    cut.pod.engine.handle = (_, res) => {
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      res.write('data: 1\n\n', () => res.destroy());
    };
    cut.pod.agent.tell('SERVING');
    await expect(cut.rest()).rejects.toThrow();
  });

  it('gets none where no stream of events was asked for', async () => {
    const pod = await serving({
      endpoints: ['chat_completions', 'audio_speech'],
      state: { state: 'SLEEPING' },
      frontDoor: { sseKeepAliveAfterMs: 5, maxWaitMs: 60 },
    });
    const chatted = pod.post('/v1/chat/completions', chat({ stream: false }));
    const spoken = pod.post('/v1/audio/speech', chat({ stream: true }));
    for (const answer of [await chatted, await spoken]) expect(answer.status).toBe(503);
  });
});
