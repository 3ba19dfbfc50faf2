/**
 * What staging decides from and what it answers (docs/weights.md). Bytes are bytes, times monotonic milliseconds of the
 * agent's clock. Weights are known by their annotation, `org--name/<commit>.gthread-1`, and in the pool by their key,
 * `org--name@<commit>`.
 */

/**
 * How far a pod's engine is, as its launcher said: `listed` nothing yet, `waits` it asked for a grant, `boots` it has one,
 * `runs` it was ready.
 */
export type BootPhase = 'listed' | 'waits' | 'boots' | 'runs';

/** A model pod of this node that loads the gthread form. */
export interface StagingPod {
  podUid: string;
  /** Its own name, and `namespace/model/replica`: of two pods of one replica the older is being replaced. */
  name: string;
  replica: string;
  weights: string;
  /** Its weights stay in host memory. */
  pinned: boolean;
  /** Folder of its images; null when it is not known. */
  engineHash: string | null;
  /** Images that a whole engine has: one for each of its GPUs. */
  ranks: number;
  phase: BootPhase;
  /** When the phase began. */
  sinceMs: number;
  deleting: boolean;
}

/** The gthread form on the node's disk: its bytes, that it is not there (yet), or why it cannot be used. */
export type Form = { bytes: number } | { missing: true } | { fault: string };

export type StagedState = 'under way' | 'whole' | 'failed';

/** Weights in the pool. */
export interface StagedEntry {
  key: string;
  /** Length of the file once it is whole. */
  bytes: number;
  /** That are there and checked. */
  filledBytes: number;
  state: StagedState;
  usedAtMs: number;
}

/** All images of one engine hash. */
export interface ImageEntry {
  engineHash: string;
  files: number;
  bytes: number;
  usedAtMs: number;
}

/** A file in a pod's own folder of the pool. */
export interface PodFile {
  name: string;
  bytes: number;
  /** Its own bytes count no second time: it is linked into images/. */
  linked: boolean;
}

export interface PodFolder {
  podUid: string;
  files: PodFile[];
  /** When this agent first saw it. */
  seenAtMs: number;
}

export interface PoolListing {
  staged: StagedEntry[];
  images: ImageEntry[];
  pods: PodFolder[];
  /** What the tmpfs itself has left; null when it cannot be told. */
  freeBytes: number | null;
}

/** Host memory as measured. */
export interface HostMemory {
  totalBytes: number;
  /** What programs can still take without swapping. */
  availableBytes: number;
  /** What the agent's own control group may still take: staged bytes count there; null: no limit. */
  ownBytes: number | null;
}

/** A staging that failed, so that it is not tried again at once. */
export interface Failure {
  key: string;
  atMs: number;
}

export interface StagingFacts {
  nowMs: number;
  /** null until the API server has listed them: nothing is evicted before. */
  pods: readonly StagingPod[] | null;
  /** By weights; absent: not looked for yet. */
  forms: ReadonlyMap<string, Form>;
  pool: PoolListing;
  host: HostMemory | null;
  /** The chart's bound of the pool; null: the agent's own default. */
  boundBytes: number | null;
  /** The key that is being staged. */
  running: string | null;
  failures: readonly Failure[];
  /** As measured; null before the first staging. */
  bytesPerSecond: number | null;
}

export type Eviction =
  | { kind: 'staged'; key: string; bytes: number; because: string }
  | { kind: 'image'; engineHash: string; bytes: number; because: string };

/** Weights that are not staged, so that the loader reads them from disk; or a boot that waits for room for its image. */
export interface Refusal {
  weights: string;
  podUids: string[];
  reason: 'NoRoomToStage' | 'WeightsMissing' | 'WeightsUnusable' | 'NoRoomForImage';
  message: string;
}

/** Host memory for the image of a pod that is to boot yet. */
export interface BootRoom {
  podUid: string;
  /** Of its image, what is not there yet. */
  needBytes: number;
  /** For it, at most: what may go for it counts as gone. */
  freeBytes: number;
  /** Why its boot waits; null: it does not. */
  held: { reason: 'NoRoomForImage' | 'SizeUnknown'; message: string } | null;
}

export interface ToStage {
  weights: string;
  key: string;
  bytes: number;
  podUids: string[];
}

export interface StagingPlan {
  /** The staging under way is to stop where it is; what was read stays. */
  stop: boolean;
  evict: Eviction[];
  /** To begin, or to go on with, now. */
  stage: ToStage | null;
  /** Their turn comes, so their loaders are to wait: places to make, without a byte in them yet. */
  prepare: ToStage[];
  /** Keys that booting engines wait for and whose bytes come in their turn: their loaders are told so at each look. */
  coming: string[];
  /** Keys whose loaders must wait no longer: there is no room after all. */
  abandon: string[];
  refused: Refusal[];
  /** Pods that are to boot yet and need an image; the others need no room. */
  boots: BootRoom[];
}
