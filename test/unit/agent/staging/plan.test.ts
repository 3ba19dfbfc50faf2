import { describe, expect, it } from 'vitest';
import { figuresOf, planStaging, retryMs } from '../../../../agent/decide/staging/plan.ts';
import { cheapest } from '../../../../agent/decide/staging/victims.ts';
import type { StagedEntry, StagingFacts } from '../../../../agent/decide/staging/words.ts';
import { emptyPool, facts, GiB, host, image, key, pod, staged, uid, weights } from './facts.ts';

const next = (given: StagingFacts): string | null => planStaging(given).stage?.key ?? null;
const evicted = (given: StagingFacts): string[] =>
  planStaging(given).evict.map((eviction) =>
    eviction.kind === 'staged' ? eviction.key : eviction.engineHash,
  );

describe('what is staged next', () => {
  const orders: [string, StagingFacts['pods'], number | null][] = [
    ['one that boots before one that waits', [pod(1), pod(2, { phase: 'boots' })], 2],
    ['one that waits before a pinned one that runs', [pod(1, { phase: 'runs', pinned: true }), pod(2)], 2],
    [
      'a pinned one that runs before one that has not asked',
      [pod(1, { phase: 'listed' }), pod(2, { phase: 'runs', pinned: true })],
      2,
    ],
    ['of two that wait the pinned one', [pod(1), pod(2, { pinned: true })], 2],
    ['of two alike the one that has waited longer', [pod(2, { sinceMs: 9 }), pod(1, { sinceMs: 5 })], 1],
    ['none for an engine that runs', [pod(1, { phase: 'runs' })], null],
    ['none for a pod that ends', [pod(1, { deleting: true })], null],
    ['none whose files are not there', [pod(11)], null],
  ];
  it.each(orders)('is %s', (_what, pods, wanted) => {
    expect(next(facts({ pods }))).toBe(wanted === null ? null : key(wanted));
  });

  it('is none for an engine whose images are there, all of them', () => {
    const pods = [pod(1, { ranks: 2 })];
    expect(next(facts({ pods, pool: { images: [image(1, { files: 2 })] } }))).toBeNull();
    expect(next(facts({ pods, pool: { images: [image(1, { files: 1 })] } }))).toBe(key(1));
  });

  it('is the same for two Models with the same weights, once', () => {
    const pods = [pod(1), pod(2, { weights: weights(1), phase: 'boots' })];
    const plan = planStaging(facts({ pods }));
    expect(plan.stage).toMatchObject({ key: key(1), podUids: [uid(1), uid(2)] });
    expect(next(facts({ pods, pool: { staged: [staged(1)] } }))).toBeNull();
  });

  it('is as urgent as the most urgent of its pods, and for as long', () => {
    const both = [
      pod(1, { phase: 'listed', sinceMs: 1 }),
      pod(2, { weights: weights(1), phase: 'boots', sinceMs: 100 }),
    ];
    expect(next(facts({ pods: [...both, pod(3)] }))).toBe(key(1));
    expect(next(facts({ pods: [...both, pod(3, { phase: 'boots', sinceMs: 50 })] }))).toBe(key(3));
    expect(next(facts({ pods: [...both.reverse(), pod(3, { phase: 'boots', sinceMs: 50 })] }))).toBe(key(3));
  });

  it('goes on where an earlier agent stopped', () => {
    const half = staged(1, { filledBytes: 5 * GiB, state: 'under way' });
    expect(next(facts({ pods: [pod(1)], pool: { staged: [half] } }))).toBe(key(1));
  });

  it('waits for the API server, and for a look at the memory', () => {
    expect(planStaging(facts({ pods: null, pool: { staged: [staged(1)] } }))).toMatchObject({
      stage: null,
      evict: [],
    });
    expect(next(facts({ pods: [pod(1)], host: null }))).toBeNull();
  });
});

