/** The simulated engine's HTTP, awake. */
import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Engine, GpuNode, until } from '../gpu-node.ts';

let node: GpuNode;
let engine: Engine;
beforeAll(async () => {
  node = await GpuNode.create('--gpus', 'a40:1');
  engine = await node.engine().ready();
});
afterAll(() => node.destroy());

// biome-ignore lint/suspicious/noExplicitAny: bodies of many shapes
type Answer = any;

const nonce = 'nonce-5eed01';
const chat = { model: 'org/model', messages: [{ role: 'user', content: `say ${nonce}` }] };

describe('the simulated engine', () => {
  it.each([
    ['/v1/chat/completions', chat, (json: Answer) => json.choices[0].message.content],
    ['/v1/completions', { prompt: `say ${nonce}` }, (json: Answer) => json.choices[0].text],
    ['/v1/responses', { input: `say ${nonce}` }, (json: Answer) => json.output[0].content[0].text],
    ['/v1/messages', { ...chat, max_tokens: 9 }, (json: Answer) => json.content[0].text],
    ['/invocations', chat, (json: Answer) => json.choices[0].message.content],
  ])('answers %s with the nonce of the prompt', async (path, body, read) => {
    const { status, json } = await engine.post(path, body);
    expect(status).toBe(200);
    expect(read(json)).toContain(nonce);
  });

  it('echoes the last words of the user where there is no nonce', async () => {
    const { json } = await engine.post('/v1/chat/completions', {
      messages: [
        { role: 'user', content: 'first' },
        { role: 'assistant', content: 'no' },
        { role: 'user', content: [{ type: 'text', text: 'second thing' }] },
      ],
    });
    expect(json.choices[0].message.content).toMatch(/^second thing /);
    expect(json.choices[0].finish_reason).toBe('stop');
  });

  it.each([
    ['/v1/responses', { input: nonce, stream: true }, 'response.completed', 'response.output_text.delta'],
    ['/v1/messages', { ...chat, stream: true, max_tokens: 5 }, 'message_stop', 'content_block_delta'],
  ])('streams %s as named events', async (path, body, last, delta) => {
    const response = await engine.send(path, {
      body: JSON.stringify(body),
      headers: { 'content-type': 'application/json' },
    });
    const text = await response.body.text();
    const names = [...text.matchAll(/^event: (.*)$/gm)].map((match) => match[1]);
    expect(names.at(-1)).toBe(last);
    expect(names).toContain(delta);
    expect(text).toContain(nonce);
  });

  it('embeds, scores, ranks, classifies and pools', async () => {
    const embedded = await engine.post('/v1/embeddings', { input: ['one', 'two'], dimensions: 8 });
    expect(embedded.json.data.map((each: { embedding: number[] }) => each.embedding.length)).toEqual([8, 8]);
    const scored = await engine.post('/v1/score', { text_1: 'red apple', text_2: ['red apple', 'blue sky'] });
    expect(scored.json.data[0].score).toBeGreaterThan(scored.json.data[1].score);
    const ranked = await engine.post('/v2/rerank', {
      query: 'red apple',
      documents: ['blue sky', 'a red apple'],
    });
    expect(ranked.json.results[0].index).toBe(1);
    expect((await engine.post('/classify', { input: 'x' })).json.data[0].num_classes).toBe(2);
    expect((await engine.post('/pooling', { input: 'x' })).json.data[0].object).toBe('pooling');
  });

  it('hears and speaks', async () => {
    const form = new FormData();
    form.set('model', 'org/model');
    form.set('file', new Blob([`RIFF ${nonce}`]), 'speech.wav');
    const encoded = new Response(form);
    const heard = await engine.send('/v1/audio/transcriptions', {
      body: Buffer.from(await encoded.arrayBuffer()),
      headers: { 'content-type': encoded.headers.get('content-type')! },
    });
    expect(((await heard.body.json()) as { text: string }).text).toContain(nonce);
    const spoken = await engine.send('/v1/audio/speech', {
      body: JSON.stringify({ input: nonce, voice: 'any' }),
      headers: { 'content-type': 'application/json' },
    });
    const wav = Buffer.from(await spoken.body.arrayBuffer());
    expect(wav.subarray(0, 4).toString()).toBe('RIFF');
    expect(wav.readUInt32LE(4)).toBe(wav.length - 8);
    expect(wav.includes(nonce)).toBe(true);
  });

  it('frees a request whose client has left', async () => {
    const stream = await engine.stream('nonce-1eaf', { max_tokens: 2000, ignore_eos: true });
    await until('a token', () => stream.tokens.length > 2);
    stream.leave();
    const end = await until('the end', () =>
      node.log(0, 'access.log').find((line) => line.event === 'end' && String(line.nonces) === 'nonce-1eaf'),
    );
    expect(end.outcome).toBe('cancelled');
    expect(end.tokens).toBeLessThan(2000);
  });

  it('takes a body in chunks after Expect: 100-continue, and the connection stays open', async () => {
    const body = JSON.stringify({ ...chat, max_tokens: 3 });
    const chunks = body.match(/.{1,9}/g)!.map((part) => `${part.length.toString(16)}\r\n${part}\r\n`);
    const head = (more: string) =>
      `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n${more}\r\n\r\n`;
    const socket = connect(engine.socket);
    let received = '';
    socket.setEncoding('utf8').on('data', (data) => (received += data));
    socket.write(head('transfer-encoding: chunked\r\nexpect: 100-continue'));
    await until('100', () => received === 'HTTP/1.1 100 Continue\r\n\r\n');
    for (const chunk of chunks) socket.write(chunk);
    socket.write('0\r\n\r\n');
    await until('the first answer', () => received.includes(nonce));
    socket.write(head(`content-length: ${body.length}`) + body);
    await until(
      'the second answer',
      () => received.split('HTTP/1.1 200 OK').length === 3 && received.split(nonce).length === 3,
    );
    socket.destroy();
  });

  it('refuses a head without end', async () => {
    const socket = connect(engine.socket);
    let received = '';
    socket.setEncoding('utf8').on('data', (data) => (received += data));
    const closed = new Promise((done) => socket.on('close', done));
    socket.on('error', () => {});
    socket.write(`GET /health HTTP/1.1\r\nx: ${'y'.repeat(70_000)}`);
    await closed;
    expect(received).toMatch(/^HTTP\/1\.1 431 /);
  });

  it('logs each token with the bytes that nvidia-smi counts for it', async () => {
    const before = node.log(0, 'tokens.log').length;
    await engine.post('/v1/chat/completions', { ...chat, max_tokens: 7 });
    const tokens = node.log(0, 'tokens.log').slice(before);
    expect(tokens.map((line) => line.token)).toEqual([0, 1, 2, 3, 4, 5, 6]);
    const held = (await node.processes()).get(engine.pid)!;
    for (const line of tokens) {
      expect(line).toMatchObject({ pid: engine.pid, model: 'org/model', awake: true });
      expect(Math.floor((line.bytes as number) / 2 ** 20)).toBe(held);
    }
  });

  it('runs a hundred streams at once', async () => {
    const streams = await Promise.all(
      Array.from({ length: 100 }, (_, i) => engine.stream(`nonce-${i + 4096}`, { max_tokens: 20 })),
    );
    await Promise.all(streams.map((stream) => stream.done));
    for (const [i, stream] of streams.entries()) {
      expect(stream.tokens[0]).toBe(`nonce-${i + 4096}`);
      expect(stream.tokens.length).toBe(20);
    }
  });
});
