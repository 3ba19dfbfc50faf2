/** From the API server's objects to the arbiter's facts. What cannot be read is left out, never guessed. */
import type { GpuSpec } from '#api/gpu.ts';
import { annotations, labels } from '#proto/names.ts';
import { defaultSettings, parseSettings } from '#proto/settings.ts';
import type { GpuResourceFact, PodFact } from './arbiter/words.ts';

/** The parts of a core/v1 Pod that are read here. */
export interface PodObject {
  metadata: {
    name: string;
    namespace?: string;
    uid?: string;
    labels?: Record<string, string>;
    annotations?: Record<string, string>;
    deletionTimestamp?: string;
    /** What this very deletion gives it, seconds. */
    deletionGracePeriodSeconds?: number;
  };
  spec?: { terminationGracePeriodSeconds?: number };
  status?: { phase?: string };
}

/** A whole number of at least 0 by a label's or annotation's text; null for anything else. */
function wholeNumber(text: string | undefined): number | null {
  return text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : null;
}

/**
 * A model pod as the arbiter wants it. A settings annotation that cannot be read means the defaults: the pod still shares.
 * @returns null for a pod that is none of ours or has ended for good
 */
export function podFact(pod: PodObject): PodFact | null {
  const { metadata } = pod;
  const model = metadata.labels?.[labels.model];
  const replica = wholeNumber(metadata.labels?.[labels.replica] ?? '0');
  if (!metadata.uid || !metadata.namespace || !model || replica === null) return null;
  // Its containers have ended; the object only waits to be collected.
  if (pod.status?.phase === 'Succeeded' || pod.status?.phase === 'Failed') return null;
  const notes = metadata.annotations ?? {};
  const graceSeconds = metadata.deletionGracePeriodSeconds ?? pod.spec?.terminationGracePeriodSeconds;
  return {
    podUid: metadata.uid,
    pod: metadata.name,
    namespace: metadata.namespace,
    model,
    replica,
    uuids: (notes[annotations.gpuUuids] ?? '')
      .split(',')
      .map((uuid) => uuid.trim())
      .filter(Boolean),
    vramBytes: wholeNumber(notes[annotations.vramBytes]),
    engineHash: notes[annotations.engineHash] || null,
    settings: parseSettings(notes[annotations.settings] ?? '') ?? defaultSettings,
    graceMs: graceSeconds === undefined ? null : graceSeconds * 1000,
    deleting: metadata.deletionTimestamp !== undefined,
  };
}

/** A GPU resource as the arbiter wants it; bindings that were meant for another GPU than this one's UUID do not count. */
export function gpuResourceFact(gpu: { spec: GpuSpec }): GpuResourceFact {
  const { uuid, bindings = [] } = gpu.spec;
  return {
    uuid,
    bindings: bindings
      .filter((binding) => binding.uuid === uuid)
      .map(({ namespace, model, replica, reservedBytes, popular }) => ({
        namespace,
        model,
        replica,
        reservedBytes,
        popular: popular ?? false,
      })),
  };
}
