/** What a plan wants done to the cluster. Each is idempotent: a second time changes nothing. */
import type { WatchedKind } from './snapshot.ts';

/** An Event to write once the effect it comes with has succeeded: so a transition is told once. */
export interface Announcement {
  type: 'Normal' | 'Warning';
  reason: string;
  message: string;
  regarding: { apiVersion: string; kind: string; name: string; namespace?: string; uid: string };
}

interface Common {
  /** The cache that takes the answer, so that the next plan reads this write. */
  kind: WatchedKind;
  path: string;
  /** Why, for the log. */
  because: string;
  announce?: Announcement[];
}

export type Effect = Common &
  (
    | { type: 'create'; object: object }
    /** Server-side apply; `path` may end in /status. */
    | { type: 'apply'; object: object }
    /** JSON merge patch. */
    | { type: 'patch'; patch: object }
    | { type: 'delete'; uid: string; graceSeconds?: number }
  );

type Named = { metadata?: { name?: string; namespace?: string } };
const nameOf = (object: object): string => (object as Named).metadata?.name ?? '';

/** What is under way or waits for its retry is known by this. */
export const effectKey = (effect: Effect): string =>
  effect.type === 'create'
    ? `create ${effect.path}/${nameOf(effect.object)}`
    : `${effect.type} ${effect.path}`;

/** Key in the cache of the object that an apply changes; null for other effects. */
export function appliedKey(effect: Effect): string | null {
  if (effect.type !== 'apply') return null;
  const { namespace, name = '' } = (effect.object as Named).metadata ?? {};
  return namespace ? `${namespace}/${name}` : name;
}
