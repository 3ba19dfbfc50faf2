/** Conformance: what is refused, with which code and in which words. */
import { expect, it } from 'vitest';
import type { Subject } from './conformance-subject.ts';

const messages = [{ role: 'user', content: 'hello' }];
const chat = '/v1/chat/completions';
const completion = '/v1/completions';

/** What, where, with which body; then status, type and param of the answer and a part of its message. */
const table: [string, string, unknown, number, string, string | null, RegExp][] = [
  [
    'a model that it does not serve',
    chat,
    { model: 'other', messages },
    404,
    'NotFoundError',
    'model',
    /The model `other` does not exist/,
  ],
  [
    'a model that it does not serve, when asked for tokens',
    '/tokenize',
    { model: 'other', prompt: 'x' },
    404,
    'NotFoundError',
    'model',
    /`other`/,
  ],
  [
    'a negative max_tokens',
    chat,
    { messages, max_tokens: -1 },
    400,
    'BadRequestError',
    'max_tokens',
    /at least 1, got -1/,
  ],
  [
    'a max_tokens that is no number',
    chat,
    { messages, max_tokens: 'a' },
    400,
    'Bad Request',
    'body.max_tokens',
    /valid integer/,
  ],
  [
    'more tokens than its context has',
    chat,
    { messages, max_tokens: 5000 },
    400,
    'BadRequestError',
    'max_tokens',
    /max_model_len=2048/,
  ],
  [
    'a prompt longer than its context',
    completion,
    { prompt: 'z '.repeat(4000), max_tokens: 1 },
    400,
    'BadRequestError',
    'input_tokens',
    /maximum context length is 2048 tokens/,
  ],
  ['no messages', chat, { messages: [] }, 400, 'BadRequestError', null, /at least one message/],
  ['a chat without messages', chat, {}, 400, 'Bad Request', 'body.messages', /Field required/],
  ['messages that are no list', chat, { messages: 'x' }, 400, 'Bad Request', 'body.messages', /valid list/],
  ['a body that is no object', chat, [], 400, 'Bad Request', 'body', /valid dictionary/],
  ['no prompt', completion, { max_tokens: 2 }, 400, 'BadRequestError', 'prompt', /non-empty/],
  ['an empty prompt', completion, { prompt: '' }, 400, 'BadRequestError', 'prompt', /non-empty/],
  ['tokens of nothing', '/tokenize', {}, 400, 'Bad Request', 'body.prompt', /Field required/],
  [
    'a level of sleep that is not there',
    '/sleep?level=3',
    undefined,
    400,
    'Bad Request',
    'query.level',
    /less than or equal to 2/,
  ],
  [
    'a level that is no number',
    '/sleep?level=x',
    undefined,
    400,
    'Bad Request',
    'query.level',
    /valid integer/,
  ],
  [
    'an unknown mode of sleep',
    '/sleep?level=1&mode=maybe',
    undefined,
    400,
    'Bad Request',
    'query.mode',
    /'abort', 'wait' or 'keep'/,
  ],
];

export function refusals(subject: () => Subject): void {
  it.each(table)('refuses %s', async (_, path, body, status, type, param, message) => {
    const { engine } = subject();
    expect(await engine.post(path, body)).toEqual({
      status,
      json: { error: { message: expect.stringMatching(message), type, param, code: status } },
    });
    expect(JSON.parse((await engine.get('/is_sleeping')).text)).toEqual({ is_sleeping: false });
  });

  it('refuses what is not JSON', async () => {
    const { engine } = subject();
    const broken = await engine.send(chat, {
      body: '{"a":',
      headers: { 'content-type': 'application/json' },
    });
    expect([broken.statusCode, await broken.body.json()]).toMatchObject([
      400,
      {
        error: {
          message: expect.stringContaining('JSON decode error'),
          type: 'Bad Request',
          param: 'body.5',
          code: 400,
        },
      },
    ]);
    const form = await engine.send(chat, { body: '{}', headers: { 'content-type': 'text/plain' } });
    expect([form.statusCode, await form.body.json()]).toMatchObject([
      400,
      { error: { message: expect.stringContaining("Only 'application/json' is allowed"), param: null } },
    ]);
  });

  it('answers in its web framework’s words where there is no route', async () => {
    const { engine } = subject();
    expect(await engine.post('/v1/nothing', {})).toEqual({ status: 404, json: { detail: 'Not Found' } });
    const wrong = await engine.send(chat, { method: 'GET' });
    expect([wrong.statusCode, wrong.headers.allow, await wrong.body.json()]).toEqual([
      405,
      'POST',
      { detail: 'Method Not Allowed' },
    ]);
  });
}
