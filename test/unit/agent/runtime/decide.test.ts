import { describe, expect, it } from 'vitest';
import { defaultSettings } from '#proto/settings.ts';
import { readEnvironment, socketPathBytesMax } from '../../../../agent/decide/environment.ts';
import {
  formatKeptMeasurement,
  keptMeasurementBytesMax,
  keptMeasurementFolder,
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
      canary: false,
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

  it('is what is set', () => {
    const env = {
      NODE_NAME: 'n',
      GREENTHREAD_RELEASE: '1.2.3',
      GREENTHREAD_PODS_DIR: '/a/b/',
      GREENTHREAD_MODELS_DIR: '/m//',
      GREENTHREAD_POOL_DIR: '/',
      LOG_LEVEL: 'debug',
    };
    expect(readEnvironment(env)).toMatchObject({
      release: '1.2.3',
      podsDir: '/a/b',
      modelsDir: '/m',
      poolDir: '/',
      logLevel: 'debug',
    });
  });

  it('asks a canary where it is told to', () => {
    const canary = (GREENTHREAD_CANARY: string) =>
      readEnvironment({ NODE_NAME: 'n', GREENTHREAD_CANARY }).canary;
    expect([canary('true'), canary('false'), canary('')]).toEqual([true, false, false]);
    expect(() => canary('yes')).toThrow(/GREENTHREAD_CANARY is "yes": write true or false/);
  });

  it.each(['debug', 'info', 'warn', 'error'])('has the log level %s', (LOG_LEVEL) => {
    expect(readEnvironment({ NODE_NAME: 'n', LOG_LEVEL }).logLevel).toBe(LOG_LEVEL);
  });

  it.each([
    'x:1:2',
    '[::1:9',
    '::1:9',
    ':',
    ':x',
    ':123456',
    ':65536',
    'a:9b',
    'a]:9',
    '[x]:9',
    'x[::1]:9',
    '',
  ])('has no metrics at %j', (text) => {
    const read = () => readEnvironment({ NODE_NAME: 'n', METRICS_ADDRESS: text });
    if (text) expect(read).toThrow(`METRICS_ADDRESS is ${JSON.stringify(text)}: write HOST:PORT or :PORT`);
    else expect(read().metrics.port).toBe(9401);
  });

  it('has metrics at the highest port', () => {
    expect(readEnvironment({ NODE_NAME: 'n', METRICS_ADDRESS: 'h:65535' }).metrics).toEqual({
      host: 'h',
      port: 65_535,
    });
  });

  it('has sockets in the longest path that they can have', () => {
    const most = socketPathBytesMax - '/'.length - podUid(1).length - '/engine.sock'.length;
    const longest = `/${'x'.repeat(most - 1)}`;
    expect(readEnvironment({ NODE_NAME: 'n', GREENTHREAD_PODS_DIR: longest }).podsDir).toBe(longest);
    expect(() => readEnvironment({ NODE_NAME: 'n', GREENTHREAD_PODS_DIR: `${longest}x` })).toThrow(
      `GREENTHREAD_PODS_DIR is too long for the sockets in it: use at most ${most} bytes`,
    );
  });

  it.each([
    [{ NODE_NAME: '' }, 'NODE_NAME is missing: set it by fieldRef spec.nodeName'],
    [{ LOG_LEVEL: 'loud' }, 'LOG_LEVEL is "loud": write one of debug, info, warn, error'],
    [{ GREENTHREAD_POOL_DIR: 'pool' }, 'GREENTHREAD_POOL_DIR is "pool": write an absolute path'],
    [
      { GREENTHREAD_PINNED_MEMORY_MB: '1234567890' },
      'GREENTHREAD_PINNED_MEMORY_MB is "1234567890": write whole MB, 0 for the agent\'s own bound',
    ],
    [
      { GREENTHREAD_POOL_DIR: 'p', LOG_LEVEL: 'loud' },
      'LOG_LEVEL is "loud": write one of debug, info, warn, error; GREENTHREAD_POOL_DIR is "p": write an absolute path',
    ],
  ])('that is %j is refused with one sentence for each', (wrong, said) => {
    expect(() => readEnvironment({ NODE_NAME: 'n', ...wrong })).toThrow(new RangeError(said));
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
    ['without labels', { metadata: { name: 'x', namespace: 'y', uid: podUid(1) } }],
    ['without a UID', pod({ uid: '' })],
    ['without a namespace', pod({ namespace: '' })],
    ['that has ended', pod({}, 'Failed')],
    ['that has done its work', pod({}, 'Succeeded')],
    [
      'whose replica is no number',
      pod({ labels: { 'greenthread.ai/model': 'm', 'greenthread.ai/replica': 'x' } }),
    ],
  ])('is none for a pod %s', (_, object) => {
    expect(podFact(object)).toBeNull();
  });
});

