/** Which weights are to be in the pool, in which order. */
import { isImaged } from './room.ts';
import { parseWeights } from './weights-name.ts';
import type { BootPhase, ImageEntry, StagingPod } from './words.ts';

/** Why weights are wished, the most urgent first. A boot reads them now; the next ones will soon. */
export type WishRank = 0 | 1 | 2 | 3;
const rankOf: Record<BootPhase, WishRank> = { boots: 0, waits: 1, listed: 3, runs: 3 };
const pinnedRank: WishRank = 2;

export interface Wish {
  weights: string;
  key: string;
  rank: WishRank;
  pinned: boolean;
  /** Since when the most urgent of its pods is as far as it is. */
  sinceMs: number;
  podUids: string[];
}

/**
 * A pod wishes its weights staged until its engine runs; a pinned one for as long as it lives. None does whose image is
 * there: what the engine reads then is the image.
 */
function rankFor(pod: StagingPod, images: readonly ImageEntry[]): WishRank | null {
  if (pod.deleting || isImaged(pod, images)) return null;
  const rank = rankOf[pod.phase];
  if (pod.pinned) return Math.min(rank, pinnedRank) as WishRank;
  return pod.phase === 'runs' ? null : rank;
}

export const compareWishes = (a: Wish, b: Wish): number =>
  a.rank - b.rank || Number(b.pinned) - Number(a.pinned) || a.sinceMs - b.sinceMs || (a.key < b.key ? -1 : 1);

/** One wish for all pods of the same weights: they share one copy. */
export function wishesOf(pods: readonly StagingPod[], images: readonly ImageEntry[]): Wish[] {
  const byKey = new Map<string, Wish>();
  for (const pod of pods) {
    const name = parseWeights(pod.weights);
    const rank = rankFor(pod, images);
    if (!name || rank === null) continue;
    const { key, weights } = name;
    const wish = byKey.get(key);
    if (!wish) {
      const { pinned, sinceMs, podUid } = pod;
      byKey.set(key, { weights, key, rank, pinned, sinceMs, podUids: [podUid] });
      continue;
    }
    wish.podUids.push(pod.podUid);
    wish.pinned ||= pod.pinned;
    if (rank < wish.rank) Object.assign(wish, { rank, sinceMs: pod.sinceMs });
    else if (rank === wish.rank) wish.sinceMs = Math.min(wish.sinceMs, pod.sinceMs);
  }
  return [...byKey.values()].sort(compareWishes);
}
