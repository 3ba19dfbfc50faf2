/** The pods that load the gthread form, and how far each one's engine is, by what its launcher said. */
import type { ArbiterEvent } from './decide/arbiter/words.ts';
import type { Untimed } from './decide/launcher-line.ts';
import type { PodObject } from './decide/resource-facts.ts';
import { type PodNotes, podNotes } from './decide/staging/pod-notes.ts';
import type { BootPhase, StagingPod } from './decide/staging/words.ts';

export interface StagingPods {
  /** What the API server lists, whole. */
  listed(objects: readonly PodObject[]): void;
  /** @returns whether a pod is further than it was */
  heard(event: Untimed<ArbiterEvent>): boolean;
  /** A grant is about to go to its launcher. @returns as `heard` */
  granted(podUid: string): boolean;
  /** null until the API server has listed them. */
  pods(): StagingPod[] | null;
}

/** What an event says of how far an engine is; null: nothing. */
function phaseOf(event: Untimed<ArbiterEvent>): BootPhase | null {
  switch (event.type) {
    case 'asked':
    case 'exited':
      return 'waits';
    case 'holding':
      return event.ready ? 'runs' : 'boots';
    case 'started':
      return 'boots';
    case 'ready':
      return 'runs';
    default:
      return null;
  }
}

/** @param alive pods that nobody knows any more are forgotten */
export function createStagingPods(nowMs: () => number, alive: (podUid: string) => boolean): StagingPods {
  const phases = new Map<string, { phase: BootPhase; sinceMs: number }>();
  let notes: PodNotes[] | null = null;

  const set = (podUid: string, phase: BootPhase): boolean => {
    if (phases.get(podUid)?.phase === phase) return false;
    phases.set(podUid, { phase, sinceMs: nowMs() });
    return true;
  };
  const phase = (podUid: string) => {
    const known = phases.get(podUid) ?? { phase: 'listed' as const, sinceMs: nowMs() };
    phases.set(podUid, known);
    return known;
  };

  return {
    listed(objects) {
      notes = objects.flatMap((object) => podNotes(object) ?? []);
      for (const podUid of phases.keys())
        if (!alive(podUid) && !notes.some((note) => note.podUid === podUid)) phases.delete(podUid);
    },
    heard(event) {
      const next = phaseOf(event);
      return next !== null && 'podUid' in event && set(event.podUid, next);
    },
    granted: (podUid) => set(podUid, 'boots'),
    pods: () => notes?.map((note) => ({ ...note, ...phase(note.podUid) })) ?? null,
  };
}
