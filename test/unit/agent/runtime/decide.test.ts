import { describe, expect, it } from 'vitest';
import { defaultSettings } from '#proto/settings.ts';
import { readEnvironment, socketPathBytesMax } from '../../../../agent/decide/environment.ts';
import {
  formatKeptMeasurement,
  keptMeasurementName,
  parseKeptMeasurement,
} from '../../../../agent/decide/kept-measurement.ts';
import { readLauncherLine } from '../../../../agent/decide/launcher-line.ts';
import { gpuResourceFact, type PodObject, podFact } from '../../../../agent/decide/resource-facts.ts';
import { podUid } from './until.ts';

describe("the agent's environment", () => {
  it('has a default for everything but the node', () => {
    expect(readEnvironment({ NODE_NAME: 'n' })).toEqual({
      node: 'n',
      release: 'development',
      podsDir: '/run/greenthread/pods',
      modelsDir: '/mnt/models',
      poolDir: '/dev/shm/greenthread',
      poolBytes: null,
      metrics: { host: '0.0.0.0', port: 9401 },
      logLevel: 'info',
    });
  });

  it.each([
    ['0', null],
    ['', null],
    ['20000', 20_000_000_000],
  ])('bounds the pool by %j MB', (GREENTHREAD_PINNED_MEMORY_MB, bytes) => {
    expect(readEnvironment({ NODE_NAME: 'n', GREENTHREAD_PINNED_MEMORY_MB }).poolBytes).toBe(bytes);
  });

  it.each(['-1', '10G', '1.5'])('refuses %j as a bound of the pool', (GREENTHREAD_PINNED_MEMORY_MB) => {
    expect(() => readEnvironment({ NODE_NAME: 'n', GREENTHREAD_PINNED_MEMORY_MB })).toThrow(
      /GREENTHREAD_PINNED_MEMORY_MB.*whole MB/,
    );
  });

  it.each([
    ['127.0.0.1:9', { host: '127.0.0.1', port: 9 }],
    [':0', { host: '0.0.0.0', port: 0 }],
    ['[::1]:9401', { host: '::1', port: 9401 }],
  ])('reads the address %s', (text, metrics) => {
    expect(readEnvironment({ NODE_NAME: 'n', METRICS_ADDRESS: text }).metrics).toEqual(metrics);
  });

  it('names everything that is wrong at once, with the remedy', () => {
    const wrong = {
      METRICS_ADDRESS: '9401',
      LOG_LEVEL: 'loud',
      GREENTHREAD_PODS_DIR: `/${'x'.repeat(socketPathBytesMax)}`,
      GREENTHREAD_MODELS_DIR: 'models',
    };
    expect(() => readEnvironment(wrong)).toThrow(
      /NODE_NAME.*spec\.nodeName.*PODS_DIR.*at most 5\d bytes.*METRICS_ADDRESS.*:PORT.*LOG_LEVEL.*debug.*MODELS_DIR.*absolute/s,
    );
  });
});

describe('a pod as a fact', () => {
  const pod = (metadata: Partial<PodObject['metadata']> = {}, phase = 'Running'): PodObject => ({
    metadata: {
      name: 'm-0-abc',
      namespace: 'ns',
      uid: podUid(1),
      labels: { 'greenthread.ai/model': 'm', 'greenthread.ai/replica': '2' },
      annotations: {
        'greenthread.ai/gpu-uuids': 'GPU-1, GPU-2',
        'greenthread.ai/vram-bytes': '123',
        'greenthread.ai/engine-hash': 'h',
        'greenthread.ai/settings': '{"fairness":{"priority":7}}',
      },
      ...metadata,
    },
    status: { phase },
  });

  it('has all that its labels and annotations say', () => {
    expect(podFact(pod())).toMatchObject({
      podUid: podUid(1),
      pod: 'm-0-abc',
      namespace: 'ns',
      model: 'm',
      replica: 2,
      uuids: ['GPU-1', 'GPU-2'],
      vramBytes: 123,
      engineHash: 'h',
      deleting: false,
      settings: { fairness: { ...defaultSettings.fairness, priority: 7 } },
    });
  });

  it.each([
    ['its own', {}, { terminationGracePeriodSeconds: 60 }, 60_000],
    ['that of its deletion', { deletionGracePeriodSeconds: 5 }, { terminationGracePeriodSeconds: 60 }, 5_000],
    ['not known', {}, undefined, null],
  ])('has a grace that is %s', (_, metadata, spec, graceMs) => {
    expect(podFact({ ...pod(metadata), ...(spec && { spec }) })?.graceMs).toBe(graceMs);
  });

  it('says what is not known as null, and settings that cannot be read as the defaults', () => {
    const annotations = { 'greenthread.ai/settings': 'no', 'greenthread.ai/vram-bytes': '20Gi' };
    const fact = podFact(pod({ annotations, deletionTimestamp: '2026-11-01T00:00:00Z' }));
    expect(fact).toMatchObject({
      vramBytes: null,
      engineHash: null,
      uuids: [],
      settings: defaultSettings,
      deleting: true,
    });
  });

  it.each([
    ['without the label', pod({ labels: {} })],
    ['without a UID', { metadata: { name: 'x', namespace: 'y' } }],
    ['that has ended', pod({}, 'Failed')],
    [
      'whose replica is no number',
      pod({ labels: { 'greenthread.ai/model': 'm', 'greenthread.ai/replica': 'x' } }),
    ],
  ])('is none for a pod %s', (_, object) => {
    expect(podFact(object)).toBeNull();
  });
});