describe('a staging under way', () => {
  it('goes on while its pod wants it most', () => {
    const plan = planStaging(facts({ pods: [pod(1), pod(2)], running: key(1) }));
    expect(plan).toMatchObject({ stop: false, stage: null });
  });

  it('gives way to a boot, whose loader is to wait', () => {
    const plan = planStaging(facts({ pods: [pod(1), pod(2, { phase: 'boots' })], running: key(1) }));
    expect(plan).toMatchObject({ stop: true, stage: null, prepare: [{ key: key(2) }] });
  });

  it('has nobody wait for a place that is there already', () => {
    const half = staged(2, { filledBytes: 5 * GiB, state: 'under way' });
    const pods = [pod(1), pod(2, { phase: 'boots' })];
    const plan = planStaging(facts({ pods, pool: { staged: [half] }, running: key(1) }));
    expect(plan).toMatchObject({ stop: true, prepare: [] });
  });

  it('is not stopped while nothing is known, nor where there is none', () => {
    expect(planStaging(facts({ host: null, running: key(1) })).stop).toBe(false);
    expect(planStaging(facts({ pods: [pod(1)] })).stop).toBe(false);
  });

  it('stops when its pod is gone', () => {
    expect(planStaging(facts({ running: key(1) })).stop).toBe(true);
  });

  it('stops when the node runs short of memory, and the loader goes on to the disk', () => {
    const pods = [pod(1, { phase: 'boots' })];
    const short = { ...host, availableBytes: 12 * GiB };
    const half = staged(1, { filledBytes: 5 * GiB, state: 'under way' as const });
    const during = planStaging(facts({ pods, host: short, pool: { staged: [half] }, running: key(1) }));
    // Whoever reads and writes it is told first.
    expect(during).toMatchObject({ stop: true, abandon: [] });
    const after = planStaging(facts({ pods, host: short, pool: { staged: [half] } }));
    expect(after.abandon).toEqual([key(1)]);
    expect(after.refused[0]?.reason).toBe('NoRoomToStage');
  });

  it('has what comes after it announced to those who boot with that, as long as it comes', () => {
    const half = (n: number) => staged(n, { filledBytes: 5 * GiB, state: 'under way' });
    const pods = [pod(1, { phase: 'boots' }), pod(2, { phase: 'boots' }), pod(3)];
    const coming = (entries: StagedEntry[], more: Parameters<typeof facts>[0] = {}) =>
      planStaging(facts({ pods, pool: { staged: entries }, running: key(1), ...more })).coming;
    const both = [half(1), half(2)];
    expect(coming([...both, half(3)])).toEqual([key(2)]);
    expect(coming(both, { running: null })).toEqual([key(1), key(2)]);
    expect(coming([...both, half(3)], { running: key(3), boundBytes: 90 * GiB })).toEqual([key(1), key(2)]);
    expect(coming([staged(1), half(2)])).toEqual([key(2)]);
    expect(coming([])).toEqual([]);
    expect(coming(both, { failures: [{ key: key(2), atMs: 600_000 }] })).toEqual([]);
    expect(coming(both, { boundBytes: 40 * GiB })).toEqual([key(2)]);
    expect(coming(both, { boundBytes: 40 * GiB - 1 })).toEqual([]);
    expect(coming(both, { pods: null })).toEqual([]);
  });

  it('has the next boot wait for its turn where there is room for both, and not where there is not', () => {
    const pods = [pod(1, { phase: 'boots' }), pod(2, { phase: 'boots' })];
    expect(planStaging(facts({ pods })).prepare).toMatchObject([{ key: key(2) }]);
    expect(planStaging(facts({ pods, boundBytes: 30 * GiB + 1 })).prepare).toEqual([]);
  });
});

