/**
 * Which boots have room in host memory for the image that their engine is about to write, and what makes way for one. An
 * engine without room for it could not sleep, so a boot waits for room; it holds none while it waits.
 */
import { formatGiB } from '#platform/quantity.ts';
import {
  headRoomBytes,
  isImaged,
  lackingBytes,
  promisedBytes,
  type Room,
  roomOf,
  usedBytes,
} from './room.ts';
import { cheapest, type Victim, victims } from './victims.ts';
import { parseWeights } from './weights-name.ts';
import { wishesOf } from './wishes.ts';
import type {
  BootRoom,
  Eviction,
  HostMemory,
  ImageEntry,
  StagedEntry,
  StagingFacts,
  StagingPod,
} from './words.ts';

/** What a boot finds. */
interface Found {
  room: Room;
  /** At most, once all has gone that may go for it. */
  freeBytes: number;
  /** Images that stay, and what pods are writing. */
  imageBytes: number;
  /** The pod that this one replaces, and its image, which goes with it. */
  replaced: { name: string; bytes: number } | null;
  /** Weights in the pool that stay: others boot from them, or pinned them. */
  keptBytes: number;
}

const weightsOf = ({ weights }: StagingPod): string | undefined => parseWeights(weights)?.key;

/** Weights of which others depend: what only this pod wishes makes way for its image, for which the disk will do. */
function keptFor(facts: StagingFacts, pods: readonly StagingPod[], pod: StagingPod): StagedEntry[] {
  const others = wishesOf(
    pods.filter((other) => other !== pod),
    facts.pool.images,
  );
  return facts.pool.staged.filter(({ key }) =>
    others.some((wish) => wish.key === key && (wish.rank === 0 || wish.pinned)),
  );
}

function replacedBy(
  pods: readonly StagingPod[],
  images: readonly ImageEntry[],
  pod: StagingPod,
): Found['replaced'] {
  const old = pods.find((other) => other !== pod && other.replica === pod.replica);
  const image = images.find(({ engineHash }) => engineHash === old?.engineHash);
  return old && image ? { name: old.name, bytes: image.bytes } : null;
}

const sum = <T>(all: readonly T[], bytes: (one: T) => number): number =>
  all.reduce((total, one) => total + bytes(one), 0);

/** Of the engines that have their grant, ready or not: what a boot could not write, the first sleep writes. */
const promisedTo = ({ pods, pool, forms }: StagingFacts): number =>
  promisedBytes(pods ?? [], pool, forms, ['boots', 'runs']);

function find(facts: StagingFacts, host: HostMemory, pods: readonly StagingPod[], pod: StagingPod): Found {
  const { pool, boundBytes } = facts;
  // Images are the pods' own: the agent's limit does not bound them.
  const room = roomOf(pool, { ...host, ownBytes: null }, { boundBytes, promisedBytes: promisedTo(facts) });
  const kept = keptFor(facts, pods, pod);
  const unused = pool.images.filter(({ engineHash }) =>
    pods.every((other) => other.engineHash !== engineHash),
  );
  const unusedBytes = sum(unused, ({ bytes }) => bytes);
  const goingBytes =
    unusedBytes + sum(pool.staged, (entry) => (kept.includes(entry) ? 0 : entry.filledBytes));
  const { image, writing } = usedBytes(pool);
  // What is under way for others takes its whole length.
  const comingBytes = sum(kept, (entry) =>
    entry.state === 'under way' ? Math.max(0, entry.bytes - entry.filledBytes) : 0,
  );
  return {
    room,
    freeBytes: room.freeBytes + goingBytes - comingBytes,
    imageBytes: image + writing - unusedBytes,
    replaced: replacedBy(pods, pool.images, pod),
    keptBytes: sum(kept, (entry) => entry.filledBytes) + comingBytes,
  };
}

