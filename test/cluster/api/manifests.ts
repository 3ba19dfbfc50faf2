/** Whole, valid resources, and values at single fields of them that are good or bad. */

type Json = Record<string, unknown>;

/** A Model with every field set, so that any one of them can be replaced. */
export const fullModel = (): Json => ({
  apiVersion: 'greenthread.ai/v1alpha1',
  kind: 'Model',
  metadata: { name: 'rules', namespace: 'default' },
  spec: {
    modelName: 'org/name',
    revision: 'main',
    modelType: 'chat',
    dtype: 'auto',
    quantization: 'fp8',
    loadFormat: 'auto',
    endpoints: ['chat_completions'],
    parallelism: { tensor: 1, pipeline: 1 },
    replicas: 1,
    gpuMemoryUtilization: '0.90',
    vramPerGPU: '20Gi',
    fairness: { popular: false, minRuntime: '10s', maxWaitTime: '5s', priority: 0 },
    sleep: { idleTimeout: '10m', drainTimeout: '30s', level: 'auto' },
    staging: { pinned: false },
    frontDoor: {
      maxQueued: 512,
      maxQueuedBytes: '64Mi',
      maxWait: '5m',
      maxBodyBytes: '32Mi',
      sseKeepAliveAfter: '0s',
      corsOrigins: ['https://app.example.com'],
      apiKeysSecret: 'keys',
    },
    product: 'NVIDIA-A40',
    aliases: ['gpt-4o'],
    extraArgs: ['--max-model-len=4096'],
    vllmImage: 'vllm/vllm-openai:v0.32.0',
    sidecarImage: 'greenthread:1',
    nodeSelector: { zone: 'a' },
    tolerations: [
      { key: 'gpu', operator: 'Equal', value: 'yes', effect: 'NoExecute', tolerationSeconds: 60 },
    ],
    serviceAccountName: 'default',
    resources: { requests: { cpu: '1' }, limits: { cpu: 2 } },
  },
});

export const fullGpu = (): Json => ({
  apiVersion: 'greenthread.ai/v1alpha1',
  kind: 'GPU',
  metadata: { name: 'gpu-rules-0' },
  spec: {
    nodeName: 'rules',
    index: 0,
    uuid: 'GPU-1',
    bindings: [
      { namespace: 'default', model: 'm', replica: 0, uuid: 'GPU-1', reservedBytes: 1, popular: false },
    ],
  },
});

export const full: Record<string, () => Json> = { models: fullModel, gpus: fullGpu };

/** A copy of a resource with the value at a path replaced; undefined removes it. */
export function withValue(resource: Json, path: string, value: unknown): Json {
  const copy = structuredClone(resource);
  const steps = path.split(/\.|(?=\[\])|(?=\{\})/).filter((step) => step !== '');
  const last = steps.pop()!;
  let at = copy as Json;
  for (const step of steps) {
    at = (step === '[]' || step === '{}' ? Object.values(at)[0] : at[step]) as Json;
  }
  const key = last === '[]' || last === '{}' ? Object.keys(at)[0]! : last;
  if (value === undefined) delete at[key];
  else at[key] = value;
  return copy;
}

/** Good and bad values at one field; each bad one with a part of the message that must come. */
export interface Trial {
  good: unknown[];
  bad: [value: unknown, message: string][];
}

const durationTrial = (
  path: string,
  range: { zero?: boolean; max: string; above: string },
): [string, Trial] => {
  const bounded = `${path} must be ${range.zero ? 'between 0s and' : 'more than 0s and at most'} ${range.max}`;
  return [
    `models ${path}`,
    {
      good: ['250ms', '1m30s', '0.5s', range.max, ...(range.zero ? ['0s'] : [])],
      bad: [
        ['5 minutes', `${path} must be a duration`],
        ['-1s', `${path} must be a duration`],
        ['10', `${path} must be a duration`],
        [range.above, bounded],
        ...(range.zero ? [] : ([['0s', bounded]] as [string, string][])),
      ],
    },
  ];
};

