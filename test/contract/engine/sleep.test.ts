/** The simulated engine's sleep and wake: memory, streams, refusals. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type Engine, GpuNode, until } from '../gpu-node.ts';

let node: GpuNode;
let engine: Engine;
const start = async (...flags: string[]): Promise<void> => {
  node = await GpuNode.create('--gpus', 'a40:2', ...flags);
  engine = await node.engine().ready();
};
/** The tests of a group share an engine, awake and with empty logs at the start of each. */
afterEach(async () => {
  await node.set(
    'all',
    'engine.sleepKeepsMemory=false',
    'engine.wakeFails=false',
    'engine.wakeGarbles=false',
  );
  await engine.post('/sleep?level=0&mode=abort');
  await engine.post('/wake_up');
  node.clear(0);
});
afterAll(() => node.destroy());

const held = async (): Promise<number> => (await node.processes()).get(engine.pid)!;
const sleeping = async (): Promise<boolean> =>
  JSON.parse((await engine.get('/is_sleeping')).text).is_sleeping;
const endless = { max_tokens: 3000, ignore_eos: true };

describe('a sleeping engine', () => {
  beforeAll(() => start('--residue-mib', '600'));
  afterAll(() => node.destroy());

  it('leaves its residue and takes the rest back', async () => {
    const awake = await held();
    expect(awake).toBe(Math.floor((49140 - 594) * 0.4));
    await engine.post('/sleep?level=1&mode=keep');
    expect(await held()).toBe(600);
    await engine.post('/wake_up');
    expect(await held()).toBe(awake);
    expect(node.log(0, 'violations')).toEqual([]);
  });

  it('emits no token of a kept stream without its bytes', async () => {
    const stream = await engine.stream('tell me', { max_tokens: 60, ignore_eos: true });
    await until('tokens', () => stream.tokens.length > 5);
    await engine.post('/sleep?level=1&mode=keep');
    const logged = node.log(0, 'tokens.log').length;
    await engine.get('/health');
    expect(node.log(0, 'tokens.log').length).toBe(logged);
    await engine.post('/wake_up');
    await stream.done;
    const full = Math.min(...node.log(0, 'tokens.log').map((line) => line.bytes as number));
    expect(full).toBe(Math.ceil((49140 - 594) * 2 ** 20 * 0.4));
  });

  it('talks nonsense after a level 2 sleep until its weights were read again', async () => {
    const text = async () =>
      (await engine.post('/v1/completions', { prompt: 'nonce-b2' })).json.choices[0].text as string;
    await engine.post('/sleep?level=2');
    await engine.post('/wake_up');
    expect(await text()).not.toContain('nonce-b2');
    expect((await engine.post('/collective_rpc', { method: 'reload_weights' })).status).toBe(200);
    expect(await text()).toContain('nonce-b2');
  });

  it('answers 500 to a wake without room, stays asleep, and writes it down', async () => {
    await engine.post('/sleep?level=1');
    const stranger = await node.stranger(0, '47000');
    const { status, json } = await engine.post('/wake_up');
    expect(status).toBe(500);
    expect(json.error.message).toContain('CUDA out of memory');
    expect(await sleeping()).toBe(true);
    expect(node.log(0, 'violations')).toMatchObject([
      { kind: 'out-of-memory-on-wake', pid: engine.pid, uuid: node.uuids[0] },
    ]);
    expect(node.log(1, 'violations')).toEqual([]);
    stranger.kill('SIGKILL');
    await until('room', async () => (await node.processes()).size === 1);
  });

  it('emits nothing when resumed past its sleep, and writes it down', async () => {
    const stream = await engine.stream('x', endless);
    await until('tokens', () => stream.tokens.length > 2);
    await engine.post('/sleep?level=1&mode=keep');
    const logged = node.log(0, 'tokens.log').length;
    await engine.post('/resume');
    await engine.get('/health');
    expect(node.log(0, 'tokens.log').length).toBe(logged);
    expect(node.log(0, 'violations')).toMatchObject([{ kind: 'resume-while-asleep' }]);
  });
});

describe('a faulty sleep', () => {
  beforeAll(() => start());
  afterAll(() => node.destroy());

  it('keeps its memory behind a 200 (sleepKeepsMemory)', async () => {
    await node.set(0, 'engine.sleepKeepsMemory=true');
    const before = await held();
    expect((await engine.post('/sleep?level=1')).status).toBe(200);
    expect(await held()).toBe(before);
  });

  it('leaves more each time (sleepLeaksMiB)', async () => {
    await node.set(0, 'engine.sleepLeaksMiB=700');
    for (const left of [700, 1400]) {
      await engine.post('/sleep?level=1');
      expect(await held()).toBe(left);
      await engine.post('/wake_up');
    }
  });

  it('does not wake (wakeFails), and wakes when the fault is gone', async () => {
    await engine.post('/sleep?level=1');
    await node.set(0, 'engine.wakeFails=true');
    expect((await engine.post('/wake_up')).status).toBe(500);
    expect(await sleeping()).toBe(true);
    await node.set(0, 'engine.wakeFails=false');
    expect((await engine.post('/wake_up')).status).toBe(200);
  });

  it.each(['/sleep?level=1', '/v1/completions', '/health', '/wake_up'])(
    'never comes back from %s (hang)',
    async (path) => {
      const places = {
        '/sleep?level=1': 'sleep',
        '/v1/completions': 'generate',
        '/health': 'health',
        '/wake_up': 'wake',
      };
      const hanging = await node.engine({ utilization: 0.1, model: 'org/hangs' }).ready();
      if (path === '/wake_up') await hanging.post('/sleep?level=1');
      await node.set(0, `engine.hang=${places[path as keyof typeof places]}`);
      await until('the hang', () =>
        (path === '/health' ? hanging.get(path, 150) : hanging.post(path, { prompt: 'x' }, 150)).then(
          () => false,
          () => true,
        ),
      );
      expect((await hanging.get('/version')).status).toBe(200);
      hanging.child.kill('SIGKILL');
      await hanging.ended;
      await node.set(0, 'engine.hang=');
    },
  );

  it('comes back talking nonsense (wakeGarbles)', async () => {
    await node.set(0, 'engine.wakeGarbles=true');
    await engine.post('/sleep?level=1');
    await engine.post('/wake_up');
    expect((await engine.post('/v1/completions', { prompt: 'nonce-a1' })).json.choices[0].text).not.toContain(
      'nonce',
    );
  });
});

describe('without VLLM_SERVER_DEV_MODE', () => {
  it('there are no dev routes', async () => {
    node = await GpuNode.create('--gpus', 't4:1');
    engine = await node.engine({ env: { VLLM_SERVER_DEV_MODE: '0' } }).ready();
    for (const route of ['sleep', 'wake_up', 'pause', 'resume', 'collective_rpc', 'reset_prefix_cache']) {
      expect([route, (await engine.post(`/${route}`)).status]).toEqual([route, 404]);
    }
  });
});