describe('a whole number of an annotation', () => {
  const read = (text: string) =>
    podFact({
      metadata: {
        name: 'a',
        namespace: 'b',
        uid: podUid(1),
        labels: { 'greenthread.ai/model': 'm' },
        annotations: { 'greenthread.ai/vram-bytes': text, 'greenthread.ai/gpu-uuids': ' GPU-1 ,, GPU-2 ,' },
      },
    });

  it.each([
    ['0', 0],
    ['123456789012345', 123_456_789_012_345],
    ['1234567890123456', null],
    ['-1', null],
    ['1 ', null],
    ['x1', null],
    ['', null],
  ])('%j is %s', (text, bytes) => {
    expect(read(text)?.vramBytes).toBe(bytes);
  });

  it('is replica 0 without a label, and empty UUIDs are none', () => {
    expect(read('1')).toMatchObject({ replica: 0, uuids: ['GPU-1', 'GPU-2'] });
  });
});

describe('a GPU resource as a fact', () => {
  it('counts the bindings that were meant for this GPU alone', () => {
    const binding = { namespace: 'ns', model: 'm', replica: 0, reservedBytes: 5, popular: true };
    const other = { ...binding, uuid: 'GPU-old' };
    const spec = { nodeName: 'n', index: 0, uuid: 'GPU-1', bindings: [{ ...binding, uuid: 'GPU-1' }, other] };
    expect(gpuResourceFact({ spec })).toEqual({ uuid: 'GPU-1', bindings: [binding] });
    expect(gpuResourceFact({ spec: { nodeName: 'n', index: 0, uuid: 'GPU-1' } }).bindings).toEqual([]);
    const { popular: _, ...unsaid } = binding;
    const older = { ...spec, bindings: [{ ...unsaid, uuid: 'GPU-1' } as never] };
    expect(gpuResourceFact({ spec: older }).bindings).toEqual([{ ...binding, popular: false }]);
  });
});

