/**
 * What agents say of files that a finished Job brought and that their node's disk does not hold any more, and when the Job is
 * begun again for it. Nothing is remembered: the agent's word tells since when, the Job when it ended.
 */
import type { GpuOccupant } from '#api/gpu.ts';
import { modelFolder, paths } from '#proto/names.ts';
import type { ClusterView } from './cluster-view.ts';
import type { FetchFault, FetchResult } from './fetch-words.ts';

/**
 * A Job begins again this long after its end, ms: for files that were lost since then soon; for such as a Job has not brought back
 * after as long as they were lost by then, within these bounds. So an agent that sees another disk than the Job does makes few.
 */
export const redoAfterMs = { anew: 60_000, least: 10 * 60_000, most: 24 * 3_600_000 } as const;

export type LostFiles = NonNullable<GpuOccupant['lostFiles']>;

/** What pods on a node have lost; nothing from an agent that is silent, since it could not say that all is well again. */
export function lostOn(view: ClusterView, node: string): LostFiles[] {
  if (view.silentNodes.has(node) || view.deadNodes.has(node)) return [];
  return (view.byNode.get(node) ?? []).flatMap(({ object }) =>
    (object.status?.occupants ?? []).flatMap(({ lostFiles }) => lostFiles ?? []),
  );
}

/** Of one model, whichever commit and form. */
export const ofModel = (lost: readonly LostFiles[], modelName: string): LostFiles[] =>
  lost.filter(({ path }) => path.startsWith(`${modelFolder(modelName)}/`));

const below = (path: string): string => path.slice(paths.models.length + 1);

export interface LostWord {
  fault: FetchFault;
  /** When the Job is to begin again, ms. */
  redoAtMs: number;
}

/** What is lost of a Job's result; of what several pods say the word that has it begun again first. */
export function lostOf(lost: readonly LostFiles[], result: FetchResult, endedAtMs: number): LostWord | null {
  const form = result.gthread && below(result.gthread.path);
  const words = lost
    .filter(({ path }) => path === below(result.path) || path === form)
    .map(
      ({ path, state, since, message }): LostWord => ({
        fault: { reason: `Files${state}`, message, part: path === form ? 'Converting' : 'Fetching' },
        redoAtMs: endedAtMs + pauseMs(Date.parse(since), endedAtMs),
      }),
    );
  return words.reduce<LostWord | null>(
    (first, word) => (first && first.redoAtMs <= word.redoAtMs ? first : word),
    null,
  );
}

function pauseMs(sinceMs: number, endedAtMs: number): number {
  if (!(sinceMs <= endedAtMs)) return redoAfterMs.anew;
  const { least, most } = redoAfterMs;
  return Math.min(Math.max(endedAtMs - sinceMs, least), most);
}
