/** Facts of a node with room, to be changed by each test. */
import type {
  HostMemory,
  ImageEntry,
  PoolListing,
  StagedEntry,
  StagingFacts,
  StagingPod,
} from '../../../../agent/decide/staging/words.ts';

export const GiB = 2 ** 30;

export const commit = (n: number): string => n.toString(16).padStart(40, '0');
export const weights = (n: number): string => `org--m${n}/${commit(n)}.gthread-1`;
export const key = (n: number): string => `org--m${n}@${commit(n)}`;
export const uid = (n: number): string => `00000000-0000-0000-0000-${String(n).padStart(12, '0')}`;

export const pod = (n: number, more: Partial<StagingPod> = {}): StagingPod => ({
  podUid: uid(n),
  name: `m${n}-0-abc`,
  replica: `default/m${n}/0`,
  weights: weights(n),
  pinned: false,
  engineHash: `hash${n}`,
  ranks: 1,
  phase: 'waits',
  sinceMs: n,
  deleting: false,
  ...more,
});

export const staged = (n: number, more: Partial<StagedEntry> = {}): StagedEntry => ({
  key: key(n),
  bytes: 10 * GiB,
  filledBytes: 10 * GiB,
  state: 'whole',
  usedAtMs: 0,
  ...more,
});

export const image = (n: number, more: Partial<ImageEntry> = {}): ImageEntry => ({
  engineHash: `hash${n}`,
  files: 1,
  bytes: 10 * GiB,
  usedAtMs: 0,
  ...more,
});

export const emptyPool: PoolListing = { staged: [], images: [], pods: [], freeBytes: 200 * GiB };
export const host: HostMemory = { totalBytes: 200 * GiB, availableBytes: 150 * GiB, ownBytes: null };

/** Forms of 10 GiB for m1 to m9, a pool of 40 GiB. */
export const facts = (
  more: Partial<Omit<StagingFacts, 'pool'>> & { pool?: Partial<PoolListing> } = {},
): StagingFacts => ({
  nowMs: 600_000,
  pods: [],
  forms: new Map([1, 2, 3, 4, 5, 6, 7, 8, 9].map((n) => [weights(n), { bytes: 10 * GiB }])),
  host,
  boundBytes: 40 * GiB,
  running: null,
  failures: [],
  bytesPerSecond: 1e9,
  ...more,
  pool: { ...emptyPool, ...more.pool },
});
