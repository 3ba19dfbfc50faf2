import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, it } from 'vitest';
import type { GpuStatus } from '#api/gpu.ts';
import { defaultSettings, formatSettings } from '#proto/settings.ts';
import { arbiter } from '../../../../agent/decide/arbiter/arbiter.ts';
import type { SmiOutput } from '../../../../agent/observe/nvidia-smi/run.ts';
import { type RunningAgent, startAgent } from '../../../../agent/runtime.ts';
import { type ApiStandIn, apiStandIn } from './api-stand-in.ts';
import { ask, dialAgent, dialGrant, helloOf, noDemand } from './link-clients.ts';
import { afterwards, cleanUp, folder, keptLog, podUid, until } from './until.ts';

afterEach(cleanUp);

const xml = readFileSync(
  fileURLToPath(new URL('../../../fixtures/nvidia-smi/a10g.xml', import.meta.url)),
  'utf8',
);
const uuid = /<uuid>(GPU-[^<]+)/.exec(xml)![1]!;
const uid = podUid(1);
const pods = '/api/v1/pods';
const gpus = '/apis/greenthread.ai/v1alpha1/gpus';
const GiB = 2 ** 30;

const printed = (stdout: string): SmiOutput => ({ outcome: 'exited', exitCode: 0, stdout, stderr: '' });

/** An agent on one A10G whose engine's process, pid 4242, holds what the test says. */
async function start(api: ApiStandIn | null) {
  const root = folder();
  let heldMiB = 0;
  const { log, lines } = keptLog();
  const environment = {
    node: 'n1',
    release: 'test',
    podsDir: join(root, 'pods'),
    modelsDir: join(root, 'models'),
    poolDir: join(root, 'pool'),
    poolBytes: null,
    canary: false,
    metrics: { host: '127.0.0.1', port: 0 },
    logLevel: 'debug' as const,
  };
  const begin = async (): Promise<RunningAgent> => {
    const agent = await startAgent({
      environment,
      arbiter,
      connect: () => (api ? api.connect() : Promise.reject(new Error('no API server'))),
      run: async (args) => {
        if (args.includes('-x')) return printed(xml);
        if (args.some((arg) => arg.startsWith('--query-gpu')))
          return printed(`${uuid}, 23028, ${heldMiB + 1}, ${22_731 - heldMiB}, 0, 30, 20\n`);
        return printed(heldMiB > 0 ? `${uuid}, 4242, ${heldMiB}\n` : '');
      },
      owner: async () => ({ podUid: uid }),
      log,
    });
    afterwards(() => agent.stop());
    return agent;
  };
  const agent = await begin();
  const get = (path: string, port = agent.metricsPort) => fetch(`http://127.0.0.1:${port}${path}`);
  const directory = join(environment.podsDir, uid);
  const hold = (mib: number): void => {
    heldMiB = mib;
  };
  return { root, agent, begin, get, directory, lines, hold };
}

const model = {
  namespace: 'default',
  model: 'm',
  replica: 0,
};

/** The pod's object, and the binding of its replica on the GPU. */
function desire(
  api: ApiStandIn,
  settings = formatSettings(defaultSettings),
  notes: Record<string, string> = {},
): void {
  api.put(pods, {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name: 'm-0-abc',
      namespace: 'default',
      uid,
      labels: { 'greenthread.ai/model': 'm', 'greenthread.ai/replica': '0' },
      annotations: {
        'greenthread.ai/gpu-uuids': uuid,
        'greenthread.ai/vram-bytes': String(8 * GiB),
        'greenthread.ai/engine-hash': 'hash1',
        'greenthread.ai/settings': settings,
        ...notes,
      },
    },
  });
}

async function bind(api: ApiStandIn): Promise<void> {
  const gpu = await until('the GPU resource', () => api.get(gpus, 'gpu-n1-0'));
  const binding = { ...model, uuid, reservedBytes: 8 * GiB, popular: false };
  api.put(gpus, { ...gpu, spec: { ...(gpu.spec as object), bindings: [binding] } });
}

/** An engine that is awake and answers every question. */
function serveEngine(directory: string): void {
  const engine = createServer((request, response) => {
    response.end(request.url === '/is_sleeping' ? '{"is_sleeping":false}' : '{}');
  });
  engine.listen(join(directory, 'engine.sock'));
  afterwards(() => {
    engine.closeAllConnections();
    engine.close();
  });
}

