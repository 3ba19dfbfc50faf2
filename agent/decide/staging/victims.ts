/** What leaves the pool when room is wanted: the set of least cost. */
import { parseWeights } from './weights-name.ts';
import type { Wish, WishRank } from './wishes.ts';
import type { Eviction, StagingFacts, StagingPod } from './words.ts';

/** Until a staging was measured: one NVMe disk's worth, bytes a second. */
const bytesPerSecondGuess = 1e9;
/** An image costs a load and the post-processing of its tensors, where staged weights cost a read. */
const imageFactor = 2;
/** Weights are seldom asked for again while all who use them have their images. */
const redundantFactor = 0.1;
const minuteMs = 60_000;

export interface Victim {
  eviction: Eviction;
  /** Seconds that the eviction is likely to cost. */
  cost: number;
}

/** Chance that something unused for so long is used soon: halves in the first minute, then falls as 1/t. */
const chance = (idleMs: number): number => 1 / (1 + Math.max(0, idleMs) / minuteMs);

const minutes = (ms: number): string => `${Math.max(0, Math.round(ms / minuteMs))} min`;

type Pods = readonly StagingPod[];

/** @param below entries wished as urgently as this or more stay; null: all but those that boots read and pinned ones may go */
function stagedVictims(
  facts: StagingFacts,
  pods: Pods,
  wishes: readonly Wish[],
  below: WishRank | null,
): Victim[] {
  const speed = facts.bytesPerSecond ?? bytesPerSecondGuess;
  return facts.pool.staged.flatMap((entry) => {
    if (entry.key === facts.running) return [];
    const wish = wishes.find(({ key }) => key === entry.key);
    // A booting engine may be reading it, also when it failed: it says so.
    if (wish && (wish.rank === 0 || wish.pinned || (below !== null && wish.rank <= below))) return [];
    const users = pods.filter((pod) => parseWeights(pod.weights)?.key === entry.key);
    const idleMs = facts.nowMs - entry.usedAtMs;
    const again = entry.filledBytes / speed;
    let cost = again * chance(idleMs);
    let because = `no pod of this node uses it, unused for ${minutes(idleMs)}`;
    if (wish) {
      cost = again;
      because = 'more urgent weights need its room, and its pod does not boot yet';
    } else if (users.length > 0) {
      cost *= redundantFactor;
      because = 'the engines that use it have it in memory or as an image';
    }
    const { key, filledBytes: bytes } = entry;
    return [{ eviction: { kind: 'staged', key, bytes, because } as const, cost }];
  });
}

/** Images that no pod alive may map. */
function imageVictims(facts: StagingFacts, pods: Pods): Victim[] {
  const speed = facts.bytesPerSecond ?? bytesPerSecondGuess;
  return facts.pool.images.flatMap(({ engineHash, bytes, usedAtMs }) => {
    if (pods.some((pod) => pod.engineHash === engineHash)) return [];
    const idleMs = facts.nowMs - usedAtMs;
    const because = `no pod of this node has such an engine, unused for ${minutes(idleMs)}`;
    const cost = ((bytes * imageFactor) / speed) * chance(idleMs);
    return [{ eviction: { kind: 'image', engineHash, bytes, because } as const, cost }];
  });
}

/**
 * The cheapest set that frees enough: by cost for each byte, then without those that turn out not to be needed, the
 * dearest first.
 * @returns null when all of them are not enough
 */
export function cheapest(victims: readonly Victim[], bytes: number): Victim[] | null {
  if (bytes <= 0) return [];
  const perByte = ({ cost, eviction }: Victim): number => cost / Math.max(1, eviction.bytes);
  const chosen: Victim[] = [];
  let freed = 0;
  for (const victim of [...victims].sort((a, b) => perByte(a) - perByte(b))) {
    if (freed >= bytes) break;
    chosen.push(victim);
    freed += victim.eviction.bytes;
  }
  if (freed < bytes) return null;
  for (const victim of [...chosen].sort((a, b) => b.cost - a.cost)) {
    if (freed - victim.eviction.bytes < bytes) continue;
    freed -= victim.eviction.bytes;
    chosen.splice(chosen.indexOf(victim), 1);
  }
  return chosen;
}

/** Everything that may go. @param below see stagedVictims */
export function victims(facts: StagingFacts, wishes: readonly Wish[], below: WishRank | null): Victim[] {
  // Before the API server has spoken every image and every staged file may be somebody's.
  if (!facts.pods) return [];
  return [...stagedVictims(facts, facts.pods, wishes, below), ...imageVictims(facts, facts.pods)];
}
