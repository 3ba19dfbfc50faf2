/** How much of a GPU a Model needs, and whether it may be promised that much. */
import type { GpuBinding } from '#api/gpu.ts';
import type { ModelSpec } from '#api/model.ts';
import { parseBytes } from '#platform/quantity.ts';
import type { ClusterView, GpuBook, ReplicaKey } from './cluster-view.ts';

/** Bytes that one replica takes awake on a GPU of this size: what the spec asks for, before anything was measured. */
export function estimateBytes(spec: ModelSpec, totalBytes: number): number {
  return spec.vramPerGPU === ''
    ? Math.floor(Number(spec.gpuMemoryUtilization) * totalBytes)
    : parseBytes(spec.vramPerGPU);
}

/** The estimate where the size of the GPU may be unknown; null when it then cannot be said. */
export const estimateOrNull = (spec: ModelSpec, totalBytes: number | null): number | null =>
  spec.vramPerGPU !== '' ? parseBytes(spec.vramPerGPU) : totalBytes && estimateBytes(spec, totalBytes);

/** Measured awake bytes of a replica's pods on one GPU; 0 before the first boot. */
export function measuredBytes(view: ClusterView, book: GpuBook, key: ReplicaKey): number {
  const pods = view.podsOf.get(key)?.live ?? [];
  const found = pods.flatMap((pod) => view.occupants.get(pod.metadata.uid ?? '') ?? []);
  return Math.max(
    0,
    ...found
      .filter(({ gpu, occupant }) => gpu === book.name && occupant.awakeBytes !== undefined)
      .map(({ occupant }) => occupant.awakeBytes!),
  );
}

/**
 * What is left for a newcomer on a GPU: a pinned model keeps its VRAM for ever; every other one only needs to find
 * room when it is awake alone, beside the pinned ones and what sleepers were measured to leave behind.
 *
 * @param own the newcomer's own replica, whose present binding does not stand in its way
 * @returns bytes; null when the GPU's size is not known
 */
export function roomBytes(book: GpuBook, own: ReplicaKey, popular: boolean): number | null {
  if (book.totalBytes === null) return null;
  let pinned = 0;
  let largestOther = 0;
  for (const [key, binding] of book.wanted) {
    if (key === own) continue;
    if (binding.popular) pinned += binding.reservedBytes;
    else largestOther = Math.max(largestOther, binding.reservedBytes);
  }
  const kept = popular ? largestOther : residueBytes(book, own);
  return book.totalBytes - pinned - kept;
}

/** Measured residue of the sleepers that stay on this GPU, bytes; the unmeasured ones are not guessed at. */
function residueBytes(book: GpuBook, own: ReplicaKey): number {
  const byReplica = new Map<ReplicaKey, number>();
  for (const occupant of book.object.status?.occupants ?? []) {
    const key = `${occupant.namespace}/${occupant.model}/${occupant.replica}`;
    if (key === own || occupant.popular || !book.wanted.has(key)) continue;
    byReplica.set(key, Math.max(byReplica.get(key) ?? 0, occupant.residueBytes ?? 0));
  }
  return [...byReplica.values()].reduce((sum, bytes) => sum + bytes, 0);
}

/** Bytes promised on a GPU, awake or not. */
export const reservedBytes = (book: GpuBook): number =>
  [...book.wanted.values()].reduce((sum, binding) => sum + binding.reservedBytes, 0);

/** Makes or renews a binding in the plan. */
export function bind(book: GpuBook, binding: Omit<GpuBinding, 'uuid'>): void {
  book.wanted.set(`${binding.namespace}/${binding.model}/${binding.replica}`, {
    ...binding,
    uuid: book.uuid,
  });
}
