/** Whether one GPU may take one replica: a row of questions, the first "no" is the reason. */
import type { ModelSpec } from '#api/model.ts';
import { estimateOrNull, roomBytes } from './capacity.ts';
import { type ClusterView, type GpuBook, isNodeReady, type ReplicaKey } from './cluster-view.ts';
import type { Taint, Toleration } from './kubernetes.ts';
import { type GpuRefusal, refuse } from './refusal.ts';

/** Label of GPU feature discovery. */
const productLabel = 'nvidia.com/gpu.product';

/** As people and labels spell it: spaces or dashes, with or without the mark of time slicing. */
const plainProduct = (product: string): string => product.replaceAll(' ', '-').replace(/-SHARED$/, '');

/** Whether the GPU is of the product that the Model asks for (any, when it asks for none). */
export function hasProduct(view: ClusterView, book: GpuBook, product: string): boolean {
  if (product === '') return true;
  const label = view.snapshot.nodes.get(book.node)?.metadata.labels?.[productLabel] ?? '';
  return [book.product, label].some((found) => found !== '' && plainProduct(found) === plainProduct(product));
}

export const matchesSelector = (
  view: ClusterView,
  node: string,
  selector: Record<string, string>,
): boolean => {
  const found = view.snapshot.nodes.get(node)?.metadata.labels ?? {};
  return Object.entries(selector).every(([label, value]) => found[label] === value);
};

/** Kubernetes' own rule (a toleration without key tolerates every taint, without effect every effect). */
export const tolerates = (tolerations: readonly Toleration[], taint: Taint): boolean =>
  tolerations.some(
    ({ key, operator = 'Equal', value = '', effect }) =>
      (key === undefined || key === '' ? operator === 'Exists' : key === taint.key) &&
      (operator === 'Exists' || value === (taint.value ?? '')) &&
      (effect === undefined || effect === taint.effect),
  );

/** Bindings that a GPU resource takes (api/gpu.ts). */
export const bindingsMax = 256;

/** What a replica asks of a GPU. */
export interface Need {
  key: ReplicaKey;
  spec: ModelSpec;
  popular: boolean;
}

/** Taints that the control plane puts on nodes whose state is asked for by itself. */
const nodeStateTaints = [
  'node.kubernetes.io/not-ready',
  'node.kubernetes.io/unreachable',
  'node.kubernetes.io/unschedulable',
];

function nodeRefusal(view: ClusterView, book: GpuBook, spec: ModelSpec): GpuRefusal | null {
  if (!matchesSelector(view, book.node, spec.nodeSelector)) return refuse.nodeSelector();
  if (!isNodeReady(view, book.node)) return refuse.nodeNotReady();
  const node = view.snapshot.nodes.get(book.node)!;
  if (node.spec?.unschedulable) return refuse.nodeCordoned();
  const tolerations: Toleration[] = [...view.settings.tolerations, ...spec.tolerations];
  const taint = (node.spec?.taints ?? []).find(
    (candidate) =>
      candidate.effect !== 'PreferNoSchedule' &&
      !nodeStateTaints.includes(candidate.key) &&
      !tolerates(tolerations, candidate),
  );
  return taint ? refuse.taint(taint.key) : null;
}

/** Room alone: also asked when a Model that has its place wants more or wants to be pinned. */
export function roomRefusal(book: GpuBook, need: Need): GpuRefusal | null {
  const bytes = estimateOrNull(need.spec, book.totalBytes);
  if (book.totalBytes === null || bytes === null) return refuse.sizeUnknown();
  if (bytes > book.totalBytes) return refuse.size(book.totalBytes, bytes);
  const left = roomBytes(book, need.key, need.popular)!;
  if (bytes <= left) return null;
  return need.popular ? refuse.vramToPin(left, bytes) : refuse.vram(left, bytes);
}

/** Why this GPU does not take the replica; null when it does. Degraded GPUs may; Unknown and Unhealthy ones may not. */
export function gpuRefusal(view: ClusterView, book: GpuBook, need: Need): GpuRefusal | null {
  if (!hasProduct(view, book, need.spec.product)) return refuse.product(book.product, need.spec.product);
  const node = nodeRefusal(view, book, need.spec);
  if (node) return node;
  if (book.health !== 'Healthy' && book.health !== 'Degraded')
    return refuse.health(book.health, book.healthReason);
  if (view.silentNodes.has(book.node)) return refuse.agent();
  if (book.wanted.size >= bindingsMax && !book.wanted.has(need.key)) return refuse.full(book.wanted.size);
  return roomRefusal(book, need);
}
