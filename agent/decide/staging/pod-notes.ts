/** From a model pod's annotations to what staging needs of it. */
import { annotations, imagesFolder } from '#proto/names.ts';
import { type PodObject, podFact } from '../resource-facts.ts';
import { isEngineHash } from './images.ts';
import { parseWeights } from './weights-name.ts';
import type { StagingPod } from './words.ts';

export type PodNotes = Omit<StagingPod, 'phase' | 'sinceMs'>;

/** @returns null for a pod that is none of ours, has ended, or loads no gthread form */
export function podNotes(pod: PodObject): PodNotes | null {
  const fact = podFact(pod);
  const notes = pod.metadata.annotations ?? {};
  const name = parseWeights(notes[annotations.weights] ?? '');
  if (!fact || !name) return null;
  const { podUid, namespace, engineHash, uuids, deleting } = fact;
  return {
    podUid,
    name: fact.pod,
    replica: `${namespace}/${fact.model}/${fact.replica}`,
    weights: name.weights,
    pinned: notes[annotations.weightsPinned] === 'true',
    engineHash: engineHash !== null && isEngineHash(engineHash) ? imagesFolder(namespace, engineHash) : null,
    ranks: Math.max(1, uuids.length),
    deleting,
  };
}
