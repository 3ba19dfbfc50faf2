/** Conformance: routes beside inference. */
import { expect, it } from 'vitest';
import { contextTokens, type Subject } from './conformance-subject.ts';

const permission = {
  id: expect.stringMatching(/^modelperm-/),
  object: 'model_permission',
  created: expect.any(Number),
  allow_create_engine: false,
  allow_sampling: true,
  allow_logprobs: true,
  allow_search_indices: false,
  allow_view: true,
  allow_fine_tuning: false,
  organization: '*',
  group: null,
  is_blocking: false,
};

/** Every gauge, counter and histogram that dashboards, autoscalers or the agent read. */
const families = [
  'vllm:num_requests_running',
  'vllm:num_requests_waiting',
  'vllm:kv_cache_usage_perc',
  'vllm:num_preemptions_total',
  'vllm:prompt_tokens_total',
  'vllm:generation_tokens_total',
  'vllm:request_success_total',
  'vllm:engine_sleep_state',
  'vllm:time_to_first_token_seconds_count',
  'vllm:e2e_request_latency_seconds_count',
  'process_start_time_seconds',
];

export function admin(subject: () => Subject): void {
  it('lists its names in the shape of vLLM', async () => {
    const { status, text } = await subject().engine.get('/v1/models');
    const model = (id: string) => ({
      id,
      object: 'model',
      created: expect.any(Number),
      owned_by: 'vllm',
      root: expect.stringMatching(/^\//),
      parent: null,
      max_model_len: contextTokens,
      permission: [permission],
    });
    expect(status).toBe(200);
    expect(JSON.parse(text)).toEqual({ object: 'list', data: [model('org/model'), model('alias')] });
  });

  it('says that it is well, and which vLLM it is', async () => {
    const { engine } = subject();
    expect(await engine.get('/health')).toEqual({ status: 200, text: '' });
    expect(await engine.get('/ping')).toEqual({ status: 200, text: '' });
    expect(await engine.post('/ping')).toEqual({ status: 200, json: null });
    expect(JSON.parse((await engine.get('/version')).text)).toEqual({ version: '0.32.0' });
  });

  it('takes tokens apart and puts them together', async () => {
    const { engine } = subject();
    const { status, json } = await engine.post('/tokenize', { prompt: 'hello', return_token_strs: true });
    expect(status).toBe(200);
    expect(json).toEqual({
      count: json.tokens.length,
      max_model_len: contextTokens,
      tokens: expect.any(Array),
      token_strs: expect.any(Array),
    });
    expect(json.token_strs.join('')).toBe('hello');
    expect(await engine.post('/detokenize', { tokens: json.tokens })).toEqual({
      status: 200,
      json: { prompt: 'hello' },
    });
    const chat = await engine.post('/tokenize', { messages: [{ role: 'user', content: 'x' }] });
    expect(chat.json).toMatchObject({ token_strs: null, count: chat.json.tokens.length });
  });

  it('has the metrics that others read', async () => {
    const { engine } = subject();
    await engine.post('/v1/completions', { prompt: 'hello', max_tokens: 2 });
    const { text } = await engine.get('/metrics');
    for (const family of families) expect(text).toMatch(new RegExp(`^${family}[{ ]`, 'm'));
    for (const state of ['awake', 'weights_offloaded', 'discard_all']) {
      expect(text).toContain(
        `vllm:engine_sleep_state{engine="0",model_name="org/model",sleep_state="${state}"}`,
      );
    }
    for (const reason of ['stop', 'length', 'abort'])
      expect(text).toMatch(
        new RegExp(
          `^vllm:request_success_total\\{engine="0",(?=.*model_name="org/model").*finished_reason="${reason}"|^vllm:request_success_total\\{engine="0",finished_reason="${reason}",model_name="org/model"`,
          'm',
        ),
      );
  });

  it('calls a method of its workers by name', async () => {
    const { engine } = subject();
    expect(await engine.post('/collective_rpc', { method: 'check_health' })).toEqual({
      status: 200,
      json: { results: [null] },
    });
    const unknown = await engine.post('/collective_rpc', { method: 'nope' });
    expect(unknown).toEqual({
      status: 500,
      json: {
        error: {
          message: expect.stringMatching(/^Call to collective_rpc method failed: .*'nope'/),
          type: 'InternalServerError',
          param: null,
          code: 500,
        },
      },
    });
    expect((await engine.get('/health')).status).toBe(200);
    expect(await engine.post('/collective_rpc', {})).toMatchObject({
      status: 400,
      json: { error: { message: "Missing 'method' in request body", type: 'Bad Request' } },
    });
  });

  it('forgets its prefixes when told to', async () => {
    expect(await subject().engine.post('/reset_prefix_cache')).toEqual({
      status: 200,
      json: { success: true },
    });
  });
}
