import { describe, expect, it } from 'vitest';
import { bootRooms, makesWay } from '../../../../agent/decide/staging/boots.ts';
import { planStaging, refusalsToTell } from '../../../../agent/decide/staging/plan.ts';
import { usedBytes } from '../../../../agent/decide/staging/room.ts';
import type {
  ImageEntry,
  StagedEntry,
  StagingFacts,
  StagingPod,
} from '../../../../agent/decide/staging/words.ts';
import { facts, GiB, host, image, key, pod, staged, uid, weights } from './facts.ts';

const runs = (n: number, more: Partial<StagingPod> = {}) => pod(n, { phase: 'runs', ...more });
const boots = (n: number, more: Partial<StagingPod> = {}) => pod(n, { phase: 'boots', ...more });
const room = (given: StagingFacts, n: number) => bootRooms(given).find(({ podUid }) => podUid === uid(n));
const held = (given: StagingFacts, n: number): string | null => room(given, n)?.held?.message ?? null;
const gone = (given: StagingFacts, n: number): string[] =>
  makesWay(given, uid(n)).map((eviction) =>
    eviction.kind === 'staged' ? eviction.key : eviction.engineHash,
  );

describe('a boot has room for its image', () => {
  it.each<[string, Parameters<typeof facts>[0], number, number]>([
    ['in an empty pool', { pods: [pod(1)] }, 10, 40],
    ['beside images of pods that live', { pods: [pod(1), runs(2)], pool: { images: [image(2)] } }, 10, 30],
    ['beside images promised to pods that boot', { pods: [pod(1), boots(2), boots(3)] }, 10, 20],
    ['beside that of a pod that runs and has none yet', { pods: [pod(1), runs(2)] }, 10, 30],
    [
      'beside one for each of two that boot: both may write it',
      { pods: [pod(1), boots(2), boots(3, { engineHash: 'hash2' })] },
      10,
      20,
    ],
    ['beside what a boot reads, whole', { pods: [pod(1), boots(2)], pool: { staged: [staged(2)] } }, 10, 20],
    [
      'beside what is being staged for a boot, as if it were whole',
      { pods: [pod(1), boots(2)], pool: { staged: [staged(2, { filledBytes: GiB, state: 'under way' })] } },
      10,
      20,
    ],
    [
      'beside what is pinned for others',
      { pods: [pod(1), pod(2, { pinned: true, phase: 'listed' })], pool: { staged: [staged(2)] } },
      10,
      30,
    ],
    ['and what it reads itself may go for it', { pods: [pod(1)], pool: { staged: [staged(1)] } }, 10, 40],
    [
      'also where that is pinned',
      { pods: [pod(1, { pinned: true })], pool: { staged: [staged(1)] } },
      10,
      40,
    ],
    [
      'unless another boot reads it',
      { pods: [pod(1), boots(2, { weights: weights(1) })], pool: { staged: [staged(1)] } },
      10,
      20,
    ],
    [
      'where what others wait for, what nobody uses and images of engines that are gone may go',
      { pods: [pod(1), pod(2)], pool: { staged: [staged(2), staged(3)], images: [image(4)] } },
      10,
      40,
    ],
    [
      'less what is there of it',
      {
        pods: [pod(1, { ranks: 2 })],
        pool: {
          images: [image(1, { bytes: 5 * GiB })],
          pods: [{ podUid: uid(1), seenAtMs: 0, files: [{ name: 'x', bytes: 2 * GiB, linked: false }] }],
        },
      },
      3,
      33,
    ],
    ['by what the tmpfs has', { pods: [pod(1)], pool: { freeBytes: 11 * GiB } }, 10, 11],
    ['by what the node has', { pods: [pod(1)], host: { ...host, availableBytes: 30 * GiB } }, 10, 17.5],
    ["and the agent's own limit is none of it", { pods: [pod(1)], host: { ...host, ownBytes: 0 } }, 10, 40],
    ['before it has asked', { pods: [pod(1, { phase: 'listed' })] }, 10, 40],
  ])('%s', (_what, given, needs, free) => {
    expect(room(facts(given), 1)).toEqual({
      podUid: uid(1),
      needBytes: needs * GiB,
      freeBytes: free * GiB,
      held: null,
    });
  });

  it('needs none where it is there, where it has its grant, and where its size cannot be known', () => {
    const pods = [pod(1), boots(2), runs(3), pod(4, { deleting: true }), pod(11)];
    const forms = new Map([...facts().forms, [weights(11), { missing: true as const }]]);
    expect(bootRooms(facts({ pods, forms, pool: { images: [image(1)] } }))).toEqual([]);
    expect(bootRooms(facts({ pods: [pod(1)], forms: new Map([[weights(1), { fault: 'broken' }]]) }))).toEqual(
      [],
    );
    expect(bootRooms(facts({ pods: null }))).toEqual([]);
    expect(bootRooms(facts({ pods: [pod(1)], host: null }))).toEqual([]);
  });
});