const bytesTrial = (path: string, most: string, above: string): [string, Trial] => [
  `models ${path}`,
  {
    good: ['512Mi', '1.5Gi', 1_048_576, most, ...(path === 'spec.vramPerGPU' ? [''] : [])],
    bad: [
      ['much', `${path} must be a quantity of bytes`],
      ['10 Gi', `${path} must be a quantity of bytes`],
      [0, `${path} must be a quantity of bytes`],
      ['0', `${path} must be more than 0`],
      ['-1Gi', `${path} must be more than 0`],
      [above, `and at most ${most}`],
    ],
  },
];

const owned = 'spec.extraArgs may not set a flag that GreenThread owns';

/** By `<plural> <path>`; every CEL rule must be met here by a good and a bad value. */
export const trials = new Map<string, Trial>([
  [
    'models metadata.name',
    {
      good: ['a', 'llama-3-8b', 'x'.repeat(50)],
      bad: [
        ['llama.8b', 'metadata.name must be a label'],
        ['x'.repeat(51), 'metadata.name must be at most 50 characters'],
        ['status', "metadata.name must not be one of the front door's own paths"],
        ['v1', "metadata.name must not be one of the front door's own paths"],
      ],
    },
  ],
  ['gpus metadata.name', { good: ['gpu-rules-0'], bad: [['gpu-other-0', 'metadata.name must be gpu-']] }],
  [
    'models spec.modelName',
    {
      good: ['gpt2', 'meta-llama/Llama-3.1-8B-Instruct'],
      bad: [
        ['a/b/c', 'spec.modelName must be an upstream id'],
        ['../etc', 'spec.modelName must be an upstream id'],
        ['org/na--me', 'spec.modelName must be an upstream id'],
        ['', 'spec.modelName must be an upstream id'],
      ],
    },
  ],
  [
    'models spec.revision',
    {
      good: ['main', 'refs/pr/1', '0123456789abcdef0123456789abcdef01234567'],
      bad: [
        ['a b', 'spec.revision must be a branch'],
        ['a/../b', 'spec.revision must be a branch'],
      ],
    },
  ],
  [
    'models spec.quantization',
    {
      good: ['', 'awq_marlin'],
      bad: [['fp8 --port', 'spec.quantization must be a vLLM quantization method']],
    },
  ],
  [
    'models spec.parallelism',
    {
      good: [{ tensor: 8, pipeline: 8 }, {}],
      bad: [[{ tensor: 64, pipeline: 2 }, 'spec.parallelism: tensor times pipeline must be at most 64']],
    },
  ],
  [
    'models spec.gpuMemoryUtilization',
    {
      good: ['0.90', '1', '1.0', '.5'],
      bad: [
        ['0.0', 'spec.gpuMemoryUtilization must be a decimal'],
        ['1.1', 'spec.gpuMemoryUtilization must be a decimal'],
        ['90%', 'spec.gpuMemoryUtilization must be a decimal'],
      ],
    },
  ],
  [
    'models spec.aliases[]',
    { good: ['gpt-4o', 'org/name:tag'], bad: [['two words', 'spec.aliases must be names']] },
  ],
  [
    'models spec.extraArgs[]',
    {
      good: ['--max-model-len=4096', '--enable-prefix-caching', '-O3', '8000', 'main'],
      bad: [
        ['--port=80', owned],
        ['--por', owned],
        ['--uds', owned],
        ['--load_format=gthread', owned],
        ['--enable-sleep-mode', owned],
        ['-tp=2', owned],
        ['-q', owned],
        ['--kv-cache-memory-bytes=1000', owned],
        ['--config=/etc/vllm.yaml', owned],
      ],
    },
  ],
  durationTrial('spec.fairness.minRuntime', { zero: true, max: '1h', above: '61m' }),
  durationTrial('spec.fairness.maxWaitTime', { zero: true, max: '1h', above: '61m' }),
  durationTrial('spec.sleep.idleTimeout', { max: '720h', above: '721h' }),
  durationTrial('spec.sleep.drainTimeout', { zero: true, max: '1h', above: '61m' }),
  durationTrial('spec.frontDoor.maxWait', { max: '24h', above: '25h' }),
  durationTrial('spec.frontDoor.sseKeepAliveAfter', { zero: true, max: '1h', above: '2h' }),
  bytesTrial('spec.vramPerGPU', '1Ti', '2Ti'),
  bytesTrial('spec.frontDoor.maxQueuedBytes', '16Gi', '17Gi'),
  bytesTrial('spec.frontDoor.maxBodyBytes', '4Gi', '5Gi'),
]);
