import { describe, expect, it } from 'vitest';
import { figuresOf, inUse, planStaging } from '../../../../agent/decide/staging/plan.ts';
import {
  headRoomBytes,
  isImaged,
  promisedBytes,
  type Room,
  roomOf,
  usedBytes,
} from '../../../../agent/decide/staging/room.ts';
import { victims } from '../../../../agent/decide/staging/victims.ts';
import { compareWishes, type Wish, wishesOf } from '../../../../agent/decide/staging/wishes.ts';
import { emptyPool, facts, GiB, host, image, key, pod, staged, uid, weights } from './facts.ts';

const file = (bytes: number, linked = false) => ({ name: 'x', bytes, linked });
const folder = (n: number, ...files: ReturnType<typeof file>[]) => ({ podUid: uid(n), seenAtMs: 0, files });

describe('the room for weights', () => {
  const pool = {
    ...emptyPool,
    staged: [staged(1, { bytes: 9, filledBytes: 3 }), staged(2, { filledBytes: 4 })],
    images: [image(1, { bytes: 10 }), image(2, { bytes: 20 })],
    pods: [folder(1, file(100), file(1, true)), folder(2, file(200), file(300))],
    freeBytes: null,
  };
  const large = { totalBytes: 64 * GiB, availableBytes: 64 * GiB, ownBytes: null };

  it('counts what is staged, what engines have, and what they write', () => {
    expect(usedBytes(pool)).toEqual({ staged: 7, image: 30, writing: 600 });
    expect(roomOf(pool, large, { boundBytes: 1_000, promisedBytes: 50 })).toEqual<Room>({
      boundBytes: 1_000,
      usedBytes: 637,
      promisedBytes: 50,
      freeBytes: 1_000 - 637 - 50,
      limit: 'pool',
    });
  });

  it.each([
    ['half of the memory, where no bound is set', large, null, null, 32 * GiB - 637 - 50, 'pool'],
    ['half of an odd number', { ...large, totalBytes: 20 * GiB + 1 }, null, null, 10 * GiB - 687, 'pool'],
    ["the node's, less a sixteenth", large, 999 * GiB, null, 60 * GiB - 50, 'host'],
    ["the tmpfs's", large, 999 * GiB, 4 * GiB, 4 * GiB - 50, 'tmpfs'],
    ["the agent's, which writes no image", { ...large, ownBytes: GiB }, 999 * GiB, 4 * GiB, GiB, 'agent'],
    ['the first of two alike', large, 637 + 60 * GiB, null, 60 * GiB - 50, 'pool'],
  ])('is %s', (_what, memory, boundBytes, freeBytes, free, limit) => {
    expect(roomOf({ ...pool, freeBytes }, memory, { boundBytes, promisedBytes: 50 })).toMatchObject({
      freeBytes: free,
      limit,
    });
  });

  it.each([
    [8 * GiB, GiB],
    [16 * GiB, GiB],
    [32 * GiB, 2 * GiB],
  ])('leaves of %d bytes %d to everything else', (total, left) => {
    expect(headRoomBytes(total)).toBe(left);
  });
});

describe('images that are promised', () => {
  const forms = facts().forms;
  const boots = (n: number, more = {}) => pod(n, { phase: 'boots', ...more });

  it.each([
    ['one for each engine that boots', [boots(1), boots(2)], {}, 20 * GiB],
    ['none for one that waits or runs', [pod(1), pod(2, { phase: 'runs' })], {}, 0],
    ['one for each of two pods of one engine', [boots(1), boots(2, { engineHash: 'hash1' })], {}, 20 * GiB],
    [
      'one each where the engine is not known',
      [boots(1, { engineHash: null }), boots(2, { engineHash: null })],
      {},
      20 * GiB,
    ],
    ['none where it is there', [boots(1)], { images: [image(1)] }, 0],
    ['none for weights that are not there', [boots(11)], {}, 0],
    ["less another rank's", [boots(1, { ranks: 2 })], { images: [image(1, { bytes: 3 * GiB })] }, 7 * GiB],
    ['less what is written', [boots(1)], { pods: [folder(1, file(4 * GiB))] }, 6 * GiB],
    [
      'nothing less where more is written',
      [boots(1), boots(2)],
      { pods: [folder(1, file(14 * GiB))] },
      10 * GiB,
    ],
  ])('are %s', (_what, pods, pool, bytes) => {
    expect(promisedBytes(pods, { ...emptyPool, ...pool }, forms)).toBe(bytes);
  });

  it('are none of a form that is missing or broken', () => {
    const bad = new Map([
      [weights(1), { missing: true as const }],
      [weights(2), { fault: 'broken' }],
    ]);
    expect(promisedBytes([boots(1), boots(2)], emptyPool, bad)).toBe(0);
  });

  it('are there when each GPU has its own', () => {
    expect(isImaged(pod(1, { ranks: 2 }), [image(1, { files: 1 }), image(2, { files: 2 })])).toBe(false);
    expect(isImaged(pod(1, { ranks: 2 }), [image(2), image(1, { files: 2 })])).toBe(true);
    expect(isImaged(pod(1, { ranks: 2 }), [image(1, { files: 3 })])).toBe(true);
    expect(isImaged(pod(1, { engineHash: null }), [image(1)])).toBe(false);
  });
});