describe('a kept measurement', () => {
  it('of 0 bytes is one, and is written as one line with its version', () => {
    expect(parseKeptMeasurement('{"v":1,"awakeBytes":0,"residueBytes":0}')).toEqual({
      awakeBytes: 0,
      residueBytes: 0,
    });
    expect(formatKeptMeasurement({ awakeBytes: 5, residueBytes: null })).toBe(
      '{"v":1,"awakeBytes":5,"residueBytes":null}\n',
    );
  });

  it('lies where older releases look for it', () => {
    expect([keptMeasurementFolder, keptMeasurementBytesMax]).toEqual(['.greenthread/measurements', 4096]);
  });

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
    '{"v":1,"awakeBytes":1,"residueBytes":-1}',
    '{"v":1,"awakeBytes":0.5}',
    '{"v":1,"residueBytes":1}',
    '7',
  ])('is none in %j', (text) => {
    expect(parseKeptMeasurement(text)).toBeNull();
  });

  it.each([
    ['abc123', 'NVIDIA-A40', 'abc123-NVIDIA-A40.json'],
    ['../x', 'NVIDIA-A40', null],
    ['abc', '../../etc', null],
    ['', 'A40', null],
    ['a'.repeat(65), 'A40', null],
    ['a'.repeat(64), 'A40', `${'a'.repeat(64)}-A40.json`],
    ['a/', 'A40', null],
    ['a', `A${'4'.repeat(127)}`, `a-A${'4'.repeat(127)}.json`],
    ['a', `A${'4'.repeat(128)}`, null],
    ['a', 'A/', null],
    ['a', '', null],
    ['a', 'N._-9', 'a-N._-9.json'],
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
    ['no JSON', '{', /^the line is not JSON$/],
    ['no object', '7', /^the line is not a JSON object$/],
    ['nothing', 'null', /^the line is not a JSON object$/],
    ['no version', '{"type":"ready"}', /^v must be a protocol version from 1 on$/],
    ['an older version', '{"v":0,"type":"ready"}', /^v must/],
    ['a negative version', '{"v":-1,"type":"ready"}', /^v must/],
    ["another pod's UID", JSON.stringify({ ...holding, podUid: podUid(2) }), /^podUid is not the UID/],
    [
      'no list of GPUs',
      JSON.stringify({ ...holding, uuids: 'GPU-1' }),
      /^uuids must be a list of at most 64/,
    ],
    ['negative bytes', JSON.stringify({ ...holding, bytes: -1 }), /^bytes must be a whole number of bytes$/],
    ['no bytes', JSON.stringify({ ...holding, bytes: undefined }), /^bytes/],
    ['an ask without bytes', JSON.stringify({ ...holding, type: 'ask', bytes: '5' }), /^bytes/],
    ['too many GPUs', JSON.stringify({ ...holding, uuids: Array(65).fill('GPU') }), /uuids/],
    ['a UUID that is none', JSON.stringify({ ...holding, uuids: [1] }), /uuids/],
    ['a UUID among others that is none', JSON.stringify({ ...holding, uuids: ['GPU-1', 1] }), /^uuids/],
    ['no grant', JSON.stringify({ ...holding, id: 1 }), /^id must be the id of the grant$/],
    ['half a restart', JSON.stringify({ ...holding, restarts: 0.5 }), /^restarts must be a whole number$/],
  ])('with %s names the field', (_, line, fault) => {
    expect(readLauncherLine(line, uid)).toMatch(fault);
  });

  it('asks for a grant', () => {
    const asked = { podUid: uid, uuids: Array(64).fill('GPU'), bytes: 0, restarts: 0 };
    expect(readLauncherLine(JSON.stringify({ v: 1, type: 'ask', ...asked }), uid)).toEqual({
      type: 'asked',
      ...asked,
    });
  });

  it('says ready of one that holds only by true', () => {
    for (const ready of [false, 'true', 1, undefined])
      expect(readLauncherLine(JSON.stringify({ ...holding, ready }), uid)).toMatchObject({ ready: false });
  });

  it.each([
    ['started', 'started'],
    ['ready', 'ready'],
    ['ending', 'launcher-ending'],
  ])('%s', (type, event) => {
    expect(readLauncherLine(JSON.stringify({ v: 1, type }), uid)).toEqual({ type: event, podUid: uid });
  });

  it.each([
    [{ code: 1 }, { code: 1, signal: null, tail: '' }],
    [
      { code: 0.5, signal: 9, tail: 7 },
      { code: null, signal: null, tail: '' },
    ],
    [
      { signal: 'SIGTERM', tail: 'bye' },
      { code: null, signal: 'SIGTERM', tail: 'bye' },
    ],
  ])('tells an end by what it says of it: %j', (said, event) => {
    expect(readLauncherLine(JSON.stringify({ v: 1, type: 'exited', ...said }), uid)).toEqual({
      type: 'exited',
      podUid: uid,
      ...event,
    });
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
