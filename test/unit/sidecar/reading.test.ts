/** What the front door reads of a request: path, body, headers, keys. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { endpointNames } from '#api/model.ts';
import { routeEndpoints } from '#proto/routes.ts';
import { givenKey, isAdmitted, keyHash } from '../../../sidecar/decide/api-key.ts';
import { corsHeaders, preflightHeaders } from '../../../sidecar/decide/cors.ts';
import { demandDueMs } from '../../../sidecar/decide/demand.ts';
import { readEnvironment, serviceAddress } from '../../../sidecar/decide/environment.ts';
import { keptRequestId, towardsClient, towardsEngine } from '../../../sidecar/decide/headers.ts';
import { boundaryOf, readForm, readJson } from '../../../sidecar/decide/model-name.ts';
import { modelCards, readModels } from '../../../sidecar/decide/models.ts';
import { destination, isOpen } from '../../../sidecar/decide/routes.ts';
import { environmentOf } from './pod.ts';

const own = { namespace: 'team-a', model: 'llama' };

describe('a path', () => {
  it.each([
    ['POST', '/v1/chat/completions', 'engine /v1/chat/completions'],
    ['POST', '/v1/chat/completions?x=%2F&y', 'engine /v1/chat/completions?x=%2F&y'],
    ['POST', '/llama/v1/chat/completions?a', 'engine /v1/chat/completions?a'],
    ['POST', '/team-a/llama/v2/rerank', 'engine /v2/rerank'],
    ['POST', 'http://host:80/llama/v1/responses', 'engine /v1/responses'],
    ['POST', '/v1/messages/count_tokens', 'engine /v1/messages/count_tokens'],
    ['GET', '/', 'page root'],
    ['HEAD', '/', 'page root'],
    ['GET', '/llama', 'page root'],
    ['GET', '/llama/', 'page root'],
    ['GET', '/llama/status', 'page status'],
    ['GET', '/team-a/llama/metrics?x', 'page metrics'],
    ['GET', '/v1/models', 'page models'],
    ['GET', '/v1/models/org/llama', 'page model org/llama'],
    ['GET', '/llama/v1/models/org%2Fllama', 'page model org/llama'],
    ['GET', '/v1/models/%zz', 'route_not_found'],
    ['GET', '/other/status', 'route_not_found'],
    ['GET', '/team-b/llama/status', 'route_not_found'],
    ['GET', '/llamas/status', 'route_not_found'],
    ['POST', '/v1/chat/completions/', 'route_not_found'],
    ['POST', '/v1//chat/completions', 'route_not_found'],
    ['POST', '/V1/chat/completions', 'route_not_found'],
    ['POST', '/v1/chat%2Fcompletions', 'route_not_found'],
    ['POST', '/v1/chat/completions/../../sleep', 'route_not_found'],
    ['POST', '/constructor', 'route_not_found'],
    ['GET', '/v1/chat/completions', 'method_not_allowed POST, OPTIONS'],
    ['PUT', '/v1/completions', 'method_not_allowed POST, OPTIONS'],
    ['POST', '/status', 'method_not_allowed GET, HEAD, OPTIONS'],
    ['OPTIONS', '/llama/score', 'options POST, OPTIONS'],
    ['OPTIONS', '/nowhere', 'route_not_found'],
  ])('%s %s goes to %s', (method, target, expected) => {
    const where = destination(method, target, own);
    const words = {
      engine: () => (where.to === 'engine' ? `engine ${where.path}${where.query}` : ''),
      page: () => (where.to === 'page' ? `page ${where.page} ${where.id}`.trim() : ''),
      options: () => (where.to === 'options' ? `options ${where.allow}` : ''),
      refusal: () =>
        where.to === 'refusal' ? `${where.refusal.code} ${where.refusal.allow ?? ''}`.trim() : '',
    };
    expect(words[where.to]()).toBe(expected);
  });

  it.each(
    [
      'sleep',
      'wake_up',
      'is_sleeping',
      'pause',
      'resume',
      'collective_rpc',
      'reset_prefix_cache',
      'reload_weights',
    ]
      .concat([
        'release_kv_cache_memory',
        'server_info',
        'load',
        'ping',
        'version',
        'docs',
        'openapi.json',
        'v1/load_lora_adapter',
      ])
      .flatMap((name) => ['POST', 'GET'].map((method) => [method, name] as const)),
  )('%s /%s never reaches the engine, under no prefix', (method, name) => {
    for (const prefix of ['', '/llama', '/team-a/llama', '/llama/v1', '//', '/.']) {
      expect(destination(method, `${prefix}/${name}`, own).to).toBe('refusal');
    }
  });

  it('of the engine is always one of the table, whatever the client writes', () => {
    const part = fc.constantFrom(
      '/',
      'v1',
      'chat',
      'completions',
      '..',
      '%2e',
      'llama',
      'team-a',
      'sleep',
      '?',
      '#',
      '//',
      'models',
    );
    fc.assert(
      fc.property(fc.array(part, { maxLength: 8 }), (parts) => {
        const where = destination('POST', `/${parts.join('')}`, own);
        expect(where.to !== 'engine' || routeEndpoints.has(where.path)).toBe(true);
      }),
    );
  });

  it('leads to every endpoint that a Model can open', () => {
    expect(new Set(routeEndpoints.values())).toEqual(new Set([...endpointNames, 'any']));
  });

  it('is open only where the Model opens its endpoint; /invocations with any', () => {
    expect(isOpen('completions', ['chat_completions'])).toBe(false);
    expect(isOpen('completions', ['completions'])).toBe(true);
    expect(isOpen('any', ['score'])).toBe(true);
    expect(isOpen('any', [])).toBe(false);
  });
});

describe('a JSON body', () => {
  it.each<[string, string, unknown]>([
    ['model first', '{"model":"a","stream":true}', { model: 'a', stream: true }],
    [
      'model last',
      ' {"messages":[{"model":"no"},"\\"}"] , "x":{"model":"no"}, "model" : "org/a"\n}',
      { model: 'org/a', stream: false },
    ],
    ['the last of several', '{"model":"a","model":"b"}', { model: 'b', stream: false }],
    ['an escaped key and value', '{"mod\\u0065l":"org\\/a"}', { model: 'org/a', stream: false }],
    ['none', '{}', { model: null, stream: false }],
    ['null', '{"model":null}', { model: null, stream: false }],
    ['no text', '{"model":["a"]}', { model: undefined, stream: false }],
    ['a number', '{"model":12}', { model: undefined, stream: false }],
    ['a name too long to be one', `{"model":"${'a'.repeat(3000)}"}`, { model: undefined, stream: false }],
    ['a byte order mark', '\ufeff{"model":"a"}', { model: 'a', stream: false }],
    ['ends with backslashes', '{"a":"\\\\","model":"b"}', { model: 'b', stream: false }],
    ['a list', '[{"model":"a"}]', null],
    ['cut in a string', '{"model":"a', null],
    ['cut in an object', '{"model":"a","x":{', null],
    ['no colon', '{"model" "a"}', null],
    ['no value', '{"model":}', null],
    ['a trailing comma', '{"model":"a",}', null],
    ['something after it', '{"model":"a"} {"model":"b"}', null],
    ['nothing', '', null],
    ['no JSON', 'model=a', null],
  ])('with %s', (_, text, expected) => {
    expect(readJson(Buffer.from(text))).toEqual(expected);
  });

  it('is read as JSON.parse reads it, whatever is in it', () => {
    fc.assert(
      fc.property(fc.dictionary(fc.constantFrom('model', 'stream', 'a', 'ü"\\'), fc.jsonValue()), (value) => {
        const { model, stream } = value as { model?: unknown; stream?: unknown };
        const text = typeof model === 'string' || model === null ? model : undefined;
        expect(readJson(Buffer.from(JSON.stringify(value, null, 1)))).toEqual({
          model: Object.hasOwn(value, 'model') ? text : null,
          stream: stream === true,
        });
      }),
    );
  });
});

describe('a form', () => {
  const form = (...parts: [string, string][]) =>
    Buffer.from(
      `${parts.map(([head, value]) => `--XX\r\nContent-Disposition: form-data; ${head}\r\n\r\n${value}\r\n`).join('')}--XX--\r\n`,
      'latin1',
    );
  it.each<[string, Buffer, unknown]>([
    [
      'model after the file',
      form(['name="file"; filename="a.wav"', '\0\r\nmodel\r\n--X'], ['name="model"', 'whisper']),
      'whisper',
    ],
    ['model unquoted', form(['name=model', 'w']), 'w'],
    [
      'a header line more',
      Buffer.from(
        '--XX\r\nA: b\r\nContent-Disposition: form-data; name="model"\r\n\r\nw\r\n--XX--',
        'latin1',
      ),
      'w',
    ],
    ['none', form(['name="xmodel"', 'w'], ['name="file"; filename="name=model"', 'x']), null],
    ['the same twice', form(['name="model"', 'w'], ['name="model"', 'w']), 'w'],
    ['two that differ', form(['name="model"', 'w'], ['name="model"', 'v']), undefined],
  ])('with %s', (_, body, expected) => {
    expect(readForm(body, 'XX')).toEqual({ model: expected, stream: false });
  });
  it.each([
    ['cut', form(['name="model"', 'w']).subarray(0, -8)],
    ['without its boundary', Buffer.from('hello')],
    ['with endless part headers', Buffer.from(`--XX\r\n${'a'.repeat(10_000)}\r\n\r\n\r\n--XX--`)],
  ])('that is %s is none', (_, body) => {
    expect(readForm(body, 'XX')).toBeNull();
  });
  it.each([
    ['multipart/form-data; boundary=abc', 'abc'],
    ['Multipart/Form-Data; charset=utf-8; boundary="a b"', 'a b'],
    ['multipart/mixed; boundary=abc', null],
    ['application/json', null],
    ['multipart/form-data', null],
  ])('has its boundary read from %s', (type, expected) => {
    expect(boundaryOf(type)).toBe(expected);
  });
});

describe('headers', () => {
  it('towards the engine lose what belongs to this hop, keys and our own', () => {
    const raw = [
      'Host',
      'x',
      'Connection',
      'close, X-Mine',
      'X-Mine',
      '1',
      'TE',
      'trailers',
      'Expect',
      '100-continue',
    ]
      .concat([
        'Content-Length',
        '5',
        'traceparent',
        '00-a',
        'Accept',
        'b',
        'Authorization',
        'Bearer k',
        'X-Api-Key',
        'k',
      ])
      .concat([
        'X-Greenthread-Retry',
        '1',
        'Upgrade',
        'h2c',
        'X-Request-Id',
        'old',
        'Transfer-Encoding',
        'chunked',
      ]);
    expect(towardsEngine(raw, 'id', false)).toEqual([
      'traceparent',
      '00-a',
      'accept',
      'b',
      'x-request-id',
      'id',
    ]);
    expect(towardsEngine(raw, 'id', true)).toContain('authorization');
  });
  it('towards the client lose hop-by-hop and the engine’s own CORS, and keep several of one name', () => {
    const from = {
      connection: 'x-a',
      'x-a': '1',
      'set-cookie': ['a', 'b'],
      'transfer-encoding': 'chunked',
      date: 'd',
    };
    const headers = { ...from, 'access-control-allow-origin': '*', 'content-type': 't' };
    expect(towardsClient(headers)).toEqual(['set-cookie', 'a', 'set-cookie', 'b', 'content-type', 't']);
  });
  it('keep an X-Request-Id that can be one', () => {
    expect([
      keptRequestId('a'),
      keptRequestId(''),
      keptRequestId('a'.repeat(257)),
      keptRequestId(undefined),
    ]).toEqual(['a', null, null, null]);
  });
  it('for browsers name the origins that may call, and echo what was asked', () => {
    expect(corsHeaders('https://a', [])).toEqual([]);
    expect(corsHeaders('https://a', ['https://b'])).toEqual(['vary', 'Origin']);
    expect(corsHeaders('https://a', ['https://a'])).toContain('https://a');
    expect(corsHeaders('https://a', ['*'])).toContain('*');
    expect(
      preflightHeaders({ origin: 'https://a', headers: 'x-stainless-os, authorization' }, 'POST', ['*']),
    ).toContain('x-stainless-os, authorization');
    expect(preflightHeaders({ origin: 'https://a', headers: 'x' }, 'POST', ['https://b'])).toEqual([]);
  });
});

describe('an API key', () => {
  const keys = [keyHash('alpha'), keyHash('beta')];
  it.each([
    [{ authorization: 'Bearer beta' }, true],
    [{ authorization: 'bearer  alpha ' }, true],
    [{ 'x-api-key': 'alpha' }, true],
    [{ authorization: 'Bearer gamma' }, false],
    [{ authorization: 'Basic alpha' }, false],
    [{ 'x-api-key': '' }, false],
    [{}, false],
  ])('in %j is taken: %s', (headers, expected) => {
    expect(isAdmitted(givenKey(headers), keys)).toBe(expected);
  });
  it('is not asked for without a Secret; an empty Secret admits nobody', () => {
    expect(isAdmitted(null, null)).toBe(true);
    expect(isAdmitted('alpha', [])).toBe(false);
  });
});

describe('the environment', () => {
  it('is read whole', () => {
    const {
      own: read,
      service,
      graceMs,
    } = readEnvironment({
      ...environmentOf('/x', {}),
      GT_LLAMA_SERVICE_HOST: '10.0.0.9',
      GT_LLAMA_SERVICE_PORT: '80',
    });
    expect(read).toMatchObject({
      names: ['org/llama', 'chatty', 'org/other'],
      replica: 0,
      gpuUuids: ['GPU-1', 'GPU-2'],
    });
    expect([service, graceMs]).toEqual([{ host: '10.0.0.9', port: 80 }, 30_000]);
  });
  it.each([
    ['GREENTHREAD_MODEL', undefined, /GREENTHREAD_MODEL is missing/],
    ['GREENTHREAD_SETTINGS', 'no', /GREENTHREAD_SETTINGS is not a JSON object/],
    ['GREENTHREAD_REPLICA', 'x', /GREENTHREAD_REPLICA is "x": write a whole number/],
    ['GREENTHREAD_LISTEN_PORT', '70000', /GREENTHREAD_LISTEN_PORT/],
  ])('without a good %s is refused', (name, value, message) => {
    expect(() => readEnvironment({ ...environmentOf('/x', {}), [name]: value })).toThrow(message);
  });
  it('names the Service in DNS where the kubelet told no address', () => {
    expect(serviceAddress('gt-a', 'ns', {})).toEqual({ host: 'gt-a.ns.svc', port: 80 });
    expect(
      serviceAddress('gt-a', 'ns', { GT_A_SERVICE_HOST: 'fd00::1', GT_A_SERVICE_PORT: 'tcp://x' }),
    ).toEqual({ host: 'fd00::1', port: 80 });
  });
});

describe('the models page', () => {
  it('shows every name from memory before the first boot, with nothing invented', () => {
    expect(modelCards(['org/a', 'b'], null, 7)).toEqual(
      ['org/a', 'b'].map((id) => ({
        id,
        object: 'model',
        created: 7,
        owned_by: 'vllm',
        root: 'org/a',
        parent: null,
        max_model_len: null,
        permission: [],
      })),
    );
  });
  it('keeps what the engine said, adapters too', () => {
    const fromEngine = readModels('{"data":[{"id":"org/a","max_model_len":9},{"id":"lora"},{"bad":1}]}');
    expect(modelCards(['org/a', 'b'], fromEngine, 7)).toEqual([
      { id: 'org/a', max_model_len: 9 },
      { id: 'b', max_model_len: 9 },
      { id: 'lora' },
    ]);
  });
  it.each(['', '{}', '{"data":[]}', '{"data":7}', 'null'])('takes %j for no answer', (text) => {
    expect(readModels(text)).toBeNull();
  });
});

describe('demand', () => {
  const demand = { inFlight: 0, queued: 0, oldestWaitMs: 0, idleMs: 0, requestsTotal: 0 };
  it.each([
    ['the first waiter at once', { queued: 1 }, 1_000],
    ['in-flight from 0 at once', { inFlight: 1 }, 1_000],
    ['more of the same later', { requestsTotal: 1 }, 1_245],
    ['nothing new never', { idleMs: 50 }, null],
  ])('says %s', (_, change, expected) => {
    expect(demandDueMs({ demand, atMs: 995 }, { ...demand, ...change }, 1_000)).toBe(expected);
  });
  it.each([
    ['not before it has rested', 0, 1_010],
    ['once it has rested', 10, 1_000],
    ['at once when it has rested for long', 400, 1_000],
  ])('says in-flight to 0 %s', (_, idleMs, expected) => {
    const said = { demand: { ...demand, inFlight: 1 }, atMs: 500 };
    expect(demandDueMs(said, { ...demand, idleMs, requestsTotal: 1 }, 1_000)).toBe(expected);
  });
  it('says that the last waiter is gone at once, and an old change too', () => {
    expect(demandDueMs({ demand: { ...demand, queued: 2 }, atMs: 999 }, demand, 1_000)).toBe(1_000);
    expect(demandDueMs({ demand, atMs: 0 }, { ...demand, inFlight: 1 }, 1_000)).toBe(1_000);
  });
});
