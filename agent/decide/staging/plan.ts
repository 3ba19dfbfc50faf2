/**
 * What to stage next, what to evict for it, and what is left to be read from disk. From facts alone, again after every change:
 * an agent that was killed goes on where the pool is.
 */
import { formatGiB } from '#platform/quantity.ts';
import { bootRooms } from './boots.ts';
import { isImaged, promisedBytes, type Room, roomOf, usedBytes } from './room.ts';
import { cheapest, victims } from './victims.ts';
import { type Wish, wishesOf } from './wishes.ts';
import type { Eviction, Refusal, StagingFacts, StagingPlan, StagingPod, ToStage } from './words.ts';

/** A staging that failed is tried again after this, ms: the files may have been written anew. */
export const retryMs = 10 * 60_000;

const limitText: Record<Room['limit'], (room: Room) => string> = {
  pool: ({ boundBytes }) =>
    `the pool is bound to ${formatGiB(boundBytes)} (storage.pinnedMemoryMB): raise it, or pin less`,
  host: () => 'the node has no more memory: stop something there, or add some',
  tmpfs: () => 'the tmpfs that holds the pool is full: mount /dev/shm with a larger size=',
  agent: () =>
    "the agent's own memory limit (agent.resources.limits.memory) would be passed: raise or remove it",
};

function noRoom(wish: Wish, bytes: number, room: Room): Refusal {
  const { weights, podUids } = wish;
  const images = room.promisedBytes > 0 ? ` and ${formatGiB(room.promisedBytes)} for images to come` : '';
  const own = imageToCome(wish, bytes) > 0 ? ' with its image' : '';
  return {
    weights,
    podUids,
    reason: 'NoRoomToStage',
    message: `${weights} needs ${formatGiB(bytes)} of host memory${own}, ${formatGiB(Math.max(0, room.freeBytes))} are free beside ${formatGiB(room.usedBytes)} in the pool${images}; ${limitText[room.limit](room)}. Its engine reads it from disk`,
  };
}

const missing = ({ weights, podUids }: Wish): Refusal => ({
  weights,
  podUids,
  reason: 'WeightsMissing',
  message: `${weights} is not on this node's disk (storage.modelsPath): its Job is begun again and writes it anew; it is staged then`,
});

/** Failed entries are no use once no engine boots that may be looking at them. */
function leftovers(facts: StagingFacts, wishes: readonly Wish[]): Eviction[] {
  if (!facts.pods) return [];
  return facts.pool.staged.flatMap(({ key, state, filledBytes }): Eviction[] => {
    if (state !== 'failed' || key === facts.running) return [];
    if (wishes.some((wish) => wish.key === key && (wish.rank === 0 || recent(facts, key)))) return [];
    return [{ kind: 'staged', key, bytes: filledBytes, because: 'its staging failed' }];
  });
}

const recent = (facts: StagingFacts, key: string): boolean =>
  facts.failures.some((failure) => failure.key === key && facts.nowMs - failure.atMs < retryMs);

/** Beyond the bound with the images that boots are about to write, or the node short of memory: what costs least goes. */
function underPressure(facts: StagingFacts, wishes: readonly Wish[], room: Room): Eviction[] {
  const excess = -room.freeBytes;
  if (excess <= 0) return [];
  const candidates = victims(facts, wishes, null);
  const chosen = cheapest(candidates, excess) ?? candidates;
  return chosen.map(({ eviction }) => eviction);
}

/** All wishes in their order, each against what the earlier ones left. */
function walk(facts: StagingFacts, wishes: readonly Wish[], room: Room, plan: StagingPlan): void {
  let { freeBytes } = room;
  let chosen: string | null = null;
  for (const wish of wishes) {
    const step = consider(facts, wishes, wish, { ...room, freeBytes });
    if (step.refused) refuse(facts, plan, wish, step);
    if (!step.take) continue;
    freeBytes += freed(step.evict) - step.take.lacking;
    // Of what is under way its bytes tell.
    if (wish.rank === 0 && step.begun && wish.key !== facts.running) plan.coming.push(wish.key);
    if (chosen === null) choose(facts, plan, step, step.take.what);
    else if (wish.rank === 0 && !step.begun && step.evict.length === 0) plan.prepare.push(step.take.what);
    chosen ??= wish.key;
  }
  plan.stop = facts.running !== null && facts.running !== chosen;
}

/** One is staged at a time, in order: two would share the disk and both come late. */
function choose(facts: StagingFacts, plan: StagingPlan, step: Step, what: ToStage): void {
  plan.evict.push(...step.evict);
  if (facts.running === null) plan.stage = what;
  // Another one is under way and stops first; this one's loader is to wait.
  else if (!step.begun) plan.prepare.push(what);
}

function refuse(facts: StagingFacts, plan: StagingPlan, wish: Wish, step: Step): void {
  plan.refused.push(step.refused!);
  // A failed one keeps no loader waiting: once is enough.
  const entry = facts.pool.staged.find(({ key }) => key === wish.key);
  if (entry?.state === 'under way' && wish.key !== facts.running) plan.abandon.push(wish.key);
}