describe('an agent with an API server', () => {
  it("tells of a pod's files that its disk does not hold, until they are there", async () => {
    const api = await apiStandIn();
    api.put('/api/v1/nodes', { apiVersion: 'v1', kind: 'Node', metadata: { name: 'n1' } });
    const files = `org--m/${'1'.repeat(40)}`;
    desire(api, undefined, { 'greenthread.ai/files': files });
    const { root } = await start(api);
    await until('the GPU resource', () => api.get(gpus, 'gpu-n1-0'));
    await bind(api);
    const told = () => {
      const { occupants } = (api.get(gpus, 'gpu-n1-0')?.status ?? {}) as GpuStatus;
      return occupants?.find(({ podUid: of }) => of === uid);
    };
    await until('the word', () => told()?.lostFiles);
    expect(told()?.lostFiles).toMatchObject({ path: files, state: 'Missing' });
    expect(Date.parse(told()!.lostFiles!.since)).toBeGreaterThan(Date.now() - 60_000);
    mkdirSync(join(root, 'models', files), { recursive: true });
    writeFileSync(join(root, 'models', files, '.greenthread.json'), '{}');
    await until('its end', () => told() && !told()!.lostFiles);
  });

  it('publishes its GPUs, boots a bound pod, hands on its settings, keeps what it measured', async () => {
    const api = await apiStandIn();
    api.put('/api/v1/nodes', { apiVersion: 'v1', kind: 'Node', metadata: { name: 'n1' } });
    desire(api);
    const { get, directory, root, hold } = await start(api);
    await until('ready', () => api.writes.some((write) => write.endsWith('gpu-n1-0/status')));
    await bind(api);
    mkdirSync(directory);
    await until('the sockets', () => existsSync(join(directory, 'grant.sock')));
    const sidecar = dialAgent(join(directory, 'agent.sock'));
    sidecar.say({ hello: helloOf(uid, { gpuUuids: [uuid], settings: '{}' }) });
    const launcher = dialGrant(join(directory, 'grant.sock'));
    launcher.say(ask(uid, { uuids: [uuid], bytes: 8 * GiB }));
    await until('the grant', () => launcher.lines.some(({ type }) => type === 'grant'));
    launcher.say({ type: 'started', pid: 4242 });
    serveEngine(directory);
    hold(8_000);
    launcher.say({ type: 'ready' });
    await until('SERVING', () => sidecar.heard.some(({ state }) => state?.state === 'SERVING'));

    const settings = sidecar.heard.filter((message) => message.settings);
    expect(settings).toEqual([{ settings: { settings: formatSettings(defaultSettings) } }]);
    desire(api, formatSettings({ ...defaultSettings, endpoints: ['score'] }));
    await until('the new settings', () => sidecar.heard.at(-1)?.settings?.settings.includes('score'));

    const kept = join(root, 'models/.greenthread/measurements/hash1-NVIDIA-A10G.json');
    await until('the kept measurement', () => existsSync(kept));
    expect(JSON.parse(readFileSync(kept, 'utf8'))).toMatchObject({ awakeBytes: 8_000 * 2 ** 20 });
    await until('the occupant', () =>
      JSON.stringify(api.get(gpus, 'gpu-n1-0')?.status).includes('"serving"'),
    );
    expect(api.events[0]).toMatchObject({ kind: 'Event', involvedObject: { uid, name: 'm-0-abc' } });
    expect((await get('/readyz')).status).toBe(200);
    const metrics = await (await get('/metrics')).text();
    expect(metrics).toMatch(/^gthread_agent_gpu_process_memory_bytes\{[^}]*model="m"[^}]*\} 8388608000$/m);
  });

  it('writes nothing while nothing changes', async () => {
    const api = await apiStandIn();
    api.put('/api/v1/nodes', { apiVersion: 'v1', kind: 'Node', metadata: { name: 'n1' } });
    const { lines } = await start(api);
    await until('the status', () => api.writes.length >= 2);
    await new Promise((resolve) => setTimeout(resolve, 1_500));
    expect(api.writes).toEqual([`PATCH ${gpus}/gpu-n1-0`, `PATCH ${gpus}/gpu-n1-0/status`]);
    expect(lines.filter(({ level }) => level === 'error')).toEqual([]);
  });
});

describe('an agent without an API server', () => {
  it('is alive and not ready, wakes nobody up about it, and says so once', async () => {
    const { get, lines } = await start(null);
    expect((await get('/healthz')).status).toBe(200);
    const ready = await get('/readyz');
    expect(ready.status).toBe(503);
    expect(await ready.text()).toMatch(/API server/);
    expect((await get('/elsewhere')).status).toBe(404);
    await until('its line', () => lines.some(({ message }) => message.includes('no way to the API server')));
  });

  it('takes over what another one left: a serving engine goes on, its sidecar is told', async () => {
    const { agent, begin, directory, hold } = await start(null);
    mkdirSync(directory, { recursive: true });
    hold(8_000);
    await until('the sockets', () => existsSync(join(directory, 'grant.sock')));
    await agent.stop();
    serveEngine(directory);
    await begin();
    const sidecar = dialAgent(join(directory, 'agent.sock'));
    const state = { state: 'SERVING' as const, epoch: 40, bootReady: true };
    sidecar.say({
      hello: helloOf(uid, { gpuUuids: [uuid], ...state, demand: { ...noDemand, inFlight: 1 } }),
    });
    const launcher = dialGrant(join(directory, 'grant.sock'));
    const holding = {
      ...ask(uid, { uuids: [uuid], bytes: 8 * GiB }),
      type: 'holding',
      id: 'g0',
      pid: 4242,
      ready: true,
    };
    launcher.say(holding);
    const told = await until('a state', () =>
      sidecar.heard.find((message) => message.state?.state === 'SERVING'),
    );
    expect(told.state!.epoch).toBeGreaterThan(40);
    expect(launcher.lines.filter(({ type }) => type === 'restart')).toEqual([]);
  });
});

describe('an agent that cannot start', () => {
  it('says which address is taken', async () => {
    const taken = createServer().listen(0, '127.0.0.1');
    afterwards(() => void taken.close());
    await until('a port', () => taken.address());
    const { port } = taken.address() as { port: number };
    const { log } = keptLog();
    const root = folder();
    const starting = startAgent({
      environment: {
        node: 'n',
        release: 'r',
        podsDir: join(root, 'pods'),
        modelsDir: root,
        poolDir: join(root, 'pool'),
        poolBytes: null,
        canary: false,
        metrics: { host: '127.0.0.1', port },
        logLevel: 'info',
      },
      arbiter,
      connect: () => Promise.reject(new Error('none')),
      run: async () => printed(''),
      log,
    });
    await expect(starting).rejects.toThrow(new RegExp(`METRICS_ADDRESS 127.0.0.1:${port}: .*EADDRINUSE`));
  });
});
