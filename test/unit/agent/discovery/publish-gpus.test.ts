import { afterEach, describe, expect, it, vi } from 'vitest';
import { createGpuPublisher, freshest, type GpuPublisher } from '../../../../agent/act/publish-gpus.ts';
import { type DesiredGpu, type GpuObject, gpuManifest } from '../../../../agent/decide/gpu-resources.ts';
import { KubernetesError } from '../../../../platform/kubernetes/client.ts';
import { createLog } from '../../../../platform/log.ts';

/**
 * Server-side apply as far as the publisher sees it, in memory: enough for its own bookkeeping. That the API server takes
 * what it sends is shown on the real one, in the cluster suite.
 */
function store() {
  const objects = new Map<string, GpuObject>();
  const calls: string[] = [];
  let version = 100;
  let refusal: KubernetesError | null = null;
  return {
    objects,
    calls,
    refuse(error: KubernetesError | null) {
      refusal = error;
    },
    put(object: GpuObject) {
      version += 1;
      const { name, uid = `uid-${version}` } = object.metadata;
      const kept = { ...object, metadata: { ...object.metadata, uid, resourceVersion: String(version) } };
      objects.set(name, kept);
      return kept;
    },
    client: {
      async get<T>(path: string): Promise<T | null> {
        calls.push(`GET ${path}`);
        if (refusal) throw refusal;
        return { metadata: { name: 'n1', uid: 'node-uid' } } as T;
      },
      async apply<T>(path: string, body: object, options: { fieldManager: string }): Promise<T> {
        calls.push(`APPLY ${path} ${options.fieldManager}`);
        if (refusal) throw refusal;
        const given = body as GpuObject;
        const before = objects.get(given.metadata.name);
        if (path.endsWith('/status')) {
          if (!before) throw new KubernetesError(404, 'NotFound', 'not found');
          return this.kept({ ...before, status: given.status! }) as T;
        }
        return this.kept({ ...given, ...(before?.status && { status: before.status }) }) as T;
      },
      kept: (object: GpuObject): GpuObject => object,
    },
  };
}

const desired = (change: Partial<DesiredGpu['status']> = {}, index = 0): DesiredGpu => ({
  name: `gpu-n1-${index}`,
  spec: { nodeName: 'n1', index, uuid: `GPU-${index}` },
  status: { uuid: `GPU-${index}`, health: 'Healthy', mode: 'idle', ...change },
});
const gpus = '/apis/greenthread.ai/v1alpha1/gpus';
const agent = 'greenthread-agent';

function publishing() {
  const server = store();
  server.client.kept = server.put;
  const lines: string[] = [];
  const publisher = createGpuPublisher({
    client: server.client,
    nodeName: 'n1',
    log: createLog('agent', 'info', (line) => void lines.push(line)),
  });
  running.push(publisher);
  const want = (...wanted: DesiredGpu[]) => publisher.want(wanted, [...server.objects.values()]);
  return { server, publisher, want, lines };
}
const running: GpuPublisher[] = [];
afterEach(() => {
  vi.useRealTimers();
  for (const publisher of running.splice(0)) publisher.stop();
});
const settled = (publisher: GpuPublisher) => vi.waitUntil(() => publisher.settled());