describe('wishes', () => {
  it('of the same weights are one, as old as the oldest of the most urgent', () => {
    const same = { weights: weights(1) };
    const pods = [pod(1, { sinceMs: 5 }), pod(2, { ...same, sinceMs: 3 }), pod(3, { ...same, sinceMs: 4 })];
    const wish: Wish = {
      weights: weights(1),
      key: key(1),
      rank: 1,
      pinned: false,
      sinceMs: 3,
      podUids: [uid(1), uid(2), uid(3)],
    };
    expect(wishesOf(pods, [])).toEqual([wish]);
    const late = pod(4, { ...same, phase: 'listed', sinceMs: 1, pinned: false });
    expect(wishesOf([...pods, late], [])[0]).toMatchObject({ rank: 1, sinceMs: 3 });
    expect(wishesOf([...pods, { ...late, pinned: true }], [])[0]).toMatchObject({ rank: 1, pinned: true });
    expect(wishesOf([...pods, { ...late, phase: 'boots', sinceMs: 9 }], [])[0]).toMatchObject({
      rank: 0,
      sinceMs: 9,
    });
  });

  it('of a pinned pod that boots or waits are as urgent as any', () => {
    const ranks = (['boots', 'waits', 'listed', 'runs'] as const).map(
      (phase) => wishesOf([pod(1, { phase, pinned: true })], [])[0]?.rank,
    );
    expect(ranks).toEqual([0, 1, 2, 2]);
  });

  it('are none for weights that no form is named by', () => {
    expect(wishesOf([pod(1, { weights: '../x' })], [])).toEqual([]);
  });

  it('have one order, whatever order they come in', () => {
    const at = (n: number, rank: Wish['rank'], pinned: boolean, sinceMs: number): Wish => ({
      weights: weights(n),
      key: key(n),
      rank,
      pinned,
      sinceMs,
      podUids: [],
    });
    const order = [
      at(9, 0, false, 9),
      at(8, 1, true, 8),
      at(7, 1, false, 1),
      at(1, 1, false, 2),
      at(2, 1, false, 2),
    ];
    expect([...order].reverse().sort(compareWishes)).toEqual(order);
    expect(compareWishes(order[4]!, order[3]!)).toBeGreaterThan(0);
    expect(compareWishes(order[3]!, order[4]!)).toBeLessThan(0);
    expect([order[2]!, order[4]!, order[1]!, order[3]!, order[0]!].sort(compareWishes)).toEqual(order);
  });
});

describe('what leaves the pool', () => {
  const asked = (given: Parameters<typeof facts>[0], below: 0 | 1 | 2 | 3 | null = 1) => {
    const all = facts(given);
    return victims(all, wishesOf(all.pods ?? [], all.pool.images), below).map(({ eviction, cost }) => ({
      ...eviction,
      cost: Number(cost.toFixed(3)),
    }));
  };
  const second = (bytes: number) => staged(2, { filledBytes: bytes, usedAtMs: 600_000 });

  it.each([
    [600_000, 10, '0 min'],
    [700_000, 10, '0 min'],
    [540_000, 5, '1 min'],
    [420_000, 2.5, '3 min'],
    [0, 0.909, '10 min'],
  ])('costs what a read of it takes, less the longer it is unused: since %d', (usedAtMs, cost, minutes) => {
    const entry = staged(2, { filledBytes: 10e9, usedAtMs });
    expect(asked({ pool: { staged: [entry] } })).toEqual([
      {
        kind: 'staged',
        key: key(2),
        bytes: 10e9,
        because: `no pod of this node uses it, unused for ${minutes}`,
        cost,
      },
    ]);
    const other = image(2, { bytes: 10e9, usedAtMs });
    expect(asked({ pool: { images: [other] } })).toEqual([
      {
        kind: 'image',
        engineHash: 'hash2',
        bytes: 10e9,
        because: `no pod of this node has such an engine, unused for ${minutes}`,
        cost: Number((cost * 2).toFixed(2)) === cost * 2 ? cost * 2 : 1.818,
      },
    ]);
  });

  it('costs by the speed that was measured, else by a guess of 1 GB/s', () => {
    const pool = { staged: [second(10e9)], images: [image(3, { bytes: 10e9, usedAtMs: 600_000 })] };
    expect(asked({ pool, bytesPerSecond: 5e9 }).map(({ cost }) => cost)).toEqual([2, 4]);
    expect(asked({ pool, bytesPerSecond: null }).map(({ cost }) => cost)).toEqual([10, 20]);
  });

  it('costs a tenth where its engine runs, and the whole read where its pod is to boot yet', () => {
    const pool = { staged: [second(10e9)] };
    expect(asked({ pool, pods: [pod(2, { phase: 'runs' })] })).toMatchObject([
      { because: 'the engines that use it have it in memory or as an image', cost: 1 },
    ]);
    const old = { staged: [staged(2, { filledBytes: 10e9, usedAtMs: 0 })] };
    expect(asked({ pool: old, pods: [pod(2, { phase: 'listed' })] })).toMatchObject([
      { because: 'more urgent weights need its room, and its pod does not boot yet', cost: 10 },
    ]);
  });

  it.each([
    ['what is being staged', { running: key(2) }, null],
    ['what a boot reads', { pods: [pod(2, { phase: 'boots' })] }, null],
    ['what is pinned', { pods: [pod(2, { phase: 'runs', pinned: true })] }, null],
    ['what is as urgent', { pods: [pod(2)] }, 1],
    ['anything, before the pods are listed', { pods: null }, null],
  ] as const)('is never %s', (_what, given, below) => {
    expect(asked({ ...given, pool: { staged: [second(10e9)] } }, below)).toEqual([]);
  });

  it('is no image that a pod of this node may map, and any other', () => {
    const images = [image(1), image(3), image(2)];
    expect(asked({ pods: [pod(1), pod(2, { deleting: true })], pool: { images } })).toMatchObject([
      { engineHash: 'hash3' },
    ]);
  });

  it('is what waits, where there is no more urgent wish but pressure', () => {
    expect(asked({ pods: [pod(2)], pool: { staged: [second(10e9)] } }, null)).toHaveLength(1);
    expect(asked({ pods: [pod(2)], pool: { staged: [second(10e9)] } }, 0)).toHaveLength(1);
  });
});

