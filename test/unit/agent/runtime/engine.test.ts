import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { createEngine, gaugeWord } from '../../../../agent/act/engine.ts';
import { EngineError, type EngineSocket, engineSocket } from '../../../../agent/act/engine-socket.ts';
import { sleepMsMax, wakeMsMax } from '../../../../agent/decide/engine-times.ts';
import { afterwards, cleanUp, folder, until } from './until.ts';

afterEach(cleanUp);

/** Bytes of an engine awake. */
const weights = 16e9;

/** An HTTP server on a socket that answers as vLLM's dev routes do; a route given here answers otherwise. */
async function serve(
  routes: Record<string, (request: IncomingMessage, response: ServerResponse) => void> = {},
  directory = folder(),
) {
  const path = join(directory, 'engine.sock');
  const calls: string[] = [];
  const vllm = { paused: false, level: 0, tags: new Set<string>() };
  const gauge = (state: string, on: boolean): string =>
    `vllm:engine_sleep_state{engine="0",sleep_state="${state}"} ${on ? '1.0' : '0.0'}\n`;
  const server: Server = createServer((request, response) => {
    const url = request.url!;
    calls.push(`${request.method} ${url}`);
    const query = new URL(url, 'http://x').searchParams;
    if (url.startsWith('/sleep')) vllm.paused = true;
    const own = routes[url.split('?')[0]!];
    if (own) return own(request, response);
    if (url.startsWith('/sleep')) {
      vllm.level = Number(query.get('level'));
      vllm.tags = new Set(['weights', 'kv_cache']);
    }
    if (url.startsWith('/wake_up')) {
      const tag = query.get('tags');
      if (tag === null) vllm.tags.clear();
      else vllm.tags.delete(tag);
      if (vllm.tags.size === 0) Object.assign(vllm, { paused: false, level: 0 });
    }
    if (url === '/is_sleeping') return void response.end(JSON.stringify({ is_sleeping: vllm.paused }));
    if (url === '/metrics')
      return void response.end(
        gauge('awake', vllm.level === 0) +
          gauge('weights_offloaded', vllm.level === 1) +
          gauge('discard_all', vllm.level === 2),
      );
    response.end('{}');
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  afterwards(() => {
    server.closeAllConnections();
    server.close();
  });
  return { path, calls, engine: engineOn(path), server };
}

function engineOn(path: string) {
  const engine = createEngine(engineSocket(path));
  afterwards(() => engine.close());
  return engine;
}

describe('an engine', () => {
  it('sleeps keeping what runs, and wakes with a clean prefix cache, proven by /is_sleeping', async () => {
    const { engine, calls } = await serve();
    const sent = vi.fn();
    expect(await engine.ask()).toBe('awake');
    expect(await engine.sleep(1, weights)).toEqual({ ok: true, message: '' });
    expect(await engine.ask()).toBe('asleep');
    expect(await engine.wake(weights, sent)).toEqual({ ok: true, message: '' });
    expect(sent).toHaveBeenCalledOnce();
    expect(calls).toEqual([
      'GET /is_sleeping',
      'GET /is_sleeping',
      'POST /sleep?level=1&mode=keep',
      'GET /is_sleeping',
      'GET /metrics',
      'POST /wake_up',
      'POST /reset_prefix_cache',
      'GET /is_sleeping',
    ]);
  });

  it('gets its dropped weights read between the two halves of a wake from level 2', async () => {
    const { engine, calls } = await serve();
    await engine.sleep(2, weights);
    expect((await engine.wake(weights, () => undefined)).ok).toBe(true);
    expect(calls.slice(2)).toEqual([
      'GET /metrics',
      'POST /wake_up?tags=weights',
      'POST /collective_rpc',
      'POST /wake_up?tags=kv_cache',
      'POST /reset_prefix_cache',
      'GET /is_sleeping',
    ]);
  });

  it('is asked for its level when the agent that put it to sleep has died', async () => {
    const { engine, calls, path } = await serve();
    await engine.sleep(2, weights);
    expect((await engineOn(path).wake(weights, () => undefined)).ok).toBe(true);
    expect(calls.slice(2, 5)).toEqual(['GET /metrics', 'POST /wake_up?tags=weights', 'POST /collective_rpc']);
  });

  it.each([
    ['sleeps at level 1 by its gauge is woken at once', 1, undefined, false],
    ['was killed between its weights and their content gets them read', 2, 'partial', true],
    ['has no metrics gets its weights read', 1, 404, true],
    ['has metrics without the gauge gets its weights read', 1, 200, true],
  ] as const)('of an agent that died and that %s', async (_, level, metrics, reloads) => {
    const routes: Parameters<typeof serve>[0] =
      typeof metrics === 'number'
        ? {
            '/metrics': (_request: IncomingMessage, response: ServerResponse) =>
              void response.writeHead(metrics).end('vllm:num_requests_running 0\n'),
          }
        : {};
    const { engine, calls, path } = await serve(routes);
    await engine.sleep(level, weights);
    if (metrics === 'partial')
      await engineSocket(path).request('POST', '/wake_up?tags=weights', { timeoutMs: 1_000 });
    calls.length = 0;
    expect((await engineOn(path).wake(weights, () => undefined)).ok).toBe(true);
    expect(calls.includes('POST /collective_rpc')).toBe(reloads);
    expect(calls.includes('POST /wake_up')).toBe(!reloads);
  });

  it('that sleeps is not sent a second sleep: its gauge would then say the level of that one', async () => {
    const { engine, calls } = await serve();
    await engine.sleep(2, weights);
    expect(await engine.sleep(1, weights)).toMatchObject({ ok: true });
    expect(calls.filter((call) => call.startsWith('POST /sleep'))).toEqual(['POST /sleep?level=2&mode=keep']);
    await engine.wake(weights, () => undefined);
    expect(calls).toContain('POST /collective_rpc');
  });

  it('that never answered a sleep that drops weights gets them read', async () => {
    const { engine, calls } = await serve({ '/sleep': (request) => void request.socket.destroy() });
    expect((await engine.sleep(2, weights)).ok).toBe(false);
    await engine.wake(weights, () => undefined);
    expect(calls).toContain('POST /collective_rpc');
  });

  it('is not awake when it says that it still sleeps', async () => {
    const { engine } = await serve({ '/wake_up': (_, response) => void response.end('{}') });
    await engine.sleep(1, weights);
    expect(await engine.wake(weights, () => undefined)).toMatchObject({ ok: false, message: /still sleeps/ });
  });

  it('has its own words in the outcome of a wake that fails', async () => {
    const { engine } = await serve({
      '/wake_up': (_, response) =>
        void response.writeHead(500).end(`CUDA out of memory ${'x'.repeat(9_999)}`),
    });
    await engine.sleep(1, weights);
    const outcome = await engine.wake(weights, () => undefined);
    expect(outcome).toMatchObject({ ok: false, message: /500 CUDA out of memory/ });
    expect(outcome.message.length).toBeLessThan(500);
  });

  it('wakes although the prefix cache cannot be reset, and says so', async () => {
    const { engine } = await serve({
      '/reset_prefix_cache': (_, response) => void response.writeHead(404).end(),
    });
    expect(await engine.wake(weights, () => undefined)).toMatchObject({ ok: true, message: /not reset/ });
  });

  it('is called once more when the connection ends without an answer, not a third time', async () => {
    let drops = 1;
    const { engine, calls } = await serve({
      '/sleep': (request, response) => {
        if (drops-- > 0) request.socket.destroy();
        else response.end('{}');
      },
    });
    expect((await engine.sleep(1, weights)).ok).toBe(true);
    drops = 2;
    expect(await engine.sleep(1, weights)).toMatchObject({ ok: false, message: /closed the connection/ });
    expect(calls.filter((call) => call.startsWith('POST /sleep'))).toHaveLength(4);
  });

  it.each([
    ['no socket', () => undefined],
    ['a file', (path: string) => writeFileSync(path, '')],
    ['a folder', (path: string) => mkdirSync(path)],
  ])('is unreachable with %s', async (_, plant) => {
    const path = join(folder(), 'engine.sock');
    plant(path);
    const engine = engineOn(path);
    expect(await engine.ask()).toBe('unreachable');
    expect((await engine.sleep(1, weights)).ok).toBe(false);
    expect((await engine.wake(weights, () => undefined)).ok).toBe(false);
  });

  it('is not looked for behind a link', async () => {
    const { path, calls } = await serve();
    const planted = join(folder(), 'engine.sock');
    symlinkSync(path, planted);
    expect(await engineOn(planted).ask()).toBe('unreachable');
    expect(calls).toEqual([]);
  });

  it('answers no more than is read', async () => {
    const { engine } = await serve({
      '/is_sleeping': (_, response) => void response.end('x'.repeat(5 * 1024 * 1024)),
    });
    expect(await engine.ask()).toBe('unreachable');
  });

  it('can be asked while a sleep hangs, and an end of the directory ends the wait', async () => {
    const { engine, calls } = await serve({ '/sleep': () => undefined });
    const sleeping = engine.sleep(1, weights);
    await until('the sleep', () => calls.length === 2);
    expect(await engine.ask()).toBe('paused');
    engine.close();
    expect((await sleeping).ok).toBe(false);
  });
});

describe('an answer that does not come', () => {
  it('is a timeout of that request alone', async () => {
    const { path } = await serve({ '/health': () => undefined });
    const socket = engineSocket(path);
    afterwards(() => socket.close());
    await expect(socket.request('GET', '/health', { timeoutMs: 30 })).rejects.toMatchObject({
      kind: 'timeout',
      message: /no answer within 30 ms/,
    });
    expect((await socket.request('GET', '/is_sleeping', { timeoutMs: 1_000 })).status).toBe(200);
  });
});

/** A 500 as vLLM answers where the sleep itself failed. */
const refused = (_request: IncomingMessage, response: ServerResponse): void =>
  void response.writeHead(500).end('sleep refused, nothing was freed: No space left on device');

describe('an engine that refuses its sleep', () => {
  it('is woken, so that what was frozen goes on; the sleep has failed with its own words', async () => {
    const { engine, calls } = await serve({ '/sleep': refused });
    expect(await engine.sleep(1, weights)).toEqual({
      ok: false,
      message:
        'POST /sleep?level=1&mode=keep answered 500 sleep refused, nothing was freed: No space left on device',
    });
    expect(calls.slice(1)).toEqual(['POST /sleep?level=1&mode=keep', 'POST /wake_up']);
    expect(await engine.ask()).toBe('awake');
  });

  it('at level 2 gets its weights read before anything runs', async () => {
    const { engine, calls } = await serve({ '/sleep': refused });
    await engine.sleep(2, weights);
    expect(calls.slice(2)).toEqual(['POST /collective_rpc', 'POST /wake_up']);
  });

  it('and its wake says both; it is paused, and a wake later brings it on', async () => {
    let wakes = 0;
    const { engine, calls } = await serve({
      '/sleep': refused,
      '/wake_up': (_, response) => void response.writeHead(wakes++ === 0 ? 503 : 404).end('not now'),
    });
    expect((await engine.sleep(1, weights)).message).toMatch(
      /No space left.*nor does it go on: .*503 not now/,
    );
    expect(await engine.ask()).toBe('paused');
    calls.length = 0;
    await engine.wake(weights, () => undefined);
    expect(calls).toEqual(['GET /metrics', 'GET /is_sleeping', 'POST /collective_rpc', 'POST /wake_up']);
  });

  it('is paused for the next agent too, which wakes it; before that a sleep is sent as to one awake', async () => {
    const routes = { '/sleep': refused as (request: IncomingMessage, response: ServerResponse) => void };
    const { engine, path, calls } = await serve(routes);
    await engineSocket(path).request('POST', '/sleep?level=1&mode=keep', { timeoutMs: 1_000 });
    expect(await engine.ask()).toBe('paused');
    const sent = vi.fn();
    expect(await engine.wake(weights, sent)).toEqual({ ok: true, message: '' });
    expect(sent).toHaveBeenCalledOnce();
    expect(await engine.ask()).toBe('awake');
    await engineSocket(path).request('POST', '/sleep?level=1&mode=keep', { timeoutMs: 1_000 });
    calls.length = 0;
    expect((await engine.sleep(1, weights)).ok).toBe(false);
    expect(calls).toContain('POST /sleep?level=1&mode=keep');
  });

  it('and tells no gauge is asleep by its own word: what it holds is measured', async () => {
    const { engine, path } = await serve({
      '/sleep': refused,
      '/metrics': (_, response) => void response.writeHead(404).end(),
    });
    await engineSocket(path).request('POST', '/sleep?level=1&mode=keep', { timeoutMs: 1_000 });
    expect(await engine.ask()).toBe('asleep');
  });
});

/** Answers by path; what is not said is 200, a time limit that passes is its own. */
function scripted(answers: Record<string, string | number>) {
  const waits: number[] = [];
  const socket: EngineSocket = {
    async request(_method, path, { timeoutMs, onSent }) {
      waits.push(timeoutMs);
      onSent?.();
      const answer = answers[path.split('?')[0]!] ?? '{}';
      if (answer === 'timeout') throw new EngineError('timeout', `${path}: no answer within ${timeoutMs} ms`);
      return typeof answer === 'number' ? { status: answer, text: 'no' } : { status: 200, text: answer };
    },
    close: () => undefined,
  };
  const longestMs = (): number => waits.reduce((sum, ms) => sum + ms, 0);
  return { engine: createEngine(socket), waits, longestMs };
}

const gaugeOf = (kept: number, dropped: number): string =>
  `vllm:engine_sleep_state{sleep_state="weights_offloaded"} ${kept}\nvllm:engine_sleep_state{sleep_state="discard_all"} ${dropped}\n`;

describe('a slow engine', () => {
  const large = 180e9;

  it.each([
    ['that tells level 1 by its gauge has slept', gaugeOf(1, 0), true],
    ['that is still at it has not, whatever /is_sleeping says', gaugeOf(0, 0), false],
    ['that tells another level has not', gaugeOf(0, 1), false],
    ['that tells nothing has not', '', false],
  ])('whose sleep is not answered in time and %s', async (_, metrics, ok) => {
    const { engine } = scripted({
      '/is_sleeping': '{"is_sleeping": false}',
      '/sleep': 'timeout',
      '/metrics': metrics,
    });
    expect((await engine.sleep(1, large)).ok).toBe(ok);
  });

  it('has the time that its bytes take at 256 MiB/s to sleep, and 120 s at least', async () => {
    const { engine, waits } = scripted({ '/is_sleeping': '{"is_sleeping": false}' });
    await engine.sleep(1, large);
    await engine.sleep(1, 1e9);
    expect(waits).toEqual([3_000, Math.ceil(large / ((256 * 2 ** 20) / 1_000)), 3_000, 120_000]);
  });

  it.each([1e9, 45 * 2 ** 30, large])(
    'of %d bytes is given up by those who wait for it later than by the calls themselves',
    async (bytes) => {
      const refusing = scripted({
        '/is_sleeping': '{"is_sleeping": true}',
        '/metrics': gaugeOf(0, 0),
        '/sleep': 500,
        '/wake_up': 'timeout',
      });
      await refusing.engine.sleep(2, bytes);
      expect(refusing.waits).toHaveLength(5);
      expect(refusing.longestMs() + 50_000).toBeLessThan(sleepMsMax(bytes));
      const dropped = scripted({ '/is_sleeping': 'timeout', '/metrics': gaugeOf(0, 1) });
      await dropped.engine.wake(bytes, () => undefined);
      expect(dropped.waits).toHaveLength(7);
      expect(dropped.longestMs() + 50_000).toBeLessThan(wakeMsMax(bytes));
    },
  );

  it('whose connection ends is tried again within the same time', async () => {
    const waits: number[] = [];
    let nowMs = 0;
    const clock = vi.spyOn(performance, 'now').mockImplementation(() => nowMs);
    afterwards(() => clock.mockRestore());
    const engine = createEngine({
      async request(_method, path, { timeoutMs }) {
        waits.push(timeoutMs);
        if (path === '/is_sleeping') return { status: 200, text: '{"is_sleeping": false}' };
        nowMs += 50_000;
        throw new EngineError('closed', 'gone');
      },
      close: () => undefined,
    });
    await engine.sleep(1, weights);
    expect(waits).toEqual([3_000, 120_000, 70_000]);
  });
});

describe("the engine's gauge", () => {
  const line = (state: string, value: string, engine = 0) =>
    `vllm:engine_sleep_state{engine="${engine}",sleep_state="${state}"} ${value}`;
  const both = (kept: string, dropped: string, engine = 0) => [
    line('weights_offloaded', kept, engine),
    line('discard_all', dropped, engine),
  ];
  it.each([
    ['level 1', both('1.0', '0.0'), 'kept'],
    ['level 2', both('0.0', '1.0'), 'dropped'],
    ['neither', [line('awake', '1.0'), ...both('0.0', '0.0')], 'in-place'],
    ['two engines of two minds', [...both('1.0', '0.0'), ...both('0.0', '0.0', 1)], 'unproven'],
    ['two engines of two levels', [...both('1.0', '0.0'), ...both('0.0', '1.0', 1)], 'unproven'],
    ['both levels at once', both('1.0', '1.0'), 'unproven'],
    ['one level alone', [line('weights_offloaded', '1.0')], 'unproven'],
    ['nothing', [], 'unproven'],
  ])('that says %s proves what it can', (_, lines, word) => {
    expect(gaugeWord(`# HELP x\n${lines.join('\n')}\nother 1\n`)).toBe(word);
  });
});
