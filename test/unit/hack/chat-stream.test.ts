import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { turns } from '../../../hack/benchmarks/switch/slot.ts';
import { StreamClients } from '../../../hack/clients/chat-stream.ts';

const tokens = 5;
const clients = new StreamClients();
let server: Server;
/** What the server makes of the words that it should say. */
let spoil: (words: string[]) => string[] = (words) => words;
let ends: { finish: boolean; done: boolean; status: number } = { finish: true, done: true, status: 200 };

const event = (data: unknown): string =>
  `data: ${typeof data === 'string' ? data : JSON.stringify(data)}\n\n`;

beforeAll(async () => {
  server = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += String(chunk);
    const { messages } = JSON.parse(body) as { messages: [{ content: string }] };
    if (ends.status !== 200) return response.writeHead(ends.status).end('no room');
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.write(': a comment\n\n');
    response.write(event({ choices: [{ delta: { role: 'assistant', content: '' } }] }));
    const words = spoil(messages[0].content.split(' '));
    for (const [at, word] of words.entries()) {
      const last = at === words.length - 1;
      const delta = { content: at === 0 ? word : ` ${word}` };
      const text = event({ choices: [{ delta, finish_reason: last && ends.finish ? 'length' : null }] });
      // Events need not come in one piece.
      response.write(text.slice(0, 20));
      response.write(text.slice(20));
    }
    response.end(ends.done ? event('[DONE]') : '');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
});
afterAll(async () => {
  await clients.close();
  server.close();
});

const ask = () =>
  clients.send({
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    model: 'org/a',
    tokens,
  }).answer;

describe('a client of a stream', () => {
  it('finds one that says every word in order, and its end, whole', async () => {
    expect(await ask()).toMatchObject({ status: 200, whole: true, fault: '', pieces: tokens });
  });

  it.each<[string, (words: string[]) => string[], string]>([
    ['a word is missing', (words) => words.toSpliced(2, 1), 'token 2 is'],
    ['a word comes twice', (words) => words.toSpliced(3, 0, words[2]!), 'token 3 is'],
    ['two words change places', ([a, b, ...rest]) => [b!, a!, ...rest], 'token 0 is'],
    ['the last word is missing', (words) => words.slice(0, -1), `${tokens - 1} of ${tokens} tokens`],
    ['there is a word too many', (words) => [...words, 'more'], `token ${tokens} is more`],
  ])('tells that %s', async (_, how, fault) => {
    spoil = how;
    expect(await ask()).toMatchObject({ whole: false, fault: expect.stringContaining(fault) });
    spoil = (words) => words;
  });

  it.each([
    ['finish_reason is missing', { finish: false, done: true, status: 200 }, 'finish_reason missing'],
    ['[DONE] is missing', { finish: true, done: false, status: 200 }, '[DONE] missing'],
    ['it was refused', { finish: true, done: true, status: 503 }, 'no room'],
  ])('tells that %s', async (_, how, fault) => {
    ends = how;
    expect(await ask()).toMatchObject({
      status: how.status,
      whole: false,
      fault: expect.stringContaining(fault),
    });
    ends = { finish: true, done: true, status: 200 };
  });

  it('tells that nobody answers', async () => {
    const { answer } = clients.send({ url: 'http://127.0.0.1:1', model: 'org/a', tokens });
    expect(await answer).toMatchObject({ status: 0, whole: false, fault: expect.stringContaining('ECONN') });
  });
});

it('the turns of a GPU are the models whose tokens it saw, each until another one’s', () => {
  const seen = ['a', 'a', 'b', 'b', 'b', 'a'].map((model) => ({ model }));
  expect(turns(seen)).toEqual(['a', 'b', 'a']);
});
