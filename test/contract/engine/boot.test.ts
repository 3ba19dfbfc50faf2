/** How the simulated engine comes up, and what kills it. */
import { readdirSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { GpuNode, until } from '../gpu-node.ts';

/** Each test has a node of its own, and they run side by side: most of their time is waiting. */
const nodes: GpuNode[] = [];
const create = async (): Promise<GpuNode> => {
  const node = await GpuNode.create('--gpus', 'a40:2');
  nodes.push(node);
  return node;
};
afterAll(async () => {
  await Promise.all(nodes.map((node) => node.destroy()));
});

describe.concurrent('a boot', () => {
  it('takes its share of each GPU it is given, and listens at the end', async () => {
    const node = await create();
    const flags = ['--tensor-parallel-size', '2'];
    const engine = await node.engine({ gpus: node.uuids, flags, utilization: 0.5 }).ready();
    const share = Math.ceil((49140 - 594) * 0.5) + 4;
    expect(await node.used()).toEqual([share, share]);
    await engine.post('/v1/completions', { prompt: 'x', max_tokens: 2 });
    expect([node.log(0, 'tokens.log').length, node.log(1, 'tokens.log').length]).toEqual([2, 2]);
  });

  it('takes memory in steps, and does not listen meanwhile', async () => {
    const node = await create();
    await node.set('all', 'engine.bootSeconds=4');
    const engine = node.engine({ utilization: 0.5 });
    const seen = new Set<number>();
    await until('three steps', async () => seen.add((await node.used())[0]!).size >= 3);
    await expect(engine.get('/health')).rejects.toThrow('ECONNREFUSED');
  });

  it.each([
    ['the folder has no config.json', { config: null }, "Can't load the configuration of"],
    ['config.json is no object', { config: [] }, 'not a valid JSON file'],
    [
      'it needs more GPUs than it sees',
      { flags: ['--tensor-parallel-size', '2'] },
      'World size (2) is larger than the number of available GPUs (1)',
    ],
    ['it sees no GPU', { gpus: ['GPU-0'] }, 'Failed to infer device type'],
    [
      'its context is longer than the model',
      { flags: ['--max-model-len', '32k'] },
      'greater than the derived max_model_len',
    ],
    [
      'its weights do not fit its share',
      { sim: { weightsMiB: 45_000 } },
      'No available memory for the cache blocks',
    ],
    ['sim.json has a word it does not know', { sim: { bootSecond: 1 } }, 'no parameter bootSecond'],
  ])('ends with code 1 when %s', async (_, options, text) => {
    const node = await create();
    const engine = node.engine(options);
    expect(await engine.ended).toBe(1);
    expect(engine.output).toContain(text);
    expect(node.log(0, 'violations')).toEqual([]);
  });

  it.each([
    ['an unknown flag', ['--no-such-flag'], 'unrecognized arguments: --no-such-flag'],
    ['a bad choice', ['--dtype', 'int3'], "argument --dtype: invalid choice: 'int3'"],
    ['a share beyond the GPU', ['--gpu-memory-utilization', '1.5'], 'argument --gpu-memory-utilization'],
  ])('ends with code 2 for %s, as argparse does', async (_, flags, text) => {
    const node = await create();
    const engine = node.engine({ flags });
    expect(await engine.ended).toBe(2);
    expect(engine.output).toContain(text);
  });

  it("takes vLLM's usual flags", async () => {
    const node = await create();
    const flags = [
      '--dtype',
      'bfloat16',
      '--load-format',
      'gthread',
      '--max_model_len',
      '2K',
      '--enforce-eager',
      '--no-enable-prefix-caching',
    ];
    const engine = await node
      .engine({ flags: [...flags, '--tool-call-parser', 'hermes', '--runner', 'pooling'] })
      .ready();
    expect(JSON.parse((await engine.get('/v1/models')).text).data[0].max_model_len).toBe(2048);
  });

  it('does not start on a GPU that is lost', async () => {
    const node = await create();
    await node.set(0, 'fault=lost');
    const engine = node.engine();
    expect(await engine.ended).toBe(1);
    expect(engine.output).toContain('Failed to infer device type');
  });

  it('exits as its model folder says', async () => {
    const node = await create();
    expect(await node.engine({ sim: { exitCode: 7 } }).ended).toBe(7);
  });

  it('takes a parameter from the environment before its folder, and from its folder before the GPU', async () => {
    const node = await create();
    await node.set('all', 'engine.exitCode=3');
    expect(await node.engine().ended).toBe(3);
    expect(await node.engine({ sim: { exitCode: 4 } }).ended).toBe(4);
    await node.engine({ sim: { exitCode: 4 }, env: { VLLM_SIM_EXIT_CODE: '-1' } }).ready();
  });

  it('starts a log anew when it is full, and keeps the last one', async () => {
    const node = await create();
    const log = join(node.gpus, node.uuids[0]!, 'tokens.log');
    truncateSync(log, (64 << 20) + 1);
    const engine = await node.engine().ready();
    await engine.post('/v1/completions', { prompt: 'x', max_tokens: 300, ignore_eos: true });
    expect(statSync(`${log}.1`).size).toBeGreaterThan(64 << 20);
    expect(statSync(log).size).toBeLessThan(1 << 20);
  });

  it('is refused where less is free than it wants, and that is written down', async () => {
    const node = await create();
    await node.stranger(0, '40000');
    const engine = node.engine();
    expect(await engine.ended).toBe(1);
    expect(engine.output).toContain('on startup is less than desired GPU memory utilization (0.4');
    expect(node.log(0, 'violations')).toMatchObject([{ kind: 'start-refused' }]);
  });

  it('dies when memory grows free while it boots, and that is written down', async () => {
    const node = await create();
    const stranger = await node.stranger(0, '5000');
    await node.set(0, 'engine.bootSeconds=5');
    const engine = node.engine();
    await until('its first memory', async () => (await node.processes()).get(engine.pid));
    stranger.kill('SIGKILL');
    expect(await engine.ended).toBe(1);
    expect(engine.output).toContain('Error in memory profiling. Initial free memory');
    expect(node.log(0, 'violations')).toMatchObject([{ kind: 'grew-while-boot', pid: engine.pid }]);
  });

  it('dies when others take what it was going to use, and that is written down', async () => {
    const node = await create();
    await node.set(0, 'engine.bootSeconds=2');
    const engine = node.engine({ utilization: 0.9 });
    await until('its first memory', async () => (await node.processes()).get(engine.pid));
    await node.stranger(0, '20000');
    expect(await engine.ended).toBe(1);
    expect(engine.output).toContain('CUDA out of memory');
    expect(node.log(0, 'violations')).toMatchObject([{ kind: 'out-of-memory-on-boot' }]);
  });

  it('does not listen over a stale socket', async () => {
    const node = await create();
    const first = await node.engine().ready();
    const second = node.engine({ flags: ['--uds', first.socket] });
    expect(await second.ended).toBe(1);
    expect(second.output).toContain('Address already in use');
  });
});

describe.concurrent('an engine', () => {
  it('frees its memory when killed, and the next one clears its claim away', async () => {
    const node = await create();
    const engine = await node.engine().ready();
    engine.child.kill('SIGKILL');
    await engine.ended;
    expect(await node.used()).toEqual([4, 4]);
    await node.engine().ready();
    expect(readdirSync(join(node.gpus, node.uuids[0]!, 'claims')).length).toBe(1);
  });

  it('breaks its streams off when its GPU is lost, and is gone with code 1', async () => {
    const node = await create();
    const engine = await node.engine().ready();
    const stream = await engine.stream('x', { max_tokens: 3000, ignore_eos: true });
    await until('tokens', () => stream.tokens.length > 2);
    await node.set(0, 'fault=lost');
    expect(await engine.ended).toBe(1);
    await expect(stream.done).rejects.toThrow();
    expect(engine.output).toContain('CUDA error');
  });

  it('ends with code 0 on SIGTERM', async () => {
    const node = await create();
    const engine = await node.engine().ready();
    engine.child.kill('SIGTERM');
    expect(await engine.ended).toBe(0);
  });

  it('meets, when it wakes, the one that has its memory', async () => {
    const node = await create();
    const a = await node.engine({ utilization: 0.6 }).ready();
    await a.post('/sleep?level=1');
    const other = await node.engine({ utilization: 0.6, model: 'org/other' }).ready();
    expect((await a.post('/wake_up')).status).toBe(500);
    await other.post('/sleep?level=1');
    expect((await a.post('/wake_up')).status).toBe(200);
    expect(node.log(0, 'violations').map((line) => line.kind)).toEqual(['out-of-memory-on-wake']);
  });

  it('never holds with another more than there is, when both wake at once', async () => {
    const node = await create();
    await node.set('all', 'engine.wakeGBPerSecond=100');
    const first = await node.engine({ utilization: 0.7 }).ready();
    await first.post('/sleep?level=1');
    const second = await node.engine({ utilization: 0.7 }).ready();
    await second.post('/sleep?level=1');
    let woken = false;
    const wakes = Promise.all([first.post('/wake_up'), second.post('/wake_up')]).finally(
      () => (woken = true),
    );
    let most = 0;
    await until('both answers', async () => {
      most = Math.max(most, (await node.used())[0]!);
      return woken;
    });
    expect((await wakes).map(({ status }) => status)).toContain(500);
    expect(most).toBeLessThanOrEqual(49140 - 594);
    expect(node.log(0, 'violations').map(({ kind }) => kind)).toContain('out-of-memory-on-wake');
  });

  it('dies rather than say a token without its bytes, and that is written down', async () => {
    const node = await create();
    const engine = await node.engine().ready();
    const claims = join(node.gpus, node.uuids[0]!, 'claims');
    writeFileSync(join(claims, readdirSync(claims)[0]!), `${'4096'.padStart(20, '0')}\n`);
    await expect(engine.post('/v1/completions', { prompt: 'x' })).rejects.toThrow();
    expect(await engine.ended).toBe(1);
    expect(node.log(0, 'violations')).toMatchObject([{ kind: 'token-without-bytes', heldBytes: 4096 }]);
    expect(node.log(0, 'tokens.log')).toEqual([]);
  });
});
