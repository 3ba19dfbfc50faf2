/**
 * The Model resource: one model that the platform team wants served, asleep whenever nobody asks for it.
 *
 * Defined once here: field types, defaults, limits, rules and printer columns. The CRD's YAML and the TypeScript types
 * both come from this file.
 */
import { z } from 'zod';
import { byteQuantity, cel, conditions, duration, text, textSet, whole } from './schema.ts';

export const modelTypes = ['chat', 'tts', 'asr', 'embedding', 'reranker'] as const;
export type ModelType = (typeof modelTypes)[number];

/** Inference routes that the front door can open; which HTTP paths each one means is in proto/routes.ts. */
export const endpointNames = [
  'chat_completions',
  'completions',
  'responses',
  'messages',
  'embeddings',
  'audio_transcriptions',
  'audio_translations',
  'audio_speech',
  'images_generations',
  'score',
  'rerank',
  'classify',
  'pooling',
  'tokenize',
  'detokenize',
] as const;
export type EndpointName = (typeof endpointNames)[number];

/** What a Model opens when its spec names no endpoints: by type, because an embedding model cannot chat. */
export const defaultEndpoints: Record<ModelType, readonly EndpointName[]> = {
  chat: ['chat_completions', 'completions', 'responses', 'messages', 'tokenize', 'detokenize'],
  tts: ['audio_speech'],
  asr: ['audio_transcriptions', 'audio_translations'],
  embedding: ['embeddings', 'pooling', 'tokenize', 'detokenize'],
  reranker: ['rerank', 'score'],
};

/** The front door serves these first path segments itself, so a Model of such a name would be unreachable. */
export const reservedNames = [
  'classify',
  'detokenize',
  'health',
  'invocations',
  'metrics',
  'pooling',
  'ready',
  'rerank',
  'score',
  'status',
  'tokenize',
  'v1',
  'v2',
] as const;

/**
 * vLLM flags that follow from other fields or that this system drives itself; `extraArgs` may not name them, nor a
 * beginning of one: argparse takes `--por` for `--port`. `config` names a file that could set any of them.
 */
export const ownedEngineFlags = [
  'host',
  'port',
  'uds',
  'load-format',
  'enable-sleep-mode',
  'no-enable-sleep-mode',
  'sleep-mode-backend',
  'worker-cls',
  'model',
  'served-model-name',
  'revision',
  'dtype',
  'quantization',
  'tensor-parallel-size',
  'tp',
  'pipeline-parallel-size',
  'pp',
  'data-parallel-size',
  'dp',
  'gpu-memory-utilization',
  'kv-cache-memory-bytes',
  'num-gpu-blocks-override',
  // Its gauge says how deep an engine sleeps, also to an agent that has just started.
  'disable-log-stats',
  'api-key',
  'root-path',
  'ssl-keyfile',
  'ssl-certfile',
  'config',
] as const;

const upstreamId = '^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$';

const fairness = z
  .object({
    popular: z
      .boolean()
      .default(false)
      .describe('true: pinned; never slept, never preempted; its VRAM is reserved at placement'),
    minRuntime: duration('spec.fairness.minRuntime', { zero: true, max: '1h' })
      .default('10s')
      .describe('after a wake, not preempted before this while it has work; more than 60s counts as 60s'),
    maxWaitTime: duration('spec.fairness.maxWaitTime', { zero: true, max: '1h' })
      .default('5s')
      .describe('from this wait on, a waiting model may force a busy one to give way'),
    priority: whole(-100, 100).default(0).describe('among waiters: higher first'),
  })
  .prefault({});

const sleep = z
  .object({
    idleTimeout: duration('spec.sleep.idleTimeout', { max: '720h' })
      .default('10m')
      .describe('no request for this long: sleep'),
    drainTimeout: duration('spec.sleep.drainTimeout', { zero: true, max: '1h' })
      .default('30s')
      .describe('how long a preemption lets requests in flight finish before it freezes them'),
    level: z
      .enum(['auto', 'offload', 'discard', 'suspend'])
      .default('auto')
      .describe(
        'auto, offload: weights go to host memory; discard: dropped, read again at a wake; suspend: offload, then a CUDA checkpoint of the rest',
      ),
  })
  .prefault({});

