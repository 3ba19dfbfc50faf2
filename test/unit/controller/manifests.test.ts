/** The objects that the controller makes. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { ModelSpecInput } from '../../../api/model.ts';
import { cutToBytes } from '../../../controller/act/announce.ts';
import { viewOf } from '../../../controller/decide/cluster-view.ts';
import { canonical, covers, isSame, stamped } from '../../../controller/decide/difference.ts';
import { engineCommand, memoryShare } from '../../../controller/decide/manifests/engine-command.ts';
import { fetchJob } from '../../../controller/decide/manifests/fetch-job.ts';
import { modelPod, podIdentity } from '../../../controller/decide/manifests/model-pod.ts';
import { modelRoute } from '../../../controller/decide/manifests/model-route.ts';
import { annotations, imagesFolder, labels } from '../../../proto/names.ts';
import { gthreadFolder } from '../../../proto/weights.ts';
import { GiB, gpu, model, noMemory, noonMs, settings, snapshot } from './builders.ts';

interface Container {
  name: string;
  command: string[];
  image: string;
  env: { name: string; value?: string }[];
  securityContext: object;
  volumeMounts: { mountPath: string; readOnly?: boolean }[];
}
interface BuiltPod {
  metadata: {
    name: string;
    namespace: string;
    labels: Record<string, string>;
    annotations: Record<string, string>;
    ownerReferences: object[];
  };
  spec: {
    initContainers: Container[];
    containers: Container[];
    volumes: { name: string }[];
    tolerations: object[];
    terminationGracePeriodSeconds: number;
    [field: string]: unknown;
  };
}

const books = viewOf(snapshot({ gpus: [gpu('n1', 0), gpu('n1', 1)] }), noMemory, settings, noonMs).books;

function partsOf(spec: Partial<ModelSpecInput> = {}, name = 'llama-3-8b', gpus = books.slice(0, 1)) {
  const parts = {
    model: model(name, { modelName: 'meta-llama/Llama-3.1-8B', ...spec }),
    replica: 0,
    gpus,
    weightsPath: '/mnt/models/meta-llama--Llama-3.1-8B/c0ffee',
    popular: false,
    settings,
    serviceIp: '10.96.0.7',
  };
  return parts;
}
const podOf = (...given: Parameters<typeof partsOf>) => modelPod(partsOf(...given)) as BuiltPod;
const environmentOf = ({ env }: Container) => Object.fromEntries(env.map(({ name, value }) => [name, value]));

describe("a model's pod", () => {
  it('has launcher, sidecar and engine, each within the container rules of restricted', () => {
    const { spec } = podOf();
    const containers = [...spec.initContainers, ...spec.containers];
    expect(containers.map(({ name }) => name)).toEqual(['launcher', 'sidecar', 'engine']);
    for (const { securityContext } of containers) {
      expect(securityContext).toEqual({
        allowPrivilegeEscalation: false,
        capabilities: { drop: ['ALL'] },
        runAsNonRoot: true,
        seccompProfile: { type: 'RuntimeDefault' },
      });
    }
    expect(spec).toMatchObject({
      automountServiceAccountToken: false,
      runtimeClassName: 'nvidia',
      enableServiceLinks: false,
    });
    expect(spec.initContainers[1]).toMatchObject({ restartPolicy: 'Always' });
  });

  it('is bound to its node by name, and still asks the scheduler', () => {
    const { spec } = podOf();
    expect(spec.nodeName).toBeUndefined();
    expect(JSON.stringify(spec.affinity)).toContain(
      '{"key":"metadata.name","operator":"In","values":["n1"]}',
    );
  });

  it('says its GPUs to the runtime by UUID, to people by index', () => {
    const { metadata, spec } = podOf({ parallelism: { tensor: 2, pipeline: 1 } }, 'a', books);
    expect(environmentOf(spec.containers[0]!)).toMatchObject({
      NVIDIA_VISIBLE_DEVICES: 'GPU-n1-0,GPU-n1-1',
      VLLM_SERVER_DEV_MODE: '1',
      HF_HUB_OFFLINE: '1',
      GREENTHREAD_VRAM_BYTES: String(Math.floor(0.9 * 48 * GiB)),
    });
    expect(metadata.annotations).toMatchObject({
      [annotations.gpus]: '0,1',
      [annotations.gpuUuids]: 'GPU-n1-0,GPU-n1-1',
    });
    expect(environmentOf(spec.initContainers[1]!).NVIDIA_VISIBLE_DEVICES).toBeUndefined();
  });

  it('names the files that the agent looks for, and what of them it stages', () => {
    const files = 'meta-llama--Llama-3.1-8B/c0ffee';
    expect(podOf().metadata.annotations[annotations.files]).toBe(files);
    expect(podOf().metadata.annotations[annotations.weights]).toBeUndefined();
    const gthread = podOf({ loadFormat: 'gthread', staging: { pinned: true } }).metadata.annotations;
    expect(gthread).toMatchObject({
      [annotations.files]: files,
      [annotations.weights]: `${files}.gthread-1`,
      [annotations.weightsPinned]: 'true',
    });
  });

  it('tells its sidecar where the Service is in the form of service links', () => {
    const { spec } = podOf();
    expect(environmentOf(spec.initContainers[1]!)).toMatchObject({
      GREENTHREAD_SERVICE: 'gt-llama-3-8b',
      GT_LLAMA_3_8B_SERVICE_HOST: '10.96.0.7',
      GT_LLAMA_3_8B_SERVICE_PORT: '80',
    });
  });

  it('mounts the API keys in the sidecar alone, and only when there are any', () => {
    const withKeys = podOf({ frontDoor: { apiKeysSecret: 'keys' } }).spec;
    const mounts = ({ volumeMounts }: Container) => volumeMounts.map(({ mountPath }) => mountPath);
    expect(mounts(withKeys.initContainers[1]!)).toContain('/etc/greenthread/api-keys');
    expect(mounts(withKeys.containers[0]!)).not.toContain('/etc/greenthread/api-keys');
    expect(environmentOf(withKeys.initContainers[1]!).GREENTHREAD_API_KEYS_DIR).toBe(
      '/etc/greenthread/api-keys',
    );
    expect(podOf().spec.volumes.map(({ name }) => name)).not.toContain('api-keys');
  });

  it('copies launcher and plug-in into its engine, once more if it must', () => {
    const [copy] = podOf().spec.initContainers;
    const folder = mkdtempSync(join(tmpdir(), 'gt-'));
    mkdirSync(join(folder, 'engine/gthread'), { recursive: true });
    writeFileSync(join(folder, 'engine/gthread/worker.py'), 'x');
    mkdirSync(join(folder, 'inside'));
    expect(copy!.command.slice(3)).toEqual(['/app/engine', '/greenthread']);
    const args = [...copy!.command.slice(1, 3), join(folder, 'engine'), join(folder, 'inside')];
    for (const _ of [1, 2]) execFileSync(process.execPath, args);
    expect(readdirSync(join(folder, 'inside'), { recursive: true }).sort()).toEqual([
      'gthread',
      'gthread/worker.py',
    ]);
    rmSync(folder, { recursive: true });
  });

  it('gives its engine the pool to read and a folder of its own to write', () => {
    const { spec, metadata } = podOf();
    const [engine] = spec.containers;
    expect(spec.volumes).toContainEqual({
      name: 'pool',
      hostPath: { path: '/dev/shm/greenthread', type: 'DirectoryOrCreate' },
    });
    expect(engine!.volumeMounts.filter((mount) => 'name' in mount && mount.name === 'pool')).toEqual([
      { name: 'pool', mountPath: '/run/greenthread/pool', readOnly: true },
      { name: 'pool', mountPath: '/run/greenthread/image', subPathExpr: 'pods/$(POD_UID)' },
    ]);
    expect(environmentOf(engine!)).toMatchObject({
      GREENTHREAD_POOL: '/run/greenthread/pool',
      GREENTHREAD_IMAGE_DIR: '/run/greenthread/image',
      GREENTHREAD_ENGINE_HASH: imagesFolder(
        metadata.namespace,
        metadata.annotations[annotations.engineHash]!,
      ),
    });
    expect(environmentOf(engine!).GREENTHREAD_WEIGHTS).toBeUndefined();
    for (const container of spec.initContainers)
      expect(JSON.stringify(container.volumeMounts)).not.toContain('pool');
  });

  it('names the gthread form to its engine with loadFormat gthread', () => {
    const [engine] = podOf({ loadFormat: 'gthread' }).spec.containers;
    expect(environmentOf(engine!).GREENTHREAD_WEIGHTS).toBe(
      join('/mnt/models', gthreadFolder('meta-llama/Llama-3.1-8B', 'c0ffee')),
    );
  });

  it('gets its drain time and a margin before it is killed', () => {
    const { spec } = podOf({ sleep: { drainTimeout: '90s' } });
    expect(spec.terminationGracePeriodSeconds).toBe(120);
    for (const container of [spec.containers[0]!, spec.initContainers[1]!])
      expect(environmentOf(container).GREENTHREAD_GRACE_SECONDS).toBe('120');
  });

  it('takes images, service account, resources and tolerations from its Model', () => {
    const { spec } = podOf({
      vllmImage: 'v:2',
      sidecarImage: 's:2',
      serviceAccountName: 'ml',
      resources: { limits: { memory: '64Gi' } },
      tolerations: [{ key: 'team', operator: 'Exists' }],
    });
    expect([spec.initContainers[0]!.image, spec.initContainers[1]!.image, spec.containers[0]!.image]).toEqual(
      ['localhost/greenthread:1', 's:2', 'v:2'],
    );
    expect(spec).toMatchObject({ serviceAccountName: 'ml' });
    expect(spec.containers[0]).toMatchObject({ resources: { limits: { memory: '64Gi' } } });
    expect(spec.tolerations).toContainEqual({ key: 'team', operator: 'Exists' });
    expect(spec.tolerations).toContainEqual({ key: 'nvidia.com/gpu', operator: 'Exists' });
  });

  it('has names and labels within their limits at the longest Model name', () => {
    const { metadata } = podOf({}, 'm'.repeat(50));
    expect(metadata.name.length).toBeLessThanOrEqual(63);
    for (const value of Object.values(metadata.labels)) expect(value.length).toBeLessThanOrEqual(63);
  });
});

describe("a pod's hash", () => {
  const hash = (spec: Partial<ModelSpecInput> = {}, gpus = books.slice(0, 1)) =>
    podIdentity(partsOf(spec, 'a', gpus));
  const live: [string, Partial<ModelSpecInput>][] = [
    ['fairness', { fairness: { priority: 3 } }],
    ['sleep', { sleep: { idleTimeout: '2m' } }],
    ['endpoints', { endpoints: ['completions'] }],
    ['the front door', { frontDoor: { maxQueued: 4 } }],
    ['product', { product: 'NVIDIA-A40' }],
    ['replicas', { replicas: 5 }],
  ];
  it.each(live)('does not change with %s', (_name, spec) => expect(hash(spec)).toEqual(hash()));

  it('changes with the place', () => expect(hash({}, books.slice(1)).podHash).not.toBe(hash().podHash));

  it("changes only in part with the chart's images", () => {
    const later = podIdentity({ ...partsOf({}, 'a'), settings: { ...settings, vllmImage: 'v:3' } });
    expect(later.specHash).toBe(hash().specHash);
    expect(later.podHash).not.toBe(hash().podHash);
  });

  it('does not change when a driver rounds the size of the GPU anew', () => {
    const smaller = books.slice(0, 1).map((book) => ({ ...book, totalBytes: book.totalBytes! - 2 ** 21 }));
    expect(hash({ vramPerGPU: '20Gi' }, smaller)).toEqual(hash({ vramPerGPU: '20Gi' }));
  });
});

describe("the engine's command", () => {
  const commandOf = (spec: Partial<ModelSpecInput>) =>
    engineCommand(partsOf(spec).model.spec, '/w', 48 * GiB).join(' ');

  it('is vLLM under the launcher, on its socket, with the upstream name and the aliases', () => {
    expect(commandOf({ aliases: ['gpt', 'x/y'], dtype: 'bfloat16' })).toBe(
      'python3 /greenthread/launcher.py -- python3 -m vllm.entrypoints.openai.api_server --model /w --served-model-name meta-llama/Llama-3.1-8B gpt x/y --uds /run/greenthread/pod/engine.sock --enable-sleep-mode --dtype bfloat16 --gpu-memory-utilization 0.90',
    );
  });

  const cases: [string, Partial<ModelSpecInput>, string][] = [
    ['quantization', { quantization: 'fp8' }, '--quantization fp8'],
    [
      'parallelism',
      { parallelism: { tensor: 2, pipeline: 3 } },
      '--tensor-parallel-size 2 --pipeline-parallel-size 3',
    ],
    [
      'the load format, with the worker that it needs',
      { loadFormat: 'gthread' },
      '--load-format gthread --worker-cls gthread.worker.GThreadWorker',
    ],
    ['an absolute size', { vramPerGPU: '20Gi' }, '--gpu-memory-utilization 0.4166'],
    ['an embedding model', { modelType: 'embedding' }, '--runner pooling'],
    ['a reranker', { modelType: 'reranker' }, '--runner pooling'],
    [
      'extra arguments, last',
      { extraArgs: ['--max-model-len', '4096'] },
      '--gpu-memory-utilization 0.90 --max-model-len 4096',
    ],
  ];
  it.each(cases)('knows %s', (_name, spec, expected) => expect(commandOf(spec)).toContain(expected));

  it('lets extra arguments choose the runner', () => {
    expect(commandOf({ modelType: 'embedding', extraArgs: ['--runner=auto'] })).not.toContain(
      '--runner pooling',
    );
  });

  it('never asks for more than the absolute size', () => {
    const { spec } = partsOf({ vramPerGPU: '20Gi' }).model;
    expect(Number(memoryShare(spec, 49140 * 2 ** 20)) * 49140 * 2 ** 20).toBeLessThanOrEqual(20 * GiB);
  });
});

describe('the fetch Job', () => {
  const job = fetchJob(settings, model('a', { modelName: 'org/a', revision: 'v2' }), {
    name: 'gt-fetch-x',
    node: 'n1',
  }) as {
    metadata: { namespace: string; labels: Record<string, string> };
    spec: { template: { metadata: { labels: Record<string, string> }; spec: { containers: Container[] } } };
  };

  it("lives in the chart's namespace and has no label of a model pod on its own pod", () => {
    expect(job.metadata.namespace).toBe('greenthread');
    expect(job.metadata.labels).toMatchObject({ [labels.model]: 'a', [labels.modelNamespace]: 'default' });
    expect(job.spec.template.metadata.labels[labels.model]).toBeUndefined();
  });

  it('gets the token by reference, never by value', () => {
    const [container] = job.spec.template.spec.containers;
    expect(container!.env.find(({ name }) => name === 'HF_TOKEN')).toEqual({
      name: 'HF_TOKEN',
      valueFrom: { secretKeyRef: { name: 'greenthread-huggingface', key: 'token', optional: true } },
    });
    expect(environmentOf(container!)).toMatchObject({
      MODEL_NAME: 'org/a',
      REVISION: 'v2',
      MODELS_DIR: '/mnt/models',
    });
    expect(container!.securityContext).toMatchObject({
      capabilities: { drop: ['ALL'] },
      readOnlyRootFilesystem: true,
    });
  });
});

describe('the way of a fetch Job to the hub', () => {
  const jobOf = (wayOut: typeof settings.wayOut) =>
    fetchJob({ ...settings, wayOut }, model('a'), { name: 'gt-fetch-x', node: 'n1' }) as unknown as {
      spec: { template: { spec: { containers: Container[]; volumes: object[] } } };
    };

  it('is straight unless the chart says otherwise', () => {
    const text = JSON.stringify(jobOf(settings.wayOut));
    for (const word of ['PROXY', 'CA_CERTS', 'configMap"']) expect(text).not.toContain(word);
  });

  it('is by a proxy, and trusts the certificates that the chart names', () => {
    const wayOut = { proxy: 'http://proxy:3128', noProxy: '.corp', caConfigMap: 'corp-ca' };
    const { containers, volumes } = jobOf(wayOut).spec.template.spec;
    const env = environmentOf(containers[0]!);
    expect(env).toMatchObject({
      HTTP_PROXY: 'http://proxy:3128',
      HTTPS_PROXY: 'http://proxy:3128',
      NO_PROXY: '.corp',
      NODE_EXTRA_CA_CERTS: '/etc/greenthread/ca/ca.crt',
    });
    expect(volumes).toContainEqual({
      name: 'ca',
      configMap: { name: 'corp-ca', items: [{ key: 'ca.crt', path: 'ca.crt' }], optional: true },
    });
    expect(JSON.stringify(containers[0])).toContain(
      '{"name":"ca","mountPath":"/etc/greenthread/ca","readOnly":true}',
    );
  });
});

describe('a route', () => {
  it('is an Ingress with all paths, or an HTTPRoute that hangs on its Gateway', () => {
    const a = model('a');
    expect(modelRoute(settings.route, a, ['/a', '/default/a'])).toMatchObject({
      kind: 'Ingress',
      metadata: { labels: { [labels.model]: 'a' } },
      spec: {
        ingressClassName: 'edge',
        rules: [{ http: { paths: [{ path: '/a', pathType: 'Prefix' }, { path: '/default/a' }] } }],
      },
    });
    const gateway = {
      kind: 'gateway',
      name: 'edge',
      namespace: 'infra',
      sectionName: '',
      host: 'x.org',
      scheme: 'https',
    } as const;
    expect(modelRoute(gateway, a, ['/a'])).toMatchObject({
      kind: 'HTTPRoute',
      spec: {
        parentRefs: [{ name: 'edge', namespace: 'infra' }],
        hostnames: ['x.org'],
        rules: [
          {
            matches: [{ path: { type: 'PathPrefix', value: '/a' } }],
            backendRefs: [{ name: 'gt-a', port: 80 }],
          },
        ],
      },
    });
    expect(modelRoute({ kind: 'none' }, a, ['/a'])).toBeNull();
  });
});

describe('a difference', () => {
  it('is not what the API server filled in', () => {
    expect(covers({ a: [{ b: 1, c: 2 }], d: 3 }, { a: [{ b: 1 }] })).toBe(true);
    expect(covers({ a: [{ b: 1 }, {}] }, { a: [{ b: 1 }] })).toBe(false);
    expect(covers(undefined, { a: 1 })).toBe(false);
  });

  it('is seen in a field that is no longer wanted', () => {
    const metadata = { name: 'x' };
    const before = stamped({ metadata, spec: { a: 1, b: 2 } });
    expect(covers(before, stamped({ metadata, spec: { a: 1 } }))).toBe(false);
    expect(covers(before, stamped({ metadata, spec: { b: 2, a: 1 } }))).toBe(true);
  });

  it('does not lie in the order of keys nor in undefined fields', () => {
    expect(canonical({ b: 1, a: { d: undefined, c: 2 } })).toBe('{"a":{"c":2},"b":1}');
    expect(isSame({ b: 1, a: undefined }, { b: 1 })).toBe(true);
    expect(isSame({ a: [1, { b: 2 }] }, { a: [1, { b: 3 }] })).toBe(false);
    expect(isSame({}, { a: 1 })).toBe(false);
    expect(isSame([], {})).toBe(false);
  });
});

describe("an Event's note", () => {
  it('is cut to its bytes without half a character', () => {
    expect(cutToBytes('short', 1024)).toBe('short');
    const cut = cutToBytes('é'.repeat(600), 1024);
    expect(Buffer.byteLength(cut)).toBeLessThanOrEqual(1024);
    expect(cut).toMatch(/^é+…?$/);
  });
});
