/** What a canary is asked, how its answer is read, and when it is nonsense. */
import { describe, expect, it } from 'vitest';
import {
  type CanaryAnswer,
  type CanaryStep,
  canaryQuestions,
  compareCanary,
  isNotOffered,
  parseCanaryAnswer,
  readCanaryAnswer,
} from '../../../agent/decide/canary.ts';

const [completion, embedding] = canaryQuestions;
/** As vLLM 0.32 answers, cut to two tokens. */
const completed = (logprobs: object | null = {}) =>
  JSON.stringify({
    object: 'text_completion',
    choices: [
      {
        index: 0,
        text: ' a b',
        logprobs: logprobs && {
          text_offset: [0, 11],
          token_logprobs: [-1.5, -0.25],
          tokens: ['token_id:17', 'token_id:4'],
          top_logprobs: [
            { 'token_id:17': -1.5, 'token_id:9': -1.52 },
            { 'token_id:4': -0.25, 'token_id:2': -3 },
          ],
          ...logprobs,
        },
        finish_reason: 'length',
      },
    ],
  });
const embedded = (embedding: unknown) =>
  JSON.stringify({ object: 'list', data: [{ index: 0, object: 'embedding', embedding }] });

const step = (token: string, logprob: number, others: Record<string, number> = {}): CanaryStep => ({
  token,
  logprob,
  top: { [token]: logprob, ...others },
});
const said = (...steps: CanaryStep[]): CanaryAnswer => ({ kind: 'tokens', steps });
const vector = (...values: number[]): CanaryAnswer => ({ kind: 'vector', values });

describe('a canary is asked', () => {
  it('eight greedy tokens with their log probabilities, by id, else an embedding', () => {
    expect(completion.body).toMatchObject({
      max_tokens: 8,
      temperature: 0,
      ignore_eos: true,
      return_tokens_as_token_ids: true,
    });
    expect(canaryQuestions.map(({ path }) => path)).toEqual(['/v1/completions', '/v1/embeddings']);
    for (const { body } of canaryQuestions) expect('model' in body).toBe(false);
  });

  it('the next question where the engine has no such route or takes no such request', () => {
    expect([400, 404, 405, 422, 501].every(isNotOffered)).toBe(true);
    expect([200, 429, 500, 503].some(isNotOffered)).toBe(false);
  });
});

describe('an answer is read', () => {
  it('as tokens with those that were nearly chosen', () => {
    expect(readCanaryAnswer(completion, completed())).toEqual(
      said(
        step('token_id:17', -1.5, { 'token_id:9': -1.52 }),
        step('token_id:4', -0.25, { 'token_id:2': -3 }),
      ),
    );
  });

  it('as an embedding', () => {
    expect(readCanaryAnswer(embedding, embedded([0.123456789, -1]))).toEqual(vector(0.123457, -1));
  });

  it.each([
    ['no JSON', 'upstream error'],
    ['null', 'null'],
    ['another document', '{"error":{"message":"x"}}'],
    ['no log probabilities', completed(null)],
    ['none of a token', completed({ token_logprobs: [-1.5, null] })],
    ['fewer of them', completed({ token_logprobs: [-1.5] })],
    ['no alternatives', completed({ top_logprobs: [null, null] })],
    ['alternatives that are no numbers', completed({ top_logprobs: [{ a: 'x' }, { b: 1 }] })],
    ['no tokens', completed({ tokens: [], token_logprobs: [], top_logprobs: [] })],
    ['tokens that are none', completed({ tokens: [1, 2] })],
    ['more tokens than asked for', completed({ tokens: Array(9).fill('a') })],
  ])('never from what is none: %s', (_, text) => {
    expect(readCanaryAnswer(completion, text)).toBeNull();
  });

  it.each([
    ['text', 'AACAPw=='],
    ['nothing', []],
    ['what is no number', [1, null]],
    ['too much', Array(32_769).fill(1)],
  ])('never as an embedding from %s', (_, value) => {
    expect(readCanaryAnswer(embedding, embedded(value))).toBeNull();
  });

  it.each([said(step('a', -1, { b: -2 })), vector(1, 2)])('from what was kept of it', (answer) => {
    expect(parseCanaryAnswer(JSON.stringify(answer))).toEqual(answer);
  });

  it.each([
    '',
    '{',
    'null',
    '{}',
    '{"kind":"tokens"}',
    '{"kind":"tokens","steps":[]}',
    '{"kind":"tokens","steps":[null]}',
    '{"kind":"tokens","steps":[{"token":"a","logprob":"-1","top":{}}]}',
    '{"kind":"tokens","steps":[{"token":"a","logprob":-1,"top":null}]}',
    '{"kind":"vector","values":[]}',
    '{"kind":"vector","values":["1"]}',
  ])('never from %j, kept by nobody', (text) => {
    expect(parseCanaryAnswer(text)).toBeNull();
  });
});

describe('tokens are the same answer', () => {
  const first = said(step('a', -1, { b: -1.03, z: -7 }), step('c', -0.5, { d: -4 }));
  it.each<[string, CanaryAnswer, boolean]>([
    ['when they are the same', first, false],
    ['when their log probabilities moved a little', said(step('a', -1.09), step('c', -0.41)), false],
    ['but not when one moved by more than 0.1 nat', said(step('a', -1), step('c', -0.61)), true],
    ['nor when it became likelier by more', said(step('a', -0.89), step('c', -0.5)), true],
    [
      'when a near-tie flipped, whatever follows it',
      said(step('b', -1.0, { a: -1.05 }), step('x', -9)),
      false,
    ],
    ['but not when the other one was unlikely', said(step('z', -1.0, { a: -1.05 })), true],
    ['nor when the first one is unlikely now', said(step('b', -1.0, { a: -2 })), true],
    ['nor when it is not even among the likeliest', said(step('b', -1.03, { q: -1.2, r: -3 })), true],
    ['when nothing more than a flip can be known', said(step('b', -1.03, { q: -1.04 })), false],
    ['but not when tokens are missing', said(step('a', -1)), true],
    ['nor when they are vLLM’s word for minus infinity', said(step('a', -9999), step('c', -9999)), true],
    ['nor when they are no tokens at all', vector(1), true],
  ])('%s', (_, second, alarm) => {
    expect(compareCanary(first, second).alarm).toBe(alarm);
  });

  it('and the figures are told', () => {
    expect(compareCanary(first, first)).toEqual({
      alarm: false,
      message: '2 tokens, log probabilities up to 0.000 nat apart',
      apart: 0,
    });
    const flipped = compareCanary(first, said(step('b', -1.0, { a: -1.05 })));
    expect(flipped.message).toBe('a near-tie at token 1, log probabilities up to 0.050 nat apart');
    const { message, apart } = compareCanary(first, said(step('a', -1), step('d', -0.1, { c: -2.5 })));
    expect(message).toBe('token 2: d instead of c, log probabilities 3.900 nat apart, 0.1 are allowed');
    expect(apart).toBeCloseTo(3.9);
  });
});

describe('embeddings are the same answer', () => {
  it.each<[string, CanaryAnswer, boolean]>([
    ['when they point one way, however long', vector(2, 4, 6), false],
    ['when they differ by little', vector(1, 2, 3.1), false],
    ['but not when their cosine is less than 0.999', vector(1, 2, 3.5), true],
    ['nor when one is nothing', vector(0, 0, 0), true],
    ['nor when they are of other lengths', vector(1, 2), true],
    ['nor when they are tokens', said(step('a', -1)), true],
  ])('%s', (_, second, alarm) => {
    expect(compareCanary(vector(1, 2, 3), second).alarm).toBe(alarm);
  });
});