const freed = (evictions: readonly Eviction[]): number =>
  evictions.reduce((sum, { bytes }) => sum + bytes, 0);

/** The ledger; null while memory or pods are not known. */
function ledger({ pods, host, pool, forms, boundBytes }: StagingFacts): Room | null {
  if (!pods || !host) return null;
  return roomOf(pool, host, { boundBytes, promisedBytes: promisedBytes(pods, pool, forms) });
}

export function planStaging(facts: StagingFacts): StagingPlan {
  const plan: StagingPlan = {
    stop: false,
    evict: [],
    stage: null,
    prepare: [],
    coming: [],
    abandon: [],
    refused: [],
    boots: [],
  };
  const room = ledger(facts);
  if (!room) return plan;
  const wishes = wishesOf(facts.pods ?? [], facts.pool.images);
  plan.evict.push(...leftovers(facts, wishes));
  walk(facts, wishes, room, plan);
  if (plan.evict.length === 0) plan.evict.push(...underPressure(facts, wishes, room));
  plan.boots = bootRooms(facts);
  return plan;
}

/** What is to be said: pods that wait for room for their image read nothing yet, and are told so once they have asked. */
export function refusalsToTell({ refused, boots }: StagingPlan, pods: readonly StagingPod[]): Refusal[] {
  const held = new Set(boots.flatMap((boot) => (boot.held === null ? [] : [boot.podUid])));
  const ofStaging = refused.flatMap((refusal) => {
    const podUids = refusal.podUids.filter((podUid) => !held.has(podUid));
    return podUids.length > 0 ? [{ ...refusal, podUids }] : [];
  });
  const ofBoots = boots.flatMap(({ podUid, held: why }): Refusal[] => {
    const pod = pods.find((each) => each.podUid === podUid);
    if (why?.reason !== 'NoRoomForImage' || pod?.phase !== 'waits') return [];
    return [{ weights: pod.weights, podUids: [podUid], reason: why.reason, message: why.message }];
  });
  return [...ofStaging, ...ofBoots];
}

interface Step {
  /** It is to be staged, and needs `lacking` bytes for that; null: not now. */
  take: { what: ToStage; lacking: number } | null;
  evict: Eviction[];
  refused: Refusal | null;
  /** It has a place in the pool. */
  begun: boolean;
}

/** Whether a wish can be fulfilled, and at what price. */
function consider(facts: StagingFacts, wishes: readonly Wish[], wish: Wish, room: Room): Step {
  const { weights, key, podUids } = wish;
  const form = facts.forms.get(weights);
  const entry = facts.pool.staged.find((staged) => staged.key === key);
  const step: Step = { take: null, evict: [], refused: null, begun: entry !== undefined };
  if (entry?.state === 'whole') return step;
  // Said also where the last staging failed: there is more to do than to wait for the next.
  if (form && 'missing' in form) return { ...step, refused: missing(wish) };
  if (!form || entry?.state === 'failed' || recent(facts, key)) return step;
  if ('fault' in form) {
    return { ...step, refused: { weights, podUids, reason: 'WeightsUnusable', message: form.fault } };
  }
  const lacking = form.bytes - (entry?.filledBytes ?? 0) + imageToCome(wish, form.bytes);
  const take = { what: { weights, key, bytes: form.bytes, podUids }, lacking };
  if (lacking <= room.freeBytes) return { ...step, take };
  // Never its own entry: what is wished as urgently stays.
  const candidates = victims(facts, wishes, wish.rank);
  const chosen = cheapest(candidates, lacking - room.freeBytes);
  if (chosen) return { ...step, take, evict: chosen.map(({ eviction }) => eviction) };
  return { ...step, refused: noRoom(wish, lacking, room) };
}

/** Of an engine that is to boot yet: what is begun now is not to make way for it then. Those that boot are in the ledger. */
const imageToCome = ({ rank }: Wish, bytes: number): number => (rank === 1 || rank === 3 ? bytes : 0);

/** Keys that pods of this node use now: their time of use is now. */
export function inUse(facts: StagingFacts): { keys: Set<string>; engineHashes: Set<string> } {
  const pods = facts.pods ?? [];
  return {
    keys: new Set(wishesOf(pods, facts.pool.images).flatMap(({ key, rank }) => (rank === 0 ? [key] : []))),
    engineHashes: new Set(
      pods.flatMap((pod) => (pod.engineHash && isImaged(pod, facts.pool.images) ? [pod.engineHash] : [])),
    ),
  };
}

/** What metrics show, bytes. */
export function figuresOf(
  facts: StagingFacts,
): Record<'staged' | 'image' | 'writing' | 'promised' | 'bound', number> {
  const room = ledger(facts);
  const bound = room?.boundBytes ?? facts.boundBytes ?? 0;
  return { ...usedBytes(facts.pool), promised: room?.promisedBytes ?? 0, bound };
}