const frontDoor = z
  .object({
    maxQueued: whole(1, 100_000).default(512).describe('requests that may wait while the model is not awake'),
    maxQueuedBytes: byteQuantity('spec.frontDoor.maxQueuedBytes', { max: '16Gi' })
      .default('64Mi')
      .describe('bytes of bodies that may wait'),
    maxWait: duration('spec.frontDoor.maxWait', { max: '24h' })
      .default('5m')
      .describe('the longest a request waits before it is answered 503'),
    maxBodyBytes: byteQuantity('spec.frontDoor.maxBodyBytes', { max: '4Gi' })
      .default('32Mi')
      .describe('the largest body that is accepted'),
    sseKeepAliveAfter: duration('spec.frontDoor.sseKeepAliveAfter', { zero: true, max: '1h' })
      .default('0s')
      .describe('a waiting stream gets SSE comments from this wait on; 0s: off'),
    corsOrigins: textSet(text(253).min(1), 64)
      .default([])
      .describe('origins that browsers may call from; * for any'),
    apiKeysSecret: text(253)
      .default('')
      .describe('name of a Secret in the same namespace whose values are API keys'),
  })
  .prefault({});

const toleration = z.object({
  key: text(316).optional(),
  operator: z.enum(['Exists', 'Equal']).optional(),
  value: text(63).optional(),
  effect: z.enum(['NoSchedule', 'PreferNoSchedule', 'NoExecute']).optional(),
  tolerationSeconds: z.int().optional(),
});

const resourceList = z.record(
  text(316),
  z.union([z.int(), text(64)]).meta({ 'x-kubernetes-int-or-string': true }),
);

const extraArg = text(4096).meta(
  cel({
    // The name is taken out once, in a list of one: within exists() it would count for each flag.
    rule: `!self.matches('^--?[A-Za-z]') || [self.replace('_', '-').find('[A-Za-z][^=]*')].all(name, ![${ownedEngineFlags.map((flag) => `'${flag}'`).join(', ')}].exists(flag, flag.startsWith(name)))`,
    message:
      'spec.extraArgs may not set a flag that GreenThread owns (host, port, uds, load format, sleep mode) or that a field of the spec sets (dtype, quantization, parallelism, gpuMemoryUtilization, vramPerGPU, revision, aliases, frontDoor.apiKeysSecret): remove it, and use the field where there is one',
  }),
);

export const modelSpec = z.object({
  modelName: text(200)
    .meta(
      cel({
        // The hub itself refuses -- and .. in names; -- also parts org and name in the folder on disk.
        rule: `self.matches('${upstreamId}') && !self.contains('--') && !self.contains('..')`,
        message: 'spec.modelName must be an upstream id such as org/name',
      }),
    )
    .describe('upstream id (org/name on HuggingFace); also the model that clients name in a request body'),
  revision: text(128)
    .meta(
      cel({
        rule: "self.matches('^[A-Za-z0-9][A-Za-z0-9._/-]*$') && !self.contains('..')",
        message: 'spec.revision must be a branch, a tag or a commit, such as main',
      }),
    )
    .default('main')
    .describe('upstream revision; pinned to a commit when fetched'),
  modelType: z
    .enum(modelTypes)
    .default('chat')
    .describe('what kind of engine arguments and endpoints it gets'),
  dtype: z.enum(['auto', 'bfloat16', 'float16', 'float32']).default('auto').describe("vLLM's --dtype"),
  quantization: text(64)
    .meta(
      cel({
        rule: "self.matches('^[A-Za-z0-9_.-]*$')",
        message: 'spec.quantization must be a vLLM quantization method such as fp8 or awq, or empty',
      }),
    )
    .default('')
    .describe("vLLM's --quantization"),
  loadFormat: z
    .enum(['auto', 'gthread'])
    .default('auto')
    .describe(
      "auto: upstream files read by vLLM's own loader; gthread: converted once and staged by the agent",
    ),
  endpoints: textSet(z.enum(endpointNames), endpointNames.length)
    .min(1)
    .optional()
    .describe('inference routes that the front door opens; by default those of modelType'),
  parallelism: z
    .object({
      tensor: whole(1, 64).default(1).describe("vLLM's --tensor-parallel-size"),
      pipeline: whole(1, 64).default(1).describe("vLLM's --pipeline-parallel-size"),
    })
    // In full: the API server checks the rule below against this default as it stands.
    .prefault({ tensor: 1, pipeline: 1 })
    .meta(
      cel({
        rule: 'self.tensor * self.pipeline <= 64',
        message: 'spec.parallelism: tensor times pipeline must be at most 64, the GPUs of one node',
      }),
    )
    .describe('GPUs per replica = tensor x pipeline, all on one node'),
  replicas: whole(0, 100).default(1).describe('model pods; 0: no pod, the route stays'),
  gpuMemoryUtilization: text(16)
    .meta(
      cel({
        rule: "self.matches('^(0?[.][0-9]+|1([.]0+)?)$') && double(self) > 0.0",
        message:
          'spec.gpuMemoryUtilization must be a decimal above 0 and at most 1, in quotes, such as "0.90"',
      }),
    )
    .default('0.90')
    .describe("vLLM's share of each GPU; also the first estimate of VRAM"),
  vramPerGPU: byteQuantity('spec.vramPerGPU', { empty: true, max: '1Ti' })
    .default('')
    .describe('an absolute size instead of the share, so that several Models are awake on one GPU'),
  fairness,
  sleep,
  staging: z
    .object({ pinned: z.boolean().default(false).describe('weights stay in host memory, never evicted') })
    .prefault({}),
  frontDoor,
  product: text(128)
    .default('')
    .describe('GPU product that the pod must land on, as the label nvidia.com/gpu.product says it'),
  aliases: textSet(
    text(200).meta(
      cel({
        rule: "self.matches('^[A-Za-z0-9][A-Za-z0-9._:/-]*$')",
        message: 'spec.aliases must be names such as gpt-4o or org/name',
      }),
    ),
    32,
  )
    .default([])
    .describe('further names that a client may send as model'),
  extraArgs: z.array(extraArg).max(64).default([]).describe('passed to vLLM as they are'),
  vllmImage: text(512).default('').describe("overrides the chart's engine image"),
  sidecarImage: text(512).default('').describe("overrides the chart's sidecar image"),
  nodeSelector: z.record(text(316), text(63)).default({}).describe('labels that its node must have'),
  tolerations: z
    .array(toleration)
    .max(64)
    .default([])
    .describe("of its pods, beside the chart's models.tolerations"),
  serviceAccountName: text(253).default('').describe("of its pods; empty: the namespace's default"),
  resources: z
    .object({ requests: resourceList.optional(), limits: resourceList.optional() })
    .prefault({})
    .describe("the engine container's resources"),
});

