/** The pool's folders in the agent's hands: made, listed, tended, emptied. What fails is said and costs its own work alone. */
import { errorText, type Log } from '#platform/log.ts';
import {
  adoptImage,
  announce,
  clearLeftovers,
  makePool,
  makeStaged,
  openPodFolder,
  removeDamaged,
  removeImages,
  removePodFolder,
  removeStaged,
  stagedFolder,
  touch,
} from './act/staging/pool-folder.ts';
import { abandonStaged } from './act/staging/stage.ts';
import { type Adoption, adoptions, type Damaged, damaged, goneFolders } from './decide/staging/images.ts';
import type { Eviction, PoolListing, ToStage } from './decide/staging/words.ts';
import type { PoolMetrics } from './metrics/pool.ts';
import { createPoolListing } from './observe/pool/pool-listing.ts';

/** Times of use are written this often, ms. */
const touchMs = 60_000;

export interface PoolParts {
  poolDir: string;
  /** Of a pod: it may be alive. */
  alive(podUid: string): boolean;
  /** Nothing is being freed any more. */
  onFreed(): void;
  metrics: PoolMetrics;
  log: Log;
  nowMs(): number;
}

export interface Pool {
  /** @returns null while there is no pool to be had */
  list(): PoolListing | null;
  /** Opens pods' folders to their pods, removes what they found damaged, links their finished images. @returns whether the pool is another now */
  tend(listing: PoolListing, engineHashOf: (podUid: string) => string | null): boolean;
  /** Removes folders of pods that have ended; only once the API server has listed pods. @returns as `tend` */
  sweep(listing: PoolListing): boolean;
  /** Out of sight when this returns, free later. */
  evict(eviction: Eviction): void;
  /** Bytes that were evicted and are not free yet; null when there are none. */
  freeingBytes(): number | null;
  /** A loader that finds a place waits for its bytes. */
  prepare(what: ToStage): void;
  /** Loaders that wait for these go on waiting. */
  announce(keys: readonly string[]): void;
  /** A loader that waits goes on to the disk. */
  abandon(what: { key: string; filledBytes: number }): void;
  /** Now and then, so that times of use outlive the agent. */
  used(what: { keys: Set<string>; engineHashes: Set<string> }): void;
  openPodFolder(podUid: string): void;
}