describe('the ledger of host memory', () => {
  const refusal = (given: StagingFacts): string => planStaging(given).refused[0]?.message ?? '';

  const limits: [string, Parameters<typeof facts>[0], RegExp][] = [
    [
      'the chart',
      { boundBytes: 5 * GiB },
      /20\.0 GiB of host memory with its image, 5\.0 GiB are free.*storage\.pinnedMemoryMB/,
    ],
    [
      'half of the node',
      { boundBytes: null, host: { totalBytes: 16 * GiB, availableBytes: 16 * GiB, ownBytes: null } },
      /bound to 8\.0 GiB/,
    ],
    [
      'what the node has left beside a head room',
      { host: { ...host, availableBytes: 20 * GiB } },
      /7\.5 GiB are free.*no more memory/,
    ],
    ['the tmpfs', { pool: { freeBytes: 4 * GiB } }, /tmpfs.*size=/],
    ["the agent's own limit", { host: { ...host, ownBytes: 2 * GiB } }, /agent\.resources\.limits\.memory/],
  ];
  it.each(limits)('is bound by %s', (_what, given, said) => {
    const full = facts({ pods: [pod(1)], ...given });
    expect(next(full)).toBeNull();
    expect(refusal(full)).toMatch(said);
    expect(refusal(full)).toMatch(/reads it from disk/);
  });

  it('counts the image that a boot is about to write, less what it has written', () => {
    const pods = [pod(1, { phase: 'boots' })];
    expect(next(facts({ pods, boundBytes: 19 * GiB }))).toBeNull();
    expect(next(facts({ pods, boundBytes: 20 * GiB }))).toBe(key(1));
    const writing = { podUid: uid(1), seenAtMs: 0, files: [{ name: 'x', bytes: 4 * GiB, linked: false }] };
    expect(figuresOf(facts({ pods, pool: { pods: [writing] } }))).toEqual({
      staged: 0,
      image: 0,
      writing: 4 * GiB,
      promised: 6 * GiB,
      bound: 40 * GiB,
    });
  });

  it('does not begin for an engine that waits what would have to go once it boots', () => {
    expect(next(facts({ pods: [pod(1)], boundBytes: 19 * GiB }))).toBeNull();
    expect(next(facts({ pods: [pod(1)], boundBytes: 20 * GiB }))).toBe(key(1));
    expect(next(facts({ pods: [pod(1, { phase: 'runs', pinned: true })], boundBytes: 10 * GiB }))).toBe(
      key(1),
    );
  });

  it('counts an image for each replica that boots without one, and none twice that is linked', () => {
    const pods = [
      pod(1, { phase: 'boots' }),
      pod(2, { phase: 'boots', engineHash: 'hash1', weights: weights(1) }),
    ];
    const linked = { podUid: uid(3), seenAtMs: 0, files: [{ name: 'x', bytes: 4 * GiB, linked: true }] };
    expect(figuresOf(facts({ pods, pool: { pods: [linked] } }))).toMatchObject({
      promised: 20 * GiB,
      writing: 0,
    });
  });

  it('counts of weights that are begun what is lacking', () => {
    const half = staged(1, { filledBytes: 5 * GiB, state: 'under way' });
    const begun = (boundBytes: number) =>
      next(facts({ pods: [pod(1, { phase: 'boots' })], pool: { staged: [half] }, boundBytes }));
    expect(begun(20 * GiB)).toBe(key(1));
    expect(begun(20 * GiB - 1)).toBeNull();
  });

  it('counts what one eviction frees beyond its need for the next', () => {
    const pods = [pod(1, { phase: 'boots' }), pod(2, { phase: 'boots' })];
    const pool = { staged: [staged(9, { bytes: 20 * GiB, filledBytes: 20 * GiB })] };
    const plan = planStaging(facts({ pods, pool, boundBytes: 45 * GiB }));
    expect(plan).toMatchObject({ stage: { key: key(1) }, prepare: [{ key: key(2) }], refused: [] });
    const third = [...pods, pod(3, { phase: 'boots' })];
    expect(planStaging(facts({ pods: third, pool, boundBytes: 55 * GiB })).prepare).toMatchObject([
      { key: key(2) },
    ]);
    // Its room is not free yet: its loader goes on to the disk.
    const short = planStaging(facts({ pods, pool, boundBytes: 50 * GiB }));
    expect(short).toMatchObject({ stage: { key: key(1) }, evict: [], prepare: [] });
  });

  it('is for an engine that has not asked yet as for one that waits', () => {
    expect(next(facts({ pods: [pod(1, { phase: 'listed' })], boundBytes: 19 * GiB }))).toBeNull();
    expect(next(facts({ pods: [pod(1, { phase: 'listed' })], boundBytes: 20 * GiB }))).toBe(key(1));
  });

  it('says that files are missing also where their last staging failed, and has nothing more to give up there', () => {
    const forms = new Map([[weights(1), { missing: true as const }]]);
    const failed = { staged: [staged(1, { state: 'failed', filledBytes: 0 })] };
    const failures = [{ key: key(1), atMs: 0 }];
    for (const pool of [failed, { staged: [] }])
      expect(planStaging(facts({ pods: [pod(1)], forms, pool, failures }))).toMatchObject({
        abandon: [],
        refused: [{ reason: 'WeightsMissing' }],
      });
  });

  it('says that files are missing, and lets no loader wait for them', () => {
    const forms = new Map([[weights(1), { missing: true as const }]]);
    const pool = { staged: [staged(1, { state: 'under way', filledBytes: 0 })] };
    expect(planStaging(facts({ pods: [pod(1)], forms, pool }))).toMatchObject({
      stage: null,
      refused: [{ weights: weights(1), podUids: [uid(1)], reason: 'WeightsMissing' }],
      abandon: [key(1)],
    });
  });

  it('has nothing to say of files that were not looked at yet', () => {
    expect(planStaging(facts({ pods: [pod(1)], forms: new Map() }))).toMatchObject({
      stage: null,
      refused: [],
    });
  });

  it('says why files cannot be used', () => {
    const forms = new Map([[weights(1), { fault: 'broken, delete it' }]]);
    expect(planStaging(facts({ pods: [pod(1)], forms })).refused).toEqual([
      { weights: weights(1), podUids: [uid(1)], reason: 'WeightsUnusable', message: 'broken, delete it' },
    ]);
  });
});