export const phases = ['Pending', 'Converting', 'Staging', 'Ready', 'Serving', 'Sleeping', 'Failed'] as const;
export type Phase = (typeof phases)[number];

const assignment = z.object({
  replica: z.int().min(0),
  node: text(253),
  gpus: text(512).describe('GPU indices, comma-separated'),
  uuids: z.array(text(128)).max(64),
});

export const modelStatus = z.object({
  phase: z.enum(phases).optional(),
  observedGeneration: z.int().min(0).optional(),
  conditions: conditions.optional(),
  replicas: z.int().min(0).optional(),
  readyReplicas: z.int().min(0).optional(),
  servingReplicas: z.int().min(0).optional(),
  sleepingReplicas: z.int().min(0).optional(),
  selector: text(1024).optional(),
  node: text(25_600).optional(),
  gpus: text(4096).optional().describe('GPU indices, comma-separated: 0 is index 0, not none'),
  vramPerGPU: z
    .int()
    .min(0)
    .optional()
    .describe('bytes per GPU while awake: an estimate until the first boot was measured'),
  vram: text(32).optional().describe('vramPerGPU for people'),
  residuePerGPU: z.int().min(0).optional().describe('bytes per GPU that a sleeper leaves behind'),
  url: text(2048).optional(),
  conversion: z
    .object({
      state: text(64).optional(),
      bytes: z.int().min(0).optional(),
      totalBytes: z.int().min(0).optional(),
      message: text(4096).optional(),
    })
    .optional(),
  assignments: z
    .array(assignment)
    .max(100)
    .meta({ 'x-kubernetes-list-type': 'map', 'x-kubernetes-list-map-keys': ['replica'] })
    .optional(),
});

/** A Model's spec as the API server stores it: every default filled in. */
export type ModelSpec = z.output<typeof modelSpec>;
/** A Model's spec as a person writes it. */
export type ModelSpecInput = z.input<typeof modelSpec>;
export type ModelStatus = z.output<typeof modelStatus>;
export type Assignment = z.output<typeof assignment>;

/** Rules over the whole object, because a name is in metadata. */
export const modelRules = cel(
  {
    rule: "self.metadata.name.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')",
    message: 'metadata.name must be a label: lower-case letters, digits and dashes, no dots',
  },
  {
    rule: 'self.metadata.name.size() <= 50',
    message: 'metadata.name must be at most 50 characters: names of its Service and pods are made from it',
  },
  {
    rule: `!(self.metadata.name in [${reservedNames.map((name) => `'${name}'`).join(', ')}])`,
    message:
      "metadata.name must not be one of the front door's own paths (v1, v2, status, health, ready, metrics, score, ...): choose another name",
  },
);

/** What `kubectl get models` prints after NAME. */
export const modelColumns = [
  { name: 'Phase', type: 'string', jsonPath: '.status.phase' },
  { name: 'Replicas', type: 'integer', jsonPath: '.spec.replicas' },
  { name: 'Ready', type: 'integer', jsonPath: '.status.readyReplicas' },
  { name: 'Node', type: 'string', jsonPath: '.status.node' },
  { name: 'GPUs', type: 'string', jsonPath: '.status.gpus' },
  { name: 'VRAM/GPU', type: 'string', jsonPath: '.status.vram' },
] as const;