describe('a boot without room for its image waits', () => {
  const live = (bound: number) =>
    facts({ boundBytes: bound, pods: [pod(1), runs(2)], pool: { images: [image(2, { bytes: 25 * GiB })] } });

  it('until there is room, to the byte', () => {
    expect(held(live(35 * GiB - 1), 1)).not.toBeNull();
    expect(held(live(35 * GiB), 1)).toBeNull();
  });

  it('and says what it needs, what holds the room, and what to do', () => {
    const given = facts({
      boundBytes: 50 * GiB,
      pods: [pod(1), runs(2), boots(3), pod(4, { pinned: true, phase: 'listed' })],
      pool: { images: [image(2, { bytes: 25 * GiB })], staged: [staged(4)] },
    });
    expect(held(given, 1)).toBe(
      `${weights(1)} needs 10.0 GiB of host memory for its image, at most 5.0 GiB can be free beside 25.0 GiB of images, 10.0 GiB of images to come and 10.0 GiB of weights that stay; the pool is bound to 50.0 GiB: raise storage.pinnedMemoryMB, or delete what has its image here. Its boot waits`,
    );
  });

  it('and names the pod that it replaces, whose image is there until it has booted', () => {
    const old = runs(2, { replica: 'default/m1/0', name: 'm1-0-old' });
    const given = facts({
      boundBytes: 30 * GiB,
      pods: [pod(1), old],
      pool: { images: [image(2, { bytes: 25 * GiB })] },
    });
    expect(held(given, 1)).toMatch(
      /or delete the pod that it replaces, m1-0-old, which has 25\.0 GiB\. Its boot waits$/,
    );
    const without = facts({ boundBytes: 15 * GiB, pods: [pod(1), old, boots(3)] });
    expect(held(without, 1)).toMatch(/or delete what has its image here/);
  });

  it('and says so where it can never fit', () => {
    expect(held(facts({ boundBytes: 9 * GiB, pods: [pod(1)] }), 1)).toBe(
      `${weights(1)} needs 10.0 GiB of host memory for its image, which is more than the pool may hold, 9.0 GiB: it never fits until storage.pinnedMemoryMB is raised. Its boot waits`,
    );
  });

  it.each<[string, Parameters<typeof facts>[0], RegExp]>([
    [
      'the node',
      { host: { ...host, availableBytes: 20 * GiB } },
      /the node has 200\.0 GiB of memory.*12\.5 GiB.*add/,
    ],
    ['the tmpfs', { pool: { freeBytes: 4 * GiB } }, /4\.0 GiB can be free.*tmpfs.*\/dev\/shm.*size=/],
  ])('for %s as well', (_what, given, said) => {
    expect(held(facts({ pods: [pod(1)], ...given }), 1)).toMatch(said);
  });

  it('until the size of its weights is known', () => {
    expect(room(facts({ pods: [pod(1)], forms: new Map() }), 1)).toMatchObject({
      needBytes: 0,
      held: { reason: 'SizeUnknown', message: expect.stringMatching(/size.*not known yet/) },
    });
  });

  it('and is told so once it has asked, and not as well that its weights are not staged', () => {
    const told = (...pods: StagingPod[]) => {
      const given = facts({ boundBytes: 9 * GiB, pods });
      return refusalsToTell(planStaging(given), pods).map(({ podUids, reason }) => [reason, ...podUids]);
    };
    expect(told(pod(1))).toEqual([['NoRoomForImage', uid(1)]]);
    expect(told(pod(1, { phase: 'listed' }))).toEqual([]);
    expect(told(pod(1), boots(2, { weights: weights(1) }))).toEqual([
      ['NoRoomToStage', uid(2)],
      ['NoRoomForImage', uid(1)],
    ]);
    const unknown = facts({ forms: new Map(), pods: [pod(1)] });
    expect(refusalsToTell(planStaging(unknown), [pod(1)])).toEqual([]);
  });
});

describe('what makes way for a boot', () => {
  it('is nothing where there is room', () => {
    expect(
      gone(facts({ pods: [pod(1)], pool: { staged: [staged(1), staged(2)] }, boundBytes: 30 * GiB }), 1),
    ).toEqual([]);
    expect(gone(facts({ pods: [boots(1)], pool: { staged: [staged(2)] }, boundBytes: GiB }), 1)).toEqual([]);
  });

  it('is what costs least, before what the boot reads itself', () => {
    const pool = { staged: [staged(1), staged(2)] };
    expect(gone(facts({ pods: [pod(1)], pool, boundBytes: 20 * GiB }), 1)).toEqual([key(2)]);
    expect(gone(facts({ pods: [pod(1), pod(2)], pool, boundBytes: 20 * GiB }), 1)).toEqual([key(2)]);
  });

  it('is what it reads itself, at last, pinned or not', () => {
    for (const pinned of [true, false]) {
      const given = facts({
        pods: [pod(1, { pinned })],
        pool: { staged: [staged(1)] },
        boundBytes: 15 * GiB,
      });
      expect(makesWay(given, uid(1))).toEqual([
        {
          kind: 'staged',
          key: key(1),
          bytes: 10 * GiB,
          because: 'its image needs the room: the engine reads the weights from disk',
        },
      ]);
    }
  });

  it('is never what another boot reads, nor what is being staged', () => {
    const pods = [pod(1), boots(2, { weights: weights(1) })];
    expect(gone(facts({ pods, pool: { staged: [staged(1)] }, boundBytes: 15 * GiB }), 1)).toEqual([]);
    const half = staged(1, { filledBytes: 6 * GiB, state: 'under way' });
    expect(
      gone(facts({ pods: [pod(1)], pool: { staged: [half] }, running: key(1), boundBytes: 15 * GiB }), 1),
    ).toEqual([]);
  });
});