describe('what is evicted', () => {
  /** A pool with room for an image and 2 GiB. */
  const full = (pool: StagingFacts['pool'], pods: StagingFacts['pods']) =>
    facts({ pods, pool, boundBytes: (pool.staged.length + pool.images.length) * 10 * GiB + 12 * GiB });

  it('is what nobody uses, the longest unused first', () => {
    const pool = {
      ...emptyPool,
      staged: [staged(2, { usedAtMs: 500_000 }), staged(3, { usedAtMs: 100_000 })],
    };
    expect(evicted(full(pool, [pod(1)]))).toEqual([key(3)]);
  });

  it('is weights whose engines have their image, before images of engines that are gone', () => {
    const pool = {
      ...emptyPool,
      staged: [staged(2, { usedAtMs: 600_000 })],
      images: [image(2), image(3, { usedAtMs: 590_000 })],
    };
    expect(evicted(full(pool, [pod(1), pod(2, { phase: 'runs' })]))).toEqual([key(2)]);
  });

  it('is never the image of a pod of this node, nor what a boot reads, nor what is pinned', () => {
    const pool = {
      ...emptyPool,
      staged: [staged(2), staged(3), staged(1, { filledBytes: 0, bytes: 10 * GiB, state: 'under way' })],
      images: [image(4), image(5)],
    };
    const pods = [
      pod(1),
      pod(2, { phase: 'boots' }),
      pod(3, { phase: 'runs', pinned: true }),
      pod(4, { phase: 'runs' }),
      pod(5, { deleting: true }),
    ];
    const plan = planStaging({ ...full(pool, pods), boundBytes: 62 * GiB });
    expect(plan.evict).toEqual([]);
    expect(plan.refused).toMatchObject([{ weights: weights(1), reason: 'NoRoomToStage' }]);
  });

  it('is what waits behind the one that needs the room, not what waits before it', () => {
    const pool = { ...emptyPool, staged: [staged(2), staged(3)] };
    const behind = [pod(1), pod(2, { phase: 'listed' }), pod(3)];
    expect(evicted(full(pool, behind))).toEqual([key(2)]);
    expect(evicted(full({ ...emptyPool, staged: [staged(3)] }, [pod(3), pod(1)]))).toEqual([]);
  });

  it('is nothing that does not help', () => {
    const pool = { ...emptyPool, staged: [staged(2, { filledBytes: 1 * GiB })] };
    expect(evicted(facts({ pods: [pod(1)], pool, boundBytes: 5 * GiB }))).toEqual([]);
  });

  it('goes under pressure although nobody wants the room', () => {
    const pool = { staged: [staged(2)], images: [image(3)] };
    expect(evicted(facts({ pool, host: { ...host, availableBytes: 3 * GiB } }))).toEqual([key(2)]);
    expect(evicted(facts({ pool, boundBytes: 5 * GiB }))).toEqual([key(2), 'hash3']);
    expect(evicted(facts({ pool }))).toEqual([]);
  });

  it('is what its engines have as an image, before what nobody has used for some minutes', () => {
    const pool = {
      ...emptyPool,
      staged: [staged(2, { usedAtMs: 600_000 }), staged(3, { usedAtMs: 300_000 })],
      images: [image(2)],
    };
    expect(evicted(full(pool, [pod(1), pod(2, { phase: 'runs' })]))).toEqual([key(2)]);
  });

  it('is staged weights before an image that has been unused for a little longer: it takes twice the work to have it back', () => {
    const pool = {
      ...emptyPool,
      staged: [staged(2, { usedAtMs: 300_000 })],
      images: [image(3, { usedAtMs: 120_000 })],
    };
    expect(evicted(full(pool, [pod(1)]))).toEqual([key(2)]);
  });

  it('is under no pressure what a boot reads, what is pinned, or what is being written', () => {
    const pods = [pod(1, { phase: 'boots' }), pod(2, { phase: 'runs', pinned: true })];
    const pool = { staged: [staged(1), staged(2), staged(3, { state: 'under way' })] };
    expect(evicted(facts({ pods, pool, running: key(3), boundBytes: GiB }))).toEqual([]);
  });

  it('goes for an image that is promised as for one that is there', () => {
    const pods = [pod(1, { phase: 'boots' })];
    const pool = { staged: [staged(1), staged(2)] };
    expect(evicted(facts({ pods, pool, boundBytes: 25 * GiB }))).toEqual([key(2)]);
    expect(evicted(facts({ pods, pool, boundBytes: 30 * GiB }))).toEqual([]);
  });

  it('is a failed staging, once no boot looks at it and it may be tried again', () => {
    const pool = { staged: [staged(1, { state: 'failed', filledBytes: 0 })] };
    const failures = [{ key: key(1), atMs: 600_000 - 1_000 }];
    expect(evicted(facts({ pods: [pod(1, { phase: 'boots' })], pool, failures: [] }))).toEqual([]);
    expect(evicted(facts({ pods: [pod(1)], pool, failures }))).toEqual([]);
    expect(evicted(facts({ pods: [pod(1)], pool, failures, nowMs: 600_000 + retryMs }))).toEqual([key(1)]);
    expect(evicted(facts({ pods: [], pool, failures }))).toEqual([key(1)]);
  });
});