export function createPool({ poolDir, alive, onFreed, metrics, log, nowMs }: PoolParts): Pool {
  const listing = createPoolListing(poolDir, nowMs);
  /** Pods' finished images: '' when it is linked or is none for good, else why it could not be linked yet. */
  const looked = new Map<string, string>();
  /** Why the pool cannot be used; '' when it can, null before the first try. */
  let trouble: string | null = null;
  let touchedAtMs = Number.NEGATIVE_INFINITY;

  const guarded = (what: string, work: () => void): boolean => {
    try {
      work();
      return true;
    } catch (error) {
      log.warn(`${what} failed`, { pool: poolDir, error: errorText(error) });
      return false;
    }
  };

  let removals = 0;
  let freeing = 0;
  /** What is staged next waits for it. @returns false when it stays */
  const free = (what: string, bytes: number, remove: () => Promise<void>): boolean =>
    guarded(what, () => {
      const removal = remove();
      removals += 1;
      freeing += bytes;
      void removal
        .catch((error: unknown) => log.warn(`${what} failed`, { pool: poolDir, error: errorText(error) }))
        .finally(() => {
          removals -= 1;
          freeing -= bytes;
          if (removals === 0) onFreed();
        });
    });

  /** In nobody's way, and as long as it takes: a pod may have left millions of files. */
  const removePods = (remove: () => Promise<void>): boolean =>
    guarded('removing a folder of the pool', () => {
      void remove().catch((error: unknown) =>
        log.warn('a removed folder of the pool takes room until the agent starts anew', {
          pool: poolDir,
          error: errorText(error),
        }),
      );
    });

  const usable = (): boolean => {
    if (trouble === '') return true;
    try {
      makePool(poolDir);
      trouble = '';
      free('clearing the pool', 0, () => clearLeftovers(poolDir, 'staged'));
      free('clearing the pool', 0, () => clearLeftovers(poolDir, 'images'));
      removePods(() => clearLeftovers(poolDir, 'pods'));
    } catch (error) {
      const text = errorText(error);
      if (text !== trouble)
        log.warn('nothing is staged: the pool cannot be made', { pool: poolDir, error: text });
      trouble = text;
    }
    return trouble === '';
  };

  /** What a pod calls an image costs a look and a line at most as often as it lies there: names that went are forgotten. */
  const forget = (found: PoolListing): void => {
    if (looked.size === 0) return;
    const there = new Set(found.pods.flatMap((pod) => pod.files.map(({ name }) => `${pod.podUid}/${name}`)));
    for (const key of looked.keys()) if (!there.has(key)) looked.delete(key);
  };

  /** Its name is free again: whose image of that name came second is looked at once more. */
  const discard = (image: Damaged): boolean => {
    const { podUid, engineHash, name } = image;
    for (const key of looked.keys()) if (key.endsWith(`/${name}`)) looked.delete(key);
    let names = 0;
    free('removing a damaged image', 0, async () => {
      const removal = removeDamaged(poolDir, image);
      names = removal.names;
      await removal.freed;
    });
    if (names > 0)
      log.warn('an image that an engine found damaged is removed: the next one of its name is linked', {
        podUid,
        engineHash,
        image: name,
      });
    return names > 0;
  };

  const adopt = (adoption: Adoption): boolean => {
    const { podUid, engineHash, name, bytes } = adoption;
    const key = `${podUid}/${name}`;
    const before = looked.get(key);
    if (before === '') return false;
    let trouble = '';
    try {
      const outcome = adoptImage(poolDir, adoption);
      looked.set(key, '');
      if (outcome.type === 'linked') {
        metrics.adopted();
        log.info('an image is there for all engines of its hash', { podUid, engineHash, image: name, bytes });
        return true;
      }
      if (outcome.type === 'none') trouble = outcome.fault;
    } catch (error) {
      // It may be linked at a later look: then without a word for each.
      trouble = errorText(error);
      looked.set(key, trouble);
    }
    if (trouble !== '' && trouble !== before)
      log.warn('an image is not linked', { podUid, image: name, error: trouble });
    return false;
  };

  return {
    list: () => (usable() ? listing() : null),
    tend(found, engineHashOf) {
      for (const { podUid } of found.pods) if (alive(podUid)) openPodFolder(poolDir, podUid);
      forget(found);
      const discarded = damaged(found, engineHashOf).filter(discard).length > 0;
      return adoptions(found, engineHashOf).filter(adopt).length > 0 || discarded;
    },
    sweep(found) {
      const gone = goneFolders(found, nowMs(), alive);
      for (const podUid of gone) {
        if (removePods(() => removePodFolder(poolDir, podUid)))
          log.info('removed the image folder of a pod that ended', { podUid });
      }
      return gone.length > 0;
    },
    evict(eviction) {
      const { kind, bytes, because } = eviction;
      const gone = free('an eviction', bytes, () =>
        eviction.kind === 'staged'
          ? removeStaged(poolDir, eviction.key)
          : removeImages(poolDir, eviction.engineHash),
      );
      if (!gone) return;
      metrics.evicted(eviction);
      const what = eviction.kind === 'staged' ? eviction.key : eviction.engineHash;
      log.info('evicted from the pool', { kind, what, bytes, because });
    },
    freeingBytes: () => (removals > 0 ? freeing : null),
    prepare: ({ key, bytes }) =>
      void guarded('making a place in the pool', () => makeStaged(poolDir, key, bytes)),
    announce: (keys) => announce(poolDir, keys),
    abandon: ({ key, filledBytes }) =>
      void free('an eviction', filledBytes, () => abandonStaged(stagedFolder(poolDir, key))),
    used(what) {
      if (nowMs() - touchedAtMs < touchMs) return;
      touchedAtMs = nowMs();
      touch(poolDir, what);
    },
    openPodFolder: (podUid) => void openPodFolder(poolDir, podUid),
  };
}
