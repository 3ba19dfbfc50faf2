/**
 * Files that pods of this node load and that its disk does not hold as they were published: the controller learns of them by
 * GPU.status and has them brought again (docs/weights.md).
 */
import type { GpuOccupant } from '#api/gpu.ts';
import { annotations } from '#proto/names.ts';
import { type PodObject, podFact } from '../resource-facts.ts';
import { parseWeights } from './weights-name.ts';

/** Files that are there are looked at this often, ms; those that are not, at each look. */
export const lookAgainMs = 30_000;

/** The upstream files of one commit, below the models path. */
const filesPattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,190}\/[0-9a-f]{40}$/;

/** What a look found: nothing, or which file it is; whoever writes it anew makes another. */
export type Look = 'missing' | { identity: string };

/** `sinceMs` by the agent's clock. */
export type Lost = Pick<NonNullable<GpuOccupant['lostFiles']>, 'path' | 'state' | 'message'> & {
  sinceMs: number;
  /** Of a damaged one: which file that was. */
  identity: string | null;
};

/** The folders that a pod loads, below the models path, the upstream files first; a pod of an earlier release names its form alone. */
export function filesOf(pod: PodObject): { podUid: string; paths: string[] } | null {
  const fact = podFact(pod);
  if (!fact || fact.deleting) return null;
  const notes = pod.metadata.annotations ?? {};
  const form = parseWeights(notes[annotations.weights] ?? '');
  const files = notes[annotations.files] ?? (form ? `${form.model}/${form.commit}` : '');
  const paths = [...(filesPattern.test(files) ? [files] : []), ...(form ? [form.weights] : [])];
  return paths.length > 0 ? { podUid: fact.podUid, paths } : null;
}

/** What is lost of one folder after a look at it; undefined: nothing. */
export function afterLook(
  before: Lost | undefined,
  seen: { path: string; look: Look; nowMs: number },
): Lost | undefined {
  const { path, look, nowMs } = seen;
  if (look !== 'missing') {
    // Another file than the damaged one was written in its place.
    return before?.state === 'Damaged' && before.identity === look.identity ? before : undefined;
  }
  if (before?.state === 'Missing') return before;
  const message = `${path} is not on this node's disk (storage.modelsPath)`;
  return { path, state: 'Missing', message, sinceMs: nowMs, identity: null };
}

/** Longest message that the resource takes, characters. */
const messageCharactersMax = 1024;

/** Occupants as GPU.status has them, with what each pod has lost. @param wallClock monotonic ms as wall clock, RFC 3339 */
export function withLostFiles(
  occupants: Readonly<Record<string, readonly GpuOccupant[]>>,
  lostBy: (podUid: string) => Lost | null,
  wallClock: (monotonicMs: number) => string,
): Record<string, GpuOccupant[]> {
  const told = (occupant: GpuOccupant): GpuOccupant => {
    const lost = lostBy(occupant.podUid);
    if (!lost) return occupant;
    const { path, state, message, sinceMs } = lost;
    const since = wallClock(sinceMs);
    return {
      ...occupant,
      lostFiles: { path, state, since, message: message.slice(0, messageCharactersMax) },
    };
  };
  return Object.fromEntries(Object.entries(occupants).map(([uuid, list]) => [uuid, list.map(told)]));
}