describe('a staging that failed', () => {
  const failed = staged(1, { state: 'failed', filledBytes: 7 });

  it('is not begun again while its file is there, or for ten minutes', () => {
    const boots = [pod(1, { phase: 'boots' })];
    expect(next(facts({ pods: boots, pool: { staged: [failed] } }))).toBeNull();
    const at = (atMs: number, of = 1) => next(facts({ pods: boots, failures: [{ key: key(of), atMs }] }));
    expect(at(1)).toBeNull();
    expect(at(600_000 - retryMs)).toBe(key(1));
    expect(at(1, 2)).toBe(key(1));
    expect(retryMs).toBe(600_000);
  });

  it('leaves, whoever else boots, unless it is under way again', () => {
    const given = { pods: [pod(2, { phase: 'boots' as const })], pool: { staged: [failed] } };
    expect(planStaging(facts(given)).evict).toEqual([
      { kind: 'staged', key: key(1), bytes: 7, because: 'its staging failed' },
    ]);
    expect(planStaging(facts({ ...given, running: key(1) })).evict).toEqual([]);
  });

  it('leaves before anything else has to, under pressure', () => {
    const pool = { staged: [failed, staged(2)] };
    expect(evicted(facts({ pool, boundBytes: 5 * GiB }))).toEqual([key(1)]);
  });

  it('that pods of other weights use is as good as unused', () => {
    const given = facts({ pods: [pod(1, { weights: 'x', phase: 'runs' })], pool: { staged: [staged(2)] } });
    expect(planStaging({ ...given, boundBytes: 5 * GiB }).evict).toMatchObject([
      { because: expect.stringContaining('no pod of this node uses it') },
    ]);
  });
});

describe('the cheapest set', () => {
  const victim = (bytes: number, cost: number) => ({
    cost,
    eviction: { kind: 'staged', key: `${bytes}`, bytes, because: '' } as const,
  });
  const bytesOf = (set: ReturnType<typeof cheapest>) =>
    set?.map(({ eviction }) => eviction.bytes).sort((a, b) => a - b);

  it.each([
    ['one that is enough alone, not the small ones before it', [victim(1, 0.1), victim(10, 2)], 10, [10]],
    ['the cheapest by byte', [victim(10, 5), victim(10, 1)], 10, [10]],
    ['the cheaper by byte, though dearer', [victim(10, 5), victim(20, 6)], 10, [20]],
    [
      'without the dearest that is not needed',
      [victim(1, 0.01), victim(2, 0.04), victim(10, 5)],
      11,
      [1, 10],
    ],
    ['all that is needed', [victim(1, 0.01), victim(2, 0.04), victim(10, 5)], 13, [1, 2, 10]],
    ['several', [victim(4, 1), victim(4, 1), victim(4, 9)], 7, [4, 4]],
    ['none for no need', [victim(4, 1)], 0, []],
  ])('is %s', (_what, victims, need, chosen) => {
    expect(bytesOf(cheapest(victims, need))).toEqual(chosen);
  });

  it('is null when all are not enough', () => {
    expect(cheapest([victim(4, 1)], 5)).toBeNull();
  });
});