describe('what is in use', () => {
  it('are weights that a boot reads and images that a pod may map', () => {
    const pods = [
      pod(1, { phase: 'boots' }),
      pod(2),
      pod(3, { phase: 'runs' }),
      pod(4, { engineHash: null }),
      pod(5, { phase: 'runs' }),
    ];
    const used = inUse(facts({ pods, pool: { images: [image(3), image(9)] } }));
    expect([...used.keys]).toEqual([key(1)]);
    expect([...used.engineHashes]).toEqual(['hash3']);
  });

  it('is nothing before the pods are listed', () => {
    const used = inUse(facts({ pods: null, pool: { images: [image(3)] } }));
    expect(used).toEqual({ keys: new Set(), engineHashes: new Set() });
  });
});

describe('figures', () => {
  it('are shown also before memory or pods are known', () => {
    const pool = { images: [image(3, { bytes: 5 })] };
    const shown = { staged: 0, image: 5, writing: 0, promised: 0 };
    expect(figuresOf(facts({ pool, host: null }))).toEqual({ ...shown, bound: 40 * GiB });
    expect(figuresOf(facts({ pool, pods: null, boundBytes: null }))).toEqual({ ...shown, bound: 0 });
    expect(figuresOf(facts({ pool, boundBytes: null }))).toEqual({ ...shown, bound: 100 * GiB });
  });
});

describe('a refusal', () => {
  const said = (given: Parameters<typeof facts>[0]) => planStaging(facts(given)).refused[0]?.message;

  it('says what is lacking, what there is and what to do', () => {
    expect(said({ pods: [pod(1)], boundBytes: 5 * GiB })).toBe(
      `${weights(1)} needs 20.0 GiB of host memory with its image, 5.0 GiB are free beside 0.0 GiB in the pool; the pool is bound to 5.0 GiB (storage.pinnedMemoryMB): raise it, or pin less. Its engine reads it from disk`,
    );
    const boots = [pod(1, { phase: 'boots' })];
    expect(
      said({ pods: boots, boundBytes: 5 * GiB, pool: { images: [image(1, { files: 0, bytes: GiB })] } }),
    ).toBe(
      `${weights(1)} needs 10.0 GiB of host memory, 0.0 GiB are free beside 1.0 GiB in the pool and 9.0 GiB for images to come; the pool is bound to 5.0 GiB (storage.pinnedMemoryMB): raise it, or pin less. Its engine reads it from disk`,
    );
    expect(said({ pods: [pod(1)], host: { ...host, availableBytes: 0 } })).toContain(
      'the node has no more memory: stop something there, or add some.',
    );
    expect(said({ pods: [pod(1)], pool: { freeBytes: 0 } })).toContain(
      'the tmpfs that holds the pool is full: mount /dev/shm with a larger size=.',
    );
    expect(said({ pods: [pod(1)], host: { ...host, ownBytes: 0 } })).toContain(
      "the agent's own memory limit (agent.resources.limits.memory) would be passed: raise or remove it.",
    );
  });
});
