/** Why a GPU, and in the end a whole cluster, does not take a replica: the sentences that people read. */
import { formatGiB } from '#platform/quantity.ts';

/** What is wrong with one GPU, in the order in which it is asked; a later one means the GPU came closer. */
export const refusalKinds = [
  'product',
  'nodeSelector',
  'node',
  'taint',
  'health',
  'agent',
  'size',
  'vram',
  'full',
  'count',
] as const;
export type RefusalKind = (typeof refusalKinds)[number];

export interface GpuRefusal {
  kind: RefusalKind;
  /** Completes "<n> …": equal texts are counted together. */
  text: string;
}

/** Why a replica has no (better) place: feeds the condition, the Event and the log. */
export interface Refusal {
  reason: string;
  message: string;
}

const reasons: Record<RefusalKind, string> = {
  product: 'NoMatchingGPU',
  nodeSelector: 'NoMatchingNode',
  node: 'NoReadyNode',
  taint: 'NodeTainted',
  health: 'NoHealthyGPU',
  agent: 'NoReachableAgent',
  size: 'InsufficientVRAM',
  vram: 'InsufficientVRAM',
  full: 'TooManyModels',
  count: 'NotEnoughGPUs',
};

export const refuse = {
  product: (found: string, wanted: string): GpuRefusal => ({
    kind: 'product',
    text: `have another product (${found === '' ? 'unknown' : found}, want ${wanted})`,
  }),
  nodeSelector: (): GpuRefusal => ({
    kind: 'nodeSelector',
    text: "are on nodes outside the Model's nodeSelector",
  }),
  nodeNotReady: (): GpuRefusal => ({ kind: 'node', text: 'are on a node that is not ready' }),
  nodeCordoned: (): GpuRefusal => ({ kind: 'node', text: 'are on a node that is cordoned' }),
  taint: (key: string): GpuRefusal => ({ kind: 'taint', text: `are on a node with the taint ${key}` }),
  health: (health: string, reason: string): GpuRefusal => ({
    kind: 'health',
    text: `are ${health}${reason === '' ? '' : ` (${reason})`}`,
  }),
  agent: (): GpuRefusal => ({ kind: 'agent', text: 'have an agent that cannot be heard' }),
  sizeUnknown: (): GpuRefusal => ({ kind: 'size', text: 'have a size that is not known yet' }),
  size: (total: number, need: number): GpuRefusal => ({
    kind: 'size',
    text: `have ${formatGiB(total)} in all, needs ${formatGiB(need)}`,
  }),
  vram: (left: number, need: number): GpuRefusal => ({
    kind: 'vram',
    text: `have ${formatGiB(Math.max(0, left))} left beside popular models, needs ${formatGiB(need)}`,
  }),
  vramToPin: (left: number, need: number): GpuRefusal => ({
    kind: 'vram',
    text: `have ${formatGiB(Math.max(0, left))} left to pin beside the largest other model, needs ${formatGiB(need)}`,
  }),
  full: (bindings: number): GpuRefusal => ({
    kind: 'full',
    text: `have ${bindings} replicas bound already`,
  }),
  count: (fitting: number, wanted: number): GpuRefusal => ({
    kind: 'count',
    text: `would fit, but a node has at most ${fitting} such of the ${wanted} that one replica needs`,
  }),
} as const;

/** The same sentence for one: "1 has another product". */
const singular = (text: string): string =>
  text
    .replace(/^have\b/, 'has')
    .replace(/^are on nodes\b/, 'is on a node')
    .replace(/^are\b/, 'is');

/** One refusal of all GPUs: `0/4 GPUs fit: 2 have another product (NVIDIA-A40, want Tesla-T4), 1 is Unhealthy (…)`. */
export function refusalOf(refusals: readonly GpuRefusal[]): Refusal {
  if (refusals.length === 0) {
    return {
      reason: 'NoGPU',
      message: 'the cluster has no GPU resources: does an agent run on the GPU nodes?',
    };
  }
  const counts = new Map<string, { kind: RefusalKind; count: number }>();
  for (const { kind, text } of refusals) {
    const entry = counts.get(text);
    if (entry) entry.count += 1;
    else counts.set(text, { kind, count: 1 });
  }
  const sorted = [...counts].sort(
    ([leftText, left], [rightText, right]) =>
      refusalKinds.indexOf(left.kind) - refusalKinds.indexOf(right.kind) ||
      right.count - left.count ||
      (leftText < rightText ? -1 : 1),
  );
  const listed = sorted
    .slice(0, refusalsListedMax)
    .map(([text, { count }]) => `${count} ${count === 1 ? singular(text) : text}`);
  const more = sorted.length - listed.length;
  return {
    reason: reasons[sorted.at(-1)![1].kind],
    message: `0/${refusals.length} GPUs fit: ${listed.join(', ')}${more > 0 ? `, and ${more} more reasons` : ''}`,
  };
}

/** A message is for people: a cluster of many kinds of GPUs is not listed in full. */
const refusalsListedMax = 12;