describe('a GPU resource as a fact', () => {
  it('counts the bindings that were meant for this GPU alone', () => {
    const binding = { namespace: 'ns', model: 'm', replica: 0, reservedBytes: 5, popular: true };
    const other = { ...binding, uuid: 'GPU-old' };
    const spec = { nodeName: 'n', index: 0, uuid: 'GPU-1', bindings: [{ ...binding, uuid: 'GPU-1' }, other] };
    expect(gpuResourceFact({ spec })).toEqual({ uuid: 'GPU-1', bindings: [binding] });
    expect(gpuResourceFact({ spec: { nodeName: 'n', index: 0, uuid: 'GPU-1' } }).bindings).toEqual([]);
  });
});

describe('a kept measurement', () => {
  it('reads back what was written', () => {
    for (const residueBytes of [null, 600])
      expect(parseKeptMeasurement(formatKeptMeasurement({ awakeBytes: 5, residueBytes }))).toEqual({
        awakeBytes: 5,
        residueBytes,
      });
  });

  it.each([
    '',
    '[]',
    'null',
    '{}',
    '{"v":2,"awakeBytes":1}',
    '{"v":1,"awakeBytes":-1}',
    '{"v":1,"awakeBytes":1,"residueBytes":"2"}',
  ])('is none in %j', (text) => {
    expect(parseKeptMeasurement(text)).toBeNull();
  });

  it.each([
    ['abc123', 'NVIDIA-A40', 'abc123-NVIDIA-A40.json'],
    ['../x', 'NVIDIA-A40', null],
    ['abc', '../../etc', null],
    ['', 'A40', null],
    ['a'.repeat(65), 'A40', null],
  ])('of %s on %s has the name %s', (hash, product, name) => {
    expect(keptMeasurementName(hash, product)).toBe(name);
  });
});

describe("a launcher's line", () => {
  const uid = podUid(1);
  const holding = {
    v: 1,
    type: 'holding',
    podUid: uid,
    uuids: ['GPU-1'],
    bytes: 5,
    restarts: 1,
    id: 'g',
    pid: 7,
    ready: true,
  };

  it('of a reconnect says under which grant the engine runs', () => {
    expect(readLauncherLine(JSON.stringify(holding), uid)).toEqual({
      type: 'holding',
      podUid: uid,
      uuids: ['GPU-1'],
      bytes: 5,
      restarts: 1,
      grant: 'g',
      ready: true,
    });
  });

  it('of a later release is read where its words are known', () => {
    expect(readLauncherLine('{"v":2,"type":"ready","more":1}', uid)).toEqual({ type: 'ready', podUid: uid });
    expect(readLauncherLine('{"v":2,"type":"unheard-of"}', uid)).toBeNull();
  });

  it.each([
    ['no object', '7', /object/],
    ['no version', '{"type":"ready"}', /v must/],
    ['too many GPUs', JSON.stringify({ ...holding, uuids: Array(65).fill('GPU') }), /uuids/],
    ['a UUID that is none', JSON.stringify({ ...holding, uuids: [1] }), /uuids/],
    ['no grant', JSON.stringify({ ...holding, id: 1 }), /id/],
    ['half a restart', JSON.stringify({ ...holding, restarts: 0.5 }), /restarts/],
  ])('with %s names the field', (_, line, fault) => {
    expect(readLauncherLine(line, uid)).toMatch(fault);
  });

  it('keeps the end of long last words', () => {
    const line = JSON.stringify({
      v: 1,
      type: 'exited',
      code: null,
      signal: 'SIGKILL',
      tail: `${'x'.repeat(20_000)}end`,
    });
    const event = readLauncherLine(line, uid);
    expect(event).toMatchObject({ code: null, signal: 'SIGKILL', tail: /x{8000}.*end$/ });
    expect((event as { tail: string }).tail.length).toBe(8 * 1024);
  });
});
