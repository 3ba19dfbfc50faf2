import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { createEngine, weightsKept } from '../../../../agent/act/engine.ts';
import { engineSocket } from '../../../../agent/act/engine-socket.ts';
import { afterwards, cleanUp, folder, until } from './until.ts';

afterEach(cleanUp);

/** An HTTP server on a socket that answers as vLLM's dev routes do; a route given here answers otherwise. */
async function serve(
  routes: Record<string, (request: IncomingMessage, response: ServerResponse) => void> = {},
  directory = folder(),
) {
  const path = join(directory, 'engine.sock');
  const calls: string[] = [];
  let asleep = false;
  let level = 0;
  const gauge = (state: string, on: boolean): string =>
    `vllm:engine_sleep_state{engine="0",sleep_state="${state}"} ${on ? '1.0' : '0.0'}\n`;
  const server: Server = createServer((request, response) => {
    const url = request.url!;
    calls.push(`${request.method} ${url}`);
    const own = routes[url.split('?')[0]!];
    if (own) return own(request, response);
    const query = new URL(url, 'http://x').searchParams;
    if (url.startsWith('/sleep')) {
      asleep = true;
      level = Number(query.get('level'));
    }
    if (url.startsWith('/wake_up')) {
      asleep &&= query.get('tags') === 'weights';
      level = 0;
    }
    if (url === '/is_sleeping') return void response.end(JSON.stringify({ is_sleeping: asleep }));
    if (url === '/metrics')
      return void response.end(
        gauge('awake', level === 0) +
          gauge('weights_offloaded', level === 1) +
          gauge('discard_all', level === 2),
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
    expect(await engine.sleep(1)).toEqual({ ok: true, message: '' });
    expect(await engine.ask()).toBe('asleep');
    expect(await engine.wake(1_000, sent)).toEqual({ ok: true, message: '' });
    expect(sent).toHaveBeenCalledOnce();
    expect(calls).toEqual([
      'GET /is_sleeping',
      'GET /is_sleeping',
      'POST /sleep?level=1&mode=keep',
      'GET /is_sleeping',
      'POST /wake_up',
      'POST /reset_prefix_cache',
      'GET /is_sleeping',
    ]);
  });

  it('gets its dropped weights read between the two halves of a wake from level 2', async () => {
    const { engine, calls } = await serve();
    await engine.sleep(2);
    expect((await engine.wake(null, () => undefined)).ok).toBe(true);
    expect(calls.slice(2)).toEqual([
      'POST /wake_up?tags=weights',
      'POST /collective_rpc',
      'POST /wake_up?tags=kv_cache',
      'POST /reset_prefix_cache',
      'GET /is_sleeping',
    ]);
  });

  it('is asked for its level when the agent that put it to sleep has died', async () => {
    const { engine, calls, path } = await serve();
    await engine.sleep(2);
    expect((await engineOn(path).wake(null, () => undefined)).ok).toBe(true);
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
    await engine.sleep(level);
    if (metrics === 'partial')
      await engineSocket(path).request('POST', '/wake_up?tags=weights', { timeoutMs: 1_000 });
    calls.length = 0;
    expect((await engineOn(path).wake(null, () => undefined)).ok).toBe(true);
    expect(calls.includes('POST /collective_rpc')).toBe(reloads);
    expect(calls.includes('POST /wake_up')).toBe(!reloads);
  });

  it('that sleeps is not sent a second sleep: its gauge would then say the level of that one', async () => {
    const { engine, calls } = await serve();
    await engine.sleep(2);
    expect(await engine.sleep(1)).toMatchObject({ ok: true });
    expect(calls.filter((call) => call.startsWith('POST /sleep'))).toEqual(['POST /sleep?level=2&mode=keep']);
    await engine.wake(null, () => undefined);
    expect(calls).toContain('POST /collective_rpc');
  });

  it('that never answered a sleep that drops weights gets them read', async () => {
    const { engine, calls } = await serve({ '/sleep': (request) => void request.socket.destroy() });
    expect((await engine.sleep(2)).ok).toBe(false);
    await engine.wake(null, () => undefined);
    expect(calls).toContain('POST /collective_rpc');
  });

  it('is not awake when it says that it still sleeps', async () => {
    const { engine } = await serve({ '/wake_up': (_, response) => void response.end('{}') });
    await engine.sleep(1);
    expect(await engine.wake(null, () => undefined)).toMatchObject({ ok: false, message: /still sleeps/ });
  });

  it('has its own words in the outcome of a wake that fails', async () => {
    const { engine } = await serve({
      '/wake_up': (_, response) =>
        void response.writeHead(500).end(`CUDA out of memory ${'x'.repeat(9_999)}`),
    });
    const outcome = await engine.wake(null, () => undefined);
    expect(outcome).toMatchObject({ ok: false, message: /500 CUDA out of memory/ });
    expect(outcome.message.length).toBeLessThan(500);
  });

  it('wakes although the prefix cache cannot be reset, and says so', async () => {
    const { engine } = await serve({
      '/reset_prefix_cache': (_, response) => void response.writeHead(404).end(),
    });
    expect(await engine.wake(null, () => undefined)).toMatchObject({ ok: true, message: /not reset/ });
  });

  it('is called once more when the connection ends without an answer, not a third time', async () => {
    let drops = 1;
    const { engine, calls } = await serve({
      '/sleep': (request, response) => {
        if (drops-- > 0) request.socket.destroy();
        else response.end('{}');
      },
    });
    expect((await engine.sleep(1)).ok).toBe(true);
    drops = 2;
    expect(await engine.sleep(1)).toMatchObject({ ok: false, message: /closed the connection/ });
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
    expect((await engine.sleep(1)).ok).toBe(false);
    expect((await engine.wake(null, () => undefined)).ok).toBe(false);
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
    const sleeping = engine.sleep(1);
    await until('the sleep', () => calls.length === 2);
    expect(await engine.ask()).toBe('awake');
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

describe("the engine's gauge", () => {
  const line = (state: string, value: string, engine = 0) =>
    `vllm:engine_sleep_state{engine="${engine}",sleep_state="${state}"} ${value}`;
  it.each([
    ['level 1', [line('weights_offloaded', '1.0'), line('discard_all', '0.0')], true],
    ['level 2', [line('weights_offloaded', '0.0'), line('discard_all', '1.0')], false],
    [
      'awake, as after a wake of the weights alone',
      [line('awake', '1.0'), line('weights_offloaded', '0.0')],
      false,
    ],
    [
      'two engines of two levels',
      [line('weights_offloaded', '1.0'), line('weights_offloaded', '0.0', 1)],
      false,
    ],
    ['both levels at once', [line('weights_offloaded', '1.0'), line('discard_all', '1.0', 1)], false],
    ['nothing', [], false],
  ])('that says %s proves what it can', (_, lines, kept) => {
    expect(weightsKept(`# HELP x\n${lines.join('\n')}\nother 1\n`)).toBe(kept);
  });
});
