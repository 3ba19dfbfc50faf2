/** Conformance: answers, whole and streamed. */
import { expect, it } from 'vitest';
import { until } from '../gpu-node.ts';
import { greedy, type Subject } from './conformance-subject.ts';

const messages = [{ role: 'user', content: 'hello' }];
const usage = (tokens: number) => ({
  prompt_tokens: expect.any(Number),
  total_tokens: expect.any(Number),
  completion_tokens: tokens,
});
/** What every answer ends with. */
const tail = (tokens: number) => ({
  service_tier: null,
  system_fingerprint: expect.stringMatching(/^vllm-0\.32\.0-/),
  usage: { ...usage(tokens), prompt_tokens_details: null, completion_tokens_details: null },
  kv_transfer_params: null,
  ec_transfer_params: null,
  metrics: null,
});
const answerId = (prefix: string) => expect.stringMatching(new RegExp(`^${prefix}-[0-9a-f]+$`));

export function serving(subject: () => Subject): void {
  it('answers a chat in the shape of vLLM', async () => {
    const { engine } = subject();
    const { status, json } = await engine.post('/v1/chat/completions', {
      messages,
      max_tokens: 3,
      logprobs: true,
      ...greedy,
    });
    expect(status).toBe(200);
    expect(json).toEqual({
      id: answerId('chatcmpl'),
      object: 'chat.completion',
      created: expect.any(Number),
      model: 'org/model',
      choices: [
        {
          index: 0,
          message: {
            role: 'assistant',
            content: expect.any(String),
            refusal: null,
            annotations: null,
            audio: null,
            function_call: null,
            reasoning: null,
          },
          logprobs: { content: [expect.anything(), expect.anything(), expect.anything()] },
          finish_reason: 'length',
          stop_reason: null,
          token_ids: [expect.any(Number), expect.any(Number), expect.any(Number)],
          routed_experts: null,
        },
      ],
      prompt_logprobs: null,
      prompt_token_ids: expect.any(Array),
      prompt_text: null,
      ...tail(3),
    });
    expect(Object.keys(json.choices[0].logprobs.content[0]).sort()).toEqual([
      'bytes',
      'logprob',
      'token',
      'top_logprobs',
    ]);
    expect(json.usage.total_tokens).toBe(json.usage.prompt_tokens + 3);
    expect(json.prompt_token_ids.length).toBe(json.usage.prompt_tokens);
  });

  it('answers a completion in the shape of vLLM, 16 tokens when nobody says how many', async () => {
    const { engine } = subject();
    const { status, json } = await engine.post('/v1/completions', {
      prompt: 'hello',
      temperature: 0,
      ignore_eos: true,
    });
    expect(status).toBe(200);
    expect(json).toEqual({
      id: answerId('cmpl'),
      object: 'text_completion',
      created: expect.any(Number),
      model: 'org/model',
      choices: [
        {
          index: 0,
          text: expect.any(String),
          logprobs: null,
          finish_reason: 'length',
          stop_reason: null,
          token_ids: null,
          prompt_logprobs: null,
          prompt_token_ids: null,
          routed_experts: null,
        },
      ],
      ...tail(16),
    });
  });

  it('tells the log probabilities of a completion, tokens by their ids where asked', async () => {
    const { engine } = subject();
    const { status, json } = await engine.post('/v1/completions', {
      prompt: 'hello',
      max_tokens: 3,
      logprobs: 4,
      return_tokens_as_token_ids: true,
      ...greedy,
    });
    expect(status).toBe(200);
    const [{ logprobs, token_ids: ids }] = json.choices;
    expect(Object.keys(logprobs).sort()).toEqual(['text_offset', 'token_logprobs', 'tokens', 'top_logprobs']);
    expect(logprobs.tokens).toEqual(ids.map((id: number) => `token_id:${id}`));
    expect(logprobs.text_offset).toHaveLength(3);
    for (const [at, token] of logprobs.tokens.entries()) {
      const top = logprobs.top_logprobs[at];
      expect(Object.keys(top)).toHaveLength(4);
      // The greedy one is the likeliest.
      expect(top[token]).toBe(logprobs.token_logprobs[at]);
      expect(Math.max(...(Object.values(top) as number[]))).toBe(top[token]);
      expect(Object.keys(top).every((name) => /^token_id:\d+$/.test(name))).toBe(true);
    }
  });

  it('answers under each of its names, with the first one', async () => {
    const { engine } = subject();
    for (const model of ['org/model', 'alias']) {
      const { json } = await engine.post('/v1/completions', { model, prompt: 'hello', max_tokens: 1 });
      expect(json.model).toBe('org/model');
    }
  });

  it('answers the same to the same when it is greedy', async () => {
    const { engine } = subject();
    const once = async () =>
      (await engine.post('/v1/completions', { prompt: 'a b c', max_tokens: 12, ...greedy })).json.choices[0]
        .token_ids;
    const first = await once();
    expect(first.length).toBe(12);
    expect(await once()).toEqual(first);
  });

  it('cuts an answer that outgrows its context, and does not refuse it', async () => {
    const { engine } = subject();
    const { json: prompt } = await engine.post('/tokenize', { prompt: 'hello' });
    const tokens = 2048 - 1;
    const { status, json } = await engine.post('/v1/completions', {
      prompt: Array.from({ length: tokens }, () => prompt.tokens[0] ?? 1),
      max_tokens: 9,
      ...greedy,
    });
    expect([status, json.choices[0].finish_reason, json.usage.completion_tokens]).toEqual([200, 'length', 1]);
  });

  it('streams a chat: role, tokens, reason, usage, an end', async () => {
    const { engine } = subject();
    const response = await engine.send('/v1/chat/completions', {
      body: JSON.stringify({
        messages,
        stream: true,
        max_tokens: 3,
        stream_options: { include_usage: true },
        ...greedy,
      }),
      headers: { 'content-type': 'application/json' },
    });
    expect(response.headers['content-type']).toBe('text/event-stream; charset=utf-8');
    const events = (await response.body.text()).split('\n\n').map((event) => event.replace('data: ', ''));
    expect(events.slice(-2)).toEqual(['[DONE]', '']);
    const chunks = events.slice(0, -2).map((event) => JSON.parse(event));
    const common = {
      id: answerId('chatcmpl'),
      object: 'chat.completion.chunk',
      created: expect.any(Number),
      model: 'org/model',
    };
    expect(chunks[0]).toEqual({
      ...common,
      choices: [{ index: 0, delta: { role: 'assistant', content: '' }, logprobs: null, finish_reason: null }],
      prompt_token_ids: expect.any(Array),
      prompt_text: null,
    });
    const token = { index: 0, delta: { content: expect.any(String) }, logprobs: null };
    expect(chunks[1]).toEqual({
      ...common,
      choices: [{ ...token, finish_reason: null, token_ids: [expect.any(Number)] }],
    });
    expect(chunks.at(-2)).toEqual({
      ...common,
      choices: [{ ...token, finish_reason: 'length', stop_reason: null, token_ids: [expect.any(Number)] }],
    });
    expect(chunks.at(-1)).toEqual({
      ...common,
      choices: [],
      usage: usage(3),
      system_fingerprint: expect.any(String),
    });
    expect(new Set(chunks.map(({ id }) => id)).size).toBe(1);
  });

  it('streams a completion; without include_usage its last chunk is the one with the reason', async () => {
    const { engine } = subject();
    const response = await engine.send('/v1/completions', {
      body: JSON.stringify({ prompt: 'hello', stream: true, max_tokens: 2, ...greedy }),
      headers: { 'content-type': 'application/json' },
    });
    const events = (await response.body.text()).split('\n\n').map((event) => event.replace('data: ', ''));
    expect(events.slice(-2)).toEqual(['[DONE]', '']);
    const [first, last] = events.slice(0, -2).map((event) => JSON.parse(event));
    const common = {
      id: answerId('cmpl'),
      object: 'text_completion',
      created: expect.any(Number),
      model: 'org/model',
    };
    const choice = { index: 0, text: expect.any(String), logprobs: null, stop_reason: null };
    expect(first).toEqual({
      ...common,
      choices: [
        {
          ...choice,
          finish_reason: null,
          prompt_token_ids: expect.any(Array),
          token_ids: [expect.any(Number)],
        },
      ],
    });
    expect(last).toEqual({
      ...common,
      choices: [
        {
          ...choice,
          finish_reason: 'length',
          prompt_token_ids: null,
          token_ids: [expect.any(Number)],
        },
      ],
      system_fingerprint: expect.any(String),
    });
  });

  it('counts in every chunk when asked to', async () => {
    const { engine } = subject();
    const stream = await engine.stream('hello', {
      max_tokens: 2,
      stream_options: { include_usage: true, continuous_usage_stats: true },
      ...greedy,
    });
    await stream.done;
    expect(stream.chunks.map((chunk) => chunk.usage.completion_tokens)).toEqual([0, 1, 2, 2]);
    expect(stream.chunks[1].usage).toEqual({ ...usage(1), completion_tokens_details: null });
    expect(stream.chunks.at(-1).usage).toEqual(usage(2));
  });

  it('frees a request whose client has left', async () => {
    const { engine } = subject();
    const running = async () =>
      Number((await engine.get('/metrics')).text.match(/^vllm:num_requests_running\{.*\} (.*)$/m)![1]);
    const stream = await engine.stream('hello', { max_tokens: 1500, ...greedy });
    await until('tokens', () => stream.ids.length > 2);
    await until('one that runs', async () => (await running()) === 1);
    stream.leave();
    await until('none that runs', async () => (await running()) === 0);
    expect(stream.ids.length).toBeLessThan(1500);
  });
}
