/**
 * The GPU resource: one GPU of one node.
 *
 * Three writers, each with fields of its own under server-side apply: the agent writes what the GPU is and what the node
 * sees (spec.nodeName, spec.index, spec.uuid, status), the controller writes what is wanted (spec.bindings) and whether
 * the agent can be heard (the condition AgentReachable).
 */
import { z } from 'zod';
import { cel, conditions, text } from './schema.ts';

/** A Model's replica that is wanted on this GPU. Its VRAM counts as reserved from the moment the binding exists. */
const binding = z.object({
  namespace: text(63),
  model: text(63),
  replica: z.int().min(0),
  uuid: text(128).describe('UUID of the GPU that was meant: an index may come to mean another GPU'),
  reservedBytes: z.int().min(0),
  popular: z.boolean().default(false),
});
export type GpuBinding = z.output<typeof binding>;

export const gpuSpec = z.object({
  nodeName: text(253),
  index: z.int().min(0),
  uuid: text(128).min(1),
  bindings: z
    .array(binding)
    .max(256)
    .meta({
      'x-kubernetes-list-type': 'map',
      'x-kubernetes-list-map-keys': ['namespace', 'model', 'replica'],
    })
    .optional(),
});

export const healthStates = ['Healthy', 'Degraded', 'Unhealthy', 'Unknown'] as const;
export type HealthState = (typeof healthStates)[number];

/** States of a pod's engine as the node sees them; see docs/architecture.md for the drawing. */
export const occupantStates = [
  'waiting',
  'booting',
  'serving',
  'draining',
  'sleeping',
  'waking',
  'asleep',
  'failed',
] as const;
export type OccupantState = (typeof occupantStates)[number];

const lostFiles = z.object({
  path: text(512).describe(
    'folder below the models path: org--name/<commit>, its gthread form with .gthread-1',
  ),
  state: z.enum(['Missing', 'Damaged']),
  since: text(64).meta({ format: 'date-time' }),
  message: text(1024),
});

const occupant = z.object({
  namespace: text(63),
  model: text(63),
  replica: z.int().min(0),
  pod: text(253),
  podUid: text(63),
  state: z.enum(occupantStates),
  awakeBytes: z.int().min(0).optional().describe('measured while awake; absent until the first boot'),
  residueBytes: z.int().min(0).optional().describe('measured after a sleep; absent until the first one'),
  popular: z.boolean(),
  becameServingAt: text(64).meta({ format: 'date-time' }).optional(),
  served: z.boolean().optional().describe('a client was served since the pod started'),
  message: text(1024).optional(),
  lostFiles: lostFiles
    .optional()
    .describe("files that this pod loads and that the node's disk does not hold as they were published"),
});
export type GpuOccupant = z.output<typeof occupant>;

export const gpuStatus = z.object({
  product: text(128).optional().describe('as the label nvidia.com/gpu.product spells it'),
  uuid: text(128).optional(),
  memory: z
    .object({
      totalBytes: z.int().min(0).optional(),
      usedBytes: z.int().min(0).optional(),
      freeBytes: z.int().min(0).optional(),
    })
    .optional(),
  mode: z.enum(['inference', 'idle']).optional(),
  health: z.enum(healthStates).optional(),
  healthReason: text(128).optional(),
  healthMessage: text(1024).optional(),
  driver: text(64).optional(),
  occupants: z
    .array(occupant)
    .max(512)
    .meta({ 'x-kubernetes-list-type': 'map', 'x-kubernetes-list-map-keys': ['podUid'] })
    .optional(),
  conditions: conditions.optional(),
});

export type GpuSpec = z.output<typeof gpuSpec>;
export type GpuStatus = z.output<typeof gpuStatus>;

/**
 * Node names may be as long as the GPU's own (253), so `gpu-<node>-<index>` would not always fit: a name longer than this
 * is cut here and goes on with a hash of the whole (`gpuName` in proto/names.ts).
 */
export const gpuNodePrefixMax = 220;

/** Rules over the whole object. */
export const gpuRules = cel({
  rule: `self.spec.nodeName.size() <= ${gpuNodePrefixMax} ? self.metadata.name.startsWith('gpu-' + self.spec.nodeName + '-') : self.metadata.name.startsWith('gpu-' + self.spec.nodeName.substring(0, ${gpuNodePrefixMax}))`,
  message:
    'metadata.name must be gpu-<spec.nodeName>-<spec.index>: the agent makes GPUs, there is no need to',
});

/** What `kubectl get gpus` prints after NAME. */
export const gpuColumns = [
  { name: 'Node', type: 'string', jsonPath: '.spec.nodeName' },
  { name: 'Index', type: 'integer', jsonPath: '.spec.index' },
  { name: 'Product', type: 'string', jsonPath: '.status.product' },
  { name: 'Mode', type: 'string', jsonPath: '.status.mode' },
  { name: 'Health', type: 'string', jsonPath: '.status.health' },
  { name: 'Available', type: 'integer', jsonPath: '.status.memory.freeBytes' },
] as const;