describe('what is being staged for others', () => {
  it('is stopped by the plan, so that nothing else has to go for as much', () => {
    const half = staged(2, { filledBytes: 6 * GiB, state: 'under way' });
    const given = (boundBytes: number) =>
      facts({ pods: [pod(1), pod(2)], pool: { staged: [staged(1), half] }, running: key(2), boundBytes });
    expect(gone(given(20 * GiB), 1)).toEqual([]);
    expect(gone(given(20 * GiB - 1), 1)).toEqual([key(1)]);
    const granted = { ...given(20 * GiB), pods: [boots(1), pod(2)] };
    expect(planStaging(granted)).toMatchObject({ stop: true, evict: [] });
    expect(planStaging({ ...granted, running: null })).toMatchObject({ abandon: [key(2)] });
  });
});

/** A node over time: pods ask, those with room are granted, one at a time, write their images and run. */
class Node {
  images: ImageEntry[] = [];
  staged: StagedEntry[] = [];
  pods: StagingPod[];
  readonly bound: number;

  constructor(pods: StagingPod[], bound: number) {
    this.pods = pods;
    this.bound = bound;
  }

  facts(): StagingFacts {
    return facts({
      pods: this.pods,
      pool: { images: this.images, staged: this.staged },
      boundBytes: this.bound,
    });
  }

  private evict(evictions: ReturnType<typeof makesWay>): void {
    for (const eviction of evictions) {
      if (eviction.kind === 'staged') this.staged = this.staged.filter((entry) => entry.key !== eviction.key);
      else this.images = this.images.filter((entry) => entry.engineHash !== eviction.engineHash);
    }
  }

  /** Stages all that has room. */
  stage(): void {
    for (let next = planStaging(this.facts()); next.stage; next = planStaging(this.facts())) {
      this.evict(next.evict);
      this.staged.push(
        staged(0, { key: next.stage.key, bytes: next.stage.bytes, filledBytes: next.stage.bytes }),
      );
    }
  }

  /** @returns whether some boot had room */
  grant(): boolean {
    const granted = bootRooms(this.facts()).find((each) => each.held === null)?.podUid;
    const next = granted ?? this.pods.find((each) => each.phase === 'waits' && this.isThere(each))?.podUid;
    if (!next) return false;
    this.evict(makesWay(this.facts(), next));
    this.set(next, 'boots');
    return true;
  }

  private isThere = ({ engineHash }: StagingPod): boolean =>
    this.images.some((entry) => entry.engineHash === engineHash);

  set(podUid: string, phase: StagingPod['phase']): void {
    this.pods = this.pods.map((each) => (each.podUid === podUid ? { ...each, phase } : each));
  }

  /** Every boot ends: its image is there. */
  boot(): void {
    for (const each of this.pods.filter(({ phase }) => phase === 'boots')) {
      if (!this.isThere(each)) this.images.push(image(0, { engineHash: each.engineHash!, usedAtMs: 0 }));
      const { staged: weighed, image: imaged } = usedBytes(this.facts().pool);
      expect(weighed + imaged).toBeLessThanOrEqual(this.bound);
      this.set(each.podUid, 'runs');
    }
  }

  /** Until nothing moves any more. @returns pods that run, by number */
  run(together: number): number {
    for (let moved = true; moved; ) {
      this.stage();
      moved = false;
      for (let n = 0; n < together; n++) moved = this.grant() || moved;
      this.stage();
      this.boot();
    }
    return this.pods.filter(({ phase }) => phase === 'runs').length;
  }
}

describe('a node never holds more than its bound, and as many boot as fit', () => {
  const cases = [1, 2, 3].flatMap((together) =>
    [9, 10, 19, 20, 25, 40].flatMap((bound) =>
      ['none', 'all', 'first'].map((pinned) => ({ together, bound, pinned })),
    ),
  );
  it.each(cases)('$together at once, $bound GiB, pinned: $pinned', ({ together, bound, pinned }) => {
    const pods = [1, 2, 3, 4, 5].map((n) =>
      pod(n, { pinned: pinned === 'all' || (pinned === 'first' && n === 1) }),
    );
    const node = new Node(pods, bound * GiB);
    expect(node.run(together)).toBe(Math.floor(bound / 10));
    // One that runs goes: the next one boots by itself.
    if (bound < 10) return;
    node.pods = node.pods.filter(
      ({ podUid }) => podUid !== node.pods.find(({ phase }) => phase === 'runs')!.podUid,
    );
    expect(node.run(together)).toBe(Math.floor(bound / 10));
  });
});