describe('the publisher', () => {
  it('creates a resource with its Node as owner, then its status, and then writes nothing', async () => {
    const { server, publisher, want } = publishing();
    want(desired());
    await settled(publisher);
    const written = [
      'GET /api/v1/nodes/n1',
      `APPLY ${gpus}/gpu-n1-0 ${agent}`,
      `APPLY ${gpus}/gpu-n1-0/status ${agent}`,
    ];
    expect(server.calls).toEqual(written);
    expect(server.objects.get('gpu-n1-0')!.metadata.ownerReferences).toEqual([
      { apiVersion: 'v1', kind: 'Node', name: 'n1', uid: 'node-uid' },
    ]);
    for (let i = 0; i < 5; i += 1) {
      want(desired());
      await new Promise((done) => setTimeout(done, 5));
    }
    expect(server.calls).toEqual(written);
  });

  it('does not write again while the watch lags behind', async () => {
    const { server, publisher } = publishing();
    publisher.want([desired()], []);
    await settled(publisher);
    const before = server.calls.length;
    publisher.want([desired()], []);
    await new Promise((done) => setTimeout(done, 10));
    expect(server.calls).toHaveLength(before);
  });

  it('makes a resource again that was deleted by hand', async () => {
    const { server, publisher, want } = publishing();
    want(desired());
    await settled(publisher);
    want(desired()); // seen by the watch
    await new Promise((done) => setTimeout(done, 5));
    server.objects.clear();
    server.calls.length = 0;
    want(desired());
    await vi.waitUntil(() => server.objects.get('gpu-n1-0')?.status?.health === 'Healthy');
    // The Node is looked at anew: it may be another of the same name.
    expect(server.calls[0]).toBe('GET /api/v1/nodes/n1');
  });

  it('writes only the status that changed', async () => {
    const { server, publisher, want } = publishing();
    want(desired(), desired({}, 1));
    await settled(publisher);
    server.calls.length = 0;
    want(desired(), desired({ health: 'Unhealthy', healthReason: 'Missing' }, 1));
    await vi.waitUntil(() => server.objects.get('gpu-n1-1')?.status?.health === 'Unhealthy');
    expect(server.calls).toEqual([`APPLY ${gpus}/gpu-n1-1/status ${agent}`]);
  });

  it('tries again after a failure, by then with what is wanted by then, and complains once', async () => {
    const { server, publisher, want, lines } = publishing();
    server.refuse(new KubernetesError(0, 'Unreachable', 'API server: connect ECONNREFUSED'));
    want(desired());
    await vi.waitUntil(() => lines.length > 0);
    expect(publisher.settled()).toBe(false);
    want(desired({ health: 'Degraded' }));
    server.refuse(null);
    await settled(publisher);
    expect(server.objects.get('gpu-n1-0')!.status!.health).toBe('Degraded');
    expect(lines.map((line) => (JSON.parse(line) as { level: string }).level)).toEqual(['warn', 'info']);
  });

  it('is not kept from the other GPUs by one that is refused', async () => {
    const { server, want } = publishing();
    const { apply } = server.client;
    server.client.apply = async function <T>(path: string, body: object, options: { fieldManager: string }) {
      if (path.includes('gpu-n1-0')) throw new KubernetesError(422, 'Invalid', 'no');
      return apply.call(this, path, body, options) as Promise<T>;
    };
    want(desired(), desired({}, 1));
    await vi.waitUntil(() => server.objects.get('gpu-n1-1')?.status?.health === 'Healthy');
    expect(server.objects.has('gpu-n1-0')).toBe(false);
  });

  it('writes bytes that moved within 5 s only when those are over', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
    const { server, want } = publishing();
    const free = (freeBytes: number) => desired({ memory: { totalBytes: 2 ** 36, freeBytes } });
    want(free(2 ** 35));
    await vi.advanceTimersByTimeAsync(10);
    server.calls.length = 0;
    want(free(2 ** 34));
    await vi.advanceTimersByTimeAsync(4_900);
    expect(server.calls).toEqual([]);
    await vi.advanceTimersByTimeAsync(200);
    expect(server.calls).toEqual([`APPLY ${gpus}/gpu-n1-0/status ${agent}`]);
  });
});

describe('what there is', () => {
  const at = (resourceVersion: string, uid = 'a'): GpuObject => {
    const manifest = gpuManifest(desired(), null);
    return { ...manifest, metadata: { ...manifest.metadata, uid, resourceVersion } };
  };
  const entry = (object: GpuObject, seen = false) => new Map([['gpu-n1-0', { object, atMs: 0, seen }]]);

  it.each<[string, GpuObject[], ReturnType<typeof entry>, number, string | undefined]>([
    ['our write, while the watch shows an older version', [at('9')], entry(at('10')), 0, '10'],
    ['the watch, once it shows as new a version', [at('11')], entry(at('10')), 0, '11'],
    ['our write, while the watch does not show it yet', [], entry(at('10')), 9_000, '10'],
    ['nothing, when the watch has not shown it for long', [], entry(at('10')), 11_000, undefined],
    ['nothing, when the watch showed it and does not any more', [], entry(at('10'), true), 1, undefined],
    ['the watch, when it was made anew', [at('12', 'b')], entry(at('10')), 1, '12'],
  ])('is %s', (_, watched, written, nowMs, version) => {
    expect(freshest(watched, written, nowMs)[0]?.metadata.resourceVersion).toBe(version);
  });
});