function heldText(pod: StagingPod, needBytes: number, found: Found, host: HostMemory): string {
  const { room, imageBytes, keptBytes, freeBytes } = found;
  const needs = `${pod.weights} needs ${formatGiB(needBytes)} of host memory for its image`;
  const bound = formatGiB(room.boundBytes);
  if (needBytes > room.boundBytes) {
    return `${needs}, which is more than the pool may hold, ${bound}: it never fits until storage.pinnedMemoryMB is raised. Its boot waits`;
  }
  if (room.limit === 'host') {
    // Without what is available now: that moves all the time, and this text is kept in the API server.
    return `${needs}; the node has ${formatGiB(host.totalBytes)} of memory, of which ${formatGiB(headRoomBytes(host.totalBytes))} are left free, and too little is available: stop something there, or add some. Its boot waits`;
  }
  const { replaced } = found;
  const orElse = replaced
    ? `delete the pod that it replaces, ${replaced.name}, which has ${formatGiB(replaced.bytes)}`
    : 'delete what has its image here';
  const figures = `${needs}, at most ${formatGiB(Math.max(0, freeBytes))} can be free beside ${formatGiB(imageBytes)} of images, ${formatGiB(room.promisedBytes)} of images to come and ${formatGiB(keptBytes)} of weights that stay`;
  const remedy =
    room.limit === 'tmpfs'
      ? 'the tmpfs that holds the pool is full: mount /dev/shm with a larger size='
      : `the pool is bound to ${bound}: raise storage.pinnedMemoryMB, or ${orElse}`;
  return `${figures}; ${remedy}. Its boot waits`;
}

/** Null: it needs none, or nobody can say how much (its files are missing or broken, which it will say itself). */
function needOf({ pool, forms }: StagingFacts, pod: StagingPod): number | 'unknown' | null {
  if (pod.deleting || (pod.phase !== 'waits' && pod.phase !== 'listed')) return null;
  if (isImaged(pod, pool.images)) return null;
  const form = forms.get(pod.weights);
  if (!form) return 'unknown';
  return 'bytes' in form ? lackingBytes(pod, pool, form.bytes) : null;
}

/** Of all pods that are to boot yet and need an image. Each is judged as if it were the next one. */
export function bootRooms(facts: StagingFacts): BootRoom[] {
  const { pods, host } = facts;
  if (!pods || !host) return [];
  return pods.flatMap((pod): BootRoom[] => {
    const { podUid } = pod;
    const needBytes = needOf(facts, pod);
    if (needBytes === null) return [];
    if (needBytes === 'unknown') {
      const message = `the size of ${pod.weights} is not known yet: its boot waits for a look at the disk`;
      return [{ podUid, needBytes: 0, freeBytes: 0, held: { reason: 'SizeUnknown', message } }];
    }
    const found = find(facts, host, pods, pod);
    const { freeBytes } = found;
    if (needBytes <= freeBytes) return [{ podUid, needBytes, freeBytes, held: null }];
    const message = heldText(pod, needBytes, found, host);
    return [{ podUid, needBytes, freeBytes, held: { reason: 'NoRoomForImage', message } }];
  });
}

/**
 * What has to go before the grant of this pod does. Its own weights go last, and only before its loader has looked at them; what
 * is being staged is no part of it: the plan stops that where it lacks room.
 */
export function makesWay(facts: StagingFacts, podUid: string): Eviction[] {
  const { pods, host, pool, running } = facts;
  const pod = pods?.find((each) => each.podUid === podUid);
  if (!pods || !host || !pod) return [];
  const needBytes = needOf(facts, pod);
  if (typeof needBytes !== 'number') return [];
  const { room } = find(facts, host, pods, pod);
  const kept = keptFor(facts, pods, pod);
  const stopping = pool.staged.find((entry) => entry.key === running && !kept.includes(entry));
  const lacks = needBytes - room.freeBytes - (stopping?.filledBytes ?? 0);
  if (lacks <= 0) return [];
  const own = pool.staged.find(({ key }) => key === weightsOf(pod));
  const others = victims(facts, wishesOf(pods, pool.images), null).filter(
    ({ eviction }) => eviction.kind !== 'staged' || eviction.key !== own?.key,
  );
  const isOwnToGive = own && own !== stopping && !kept.includes(own);
  const all = isOwnToGive ? [...others, ownVictim(own)] : others;
  return (cheapest(others, lacks) ?? cheapest(all, lacks) ?? all).map(({ eviction }) => eviction);
}

const ownVictim = ({ key, filledBytes: bytes }: StagedEntry): Victim => ({
  eviction: {
    kind: 'staged',
    key,
    bytes,
    because: 'its image needs the room: the engine reads the weights from disk',
  },
  cost: Number.MAX_VALUE,
});
