/**
 * What the arbiter knows: plain data (Maps, arrays, numbers), owned by the one loop that calls `decide`, which changes it in
 * place. A copy of 64 replicas for each event would cost more than the decision.
 */

import type { Demand, ModelState } from '#proto/link.ts';
import { defaultSettings, type Settings } from '#proto/settings.ts';
import type { CanaryAnswer } from '../canary.ts';
import type { BootRoom } from '../staging/words.ts';
import { leaseGraceMs } from './limits.ts';
import type { ArbiterEffect, BindingFact } from './words.ts';

/**
 * A replica's engine:
 * - `absent`: none runs, its launcher has not asked; `asking`: the launcher waits for a grant;
 * - `booting`: granted, until it is ready and measured; `serving`;
 * - `draining`: a barrier stands; `sleeping`: /sleep was sent; `freeing`: its bytes are measured until they rest; `asleep`;
 * - `waking`: /wake_up was sent; `proving`: it is asked the canary's question; `checking`: its state is not known and was asked; `restarting`: told to end.
 */
export type Phase =
  | 'absent'
  | 'asking'
  | 'booting'
  | 'serving'
  | 'draining'
  | 'sleeping'
  | 'freeing'
  | 'asleep'
  | 'waking'
  | 'proving'
  | 'checking'
  | 'restarting';

export interface Failure {
  reason: string;
  message: string;
  /** The engine's own last words, for operators: they may hold a client's text and never reach one. */
  words?: string;
  /** When it may be tried again; null: final, as things are. */
  retryAtMs: number | null;
}

export interface Leaving {
  /** Why: nobody asked for long, or this pod's UID needs the room. */
  for: string | null;
  /** It had work when it was chosen: its turn was over and the waiter had waited. */
  forced: boolean;
  /** Its sleeps have failed: if this one does too it is restarted for who waits, so it begins only when nothing runs in it. */
  last?: true;
  /** The barrier's epoch was answered: how many still run. */
  inFlight: number | null;
  deadlineMs: number;
}

/** A canary's question, before clients hear that it serves. */
export interface Proof {
  after: 'boot' | 'wake';
  /** A turn begins with it. */
  fresh: boolean;
  /** Of the question that is out; null: not asked yet. */
  id: number | null;
}

export interface Replica {
  podUid: string;
  pod: string;
  namespace: string;
  model: string;
  replica: number;
  /** `namespace/model/replica`: two pods of one key are a roll. */
  key: string;
  uuids: string[];
  /** In the order of first appearance. */
  order: number;
  seenAtMs: number;
  settings: Settings;
  vramBytes: number | null;
  /** Never slept; and reserved bytes on each of `uuids`, null: nobody has said. Both by `refreshBindings`. */
  popular: boolean;
  reservedBytes: (number | null)[];
  /** The API server lists it; `deleting` there. */
  listed: boolean;
  deleting: boolean;
  /** When it was first seen to be deleted, and its pod's own grace; null: not known. */
  deletingSinceMs: number;
  graceMs: number | null;

  attached: boolean;
  detachedAtMs: number;
  /** Highest epoch told. */
  epoch: number;
  told: { state: ModelState; bootReady: boolean; reason: string; message: string; retryAtMs: number | null };
  /** The next step must say the state, changed or not. */
  mustTell: boolean;
  demand: Demand;
  demandAtMs: number;
  bootReady: boolean;
  served: boolean;

  launcher: 'never' | 'connected' | 'gone';
  launcherGoneAtMs: number;
  askedBytes: number;
  /** GPUs by the pod's environment; a grant needs them to agree with the annotation. */
  askedUuids: string[];
  restarts: number;
  waitTold: string | null;
  ending: { sinceMs: number; endSent: boolean; drained: boolean; released: boolean } | null;

  phase: Phase;
  phaseSinceMs: number;
  /** A bound on the phase; null: none. */
  deadlineMs: number | null;
  /** Memory may move until a measurement that started after this. */
  changedAtMs: number;
  /** Its memory is what `bytes` says: a measurement since the last change. */
  proven: boolean;
  /** Bytes on each of `uuids`, as last measured. */
  bytes: number[];
  leaving: Leaving | null;
  /** The engine was found in this state after a restart of the agent, or changed by itself. */
  found: boolean;
  /** When its turn began: clients were first told that it serves. */
  becameServingAtMs: number;
  turnTold: boolean;
  /** An agent before us sent a wake whose answer nobody heard: the engine may say asleep and still take its memory. */
  wakeLeft: boolean;
  /** When its last sleep was sent: a frozen one waits from then on. */
  stoppedAtMs: number;
  askedAtMs: number;
  /** Boot: when the engine said ready. */
  readyAtMs: number | null;
  /** This waiter's victims have been chosen: it goes first. */
  roomMade: boolean;
  /** Its last sleep was for another that waited, until it serves again; its last start had others' sleeps. For metrics. */
  gaveWay: boolean;
  tookRoom: boolean;

  /** A question is out; `askStale`: its answer is older than what happened since. */
  asking: boolean;
  askStale: boolean;
  askTries: number;
  /** While it serves: when it was asked last, and questions in a row that got no answer. */
  probedAtMs: number;
  silences: number;
  retryAtMs: number;
  wakeFailures: number;
  sleepFailures: number;
  /** Ends that clients suffered, and restarts that the agent chose of engines that served well. */
  failures: number;
  chosenRestarts: number;
  failureText: string;
  failureLine: string;
  notBootBeforeMs: number;
  notSleepBeforeMs: number;
  mustRestart: { reason: string; message: string } | null;
  /** It booted, slept or woke since its answers were last known to be its own; null: nobody has said. */
  unproven: boolean | null;
  proof: Proof | null;
  /** Canary's questions so far. */
  probes: number;
  /** What it answered after its boot; null: not known; `none`: it takes no such question. */
  reference: CanaryAnswer | 'none' | null;
  failure: Failure | null;

  awakeBytes: number | null;
  residueBytes: number | null;
  firstResidueBytes: number | null;
  /** Its last sleep ended in a CUDA checkpoint: a residue of another kind. */
  suspended: boolean;
  sleepMs: number | null;
  wakeMs: number | null;
  bootMs: number | null;
  /** Between two returns of clients after idleness, smoothed; null: too few. */
  returnGapMs: number | null;
  returnedAtMs: number | null;
}

export interface Gpu {
  uuid: string;
  index: number;
  totalBytes: number;
  usable: boolean;
  /** In the driver's last list. */
  listed: boolean;
  unusableSinceMs: number | null;
  /** The API server has its resource; true while nothing was ever heard of resources. */
  resource: boolean;
  bindings: BindingFact[];
  /** The driver's free and used bytes of the last measurement; null: never measured. */
  freeBytes: number | null;
  usedBytes: number | null;
  measuredAtMs: number;
  foreignBytes: number;
  foreignSinceMs: number;
  /** The newest change of memory by our own doing. */
  changedAtMs: number;
  /** A measurement that began after this is hoped for. */
  wantedMs: number;
}

export interface ArbiterState {
  /** Each boot and wake is followed by a canary's question. */
  canary: boolean;
  nowMs: number;
  startedAtMs: number | null;
  settled: boolean;
  settledAtMs: number;
  podsListed: boolean;
  resourcesListed: boolean;
  replicas: Map<string, Replica>;
  /** Pod UIDs by replica key. */
  keys: Map<string, string[]>;
  gpus: Map<string, Gpu>;
  /** Boots that need host memory, by pod UID; as staging last said. */
  hostMemory: ReadonlyMap<string, BootRoom>;
  order: number;
  /** Lists, settings or names have changed since `refreshBindings`. */
  bindingsStale: boolean;
  timerMs: number | null;
  measuring: boolean;
  measureSentAtMs: number;
  /** No measurement is asked for before this. */
  measureAgainAtMs: number;
  /** Since when a fresh measurement is hoped for; one that began earlier does not count. */
  measureWantedMs: number;
}

export interface ArbiterOptions {
  /** Monotonic ms of the agent's start. */
  startedAtMs?: number;
  /** Each boot and wake is followed by a canary's question; off unless said. */
  canary?: boolean;
}

/** One call of `decide`: the state, the time and what is to be done. */
export interface Step {
  state: ArbiterState;
  now: number;
  effects: ArbiterEffect[];
  /** The next moment at which time alone changes something. */
  nextMs: number;
  /** Something moved that may let something else move. */
  changed: boolean;
}

/** Whether that moment has come; if not, the step's timer is set no later than it. */
export function isDue(step: Step, atMs: number): boolean {
  if (step.now >= atMs) return true;
  if (atMs < step.nextMs) step.nextMs = atMs;
  return false;
}

export function initialState(options: ArbiterOptions = {}): ArbiterState {
  return {
    canary: options.canary ?? false,
    nowMs: options.startedAtMs ?? 0,
    startedAtMs: options.startedAtMs ?? null,
    settled: false,
    settledAtMs: 0,
    podsListed: false,
    resourcesListed: false,
    replicas: new Map(),
    keys: new Map(),
    gpus: new Map(),
    hostMemory: new Map(),
    order: 0,
    bindingsStale: false,
    timerMs: null,
    measuring: false,
    measureSentAtMs: 0,
    measureAgainAtMs: 0,
    measureWantedMs: 0,
  };
}

const noDemand: Demand = { inFlight: 0, queued: 0, oldestWaitMs: 0, idleMs: 0, requestsTotal: 0 };

/** A replica of which nothing but its pod's UID is known. */
export function newReplica(podUid: string, now: number, order: number): Replica {
  return {
    podUid,
    pod: '',
    namespace: '',
    model: '',
    replica: 0,
    key: '',
    uuids: [],
    order,
    seenAtMs: now,
    settings: defaultSettings,
    vramBytes: null,
    popular: false,
    reservedBytes: [],
    listed: false,
    deleting: false,
    deletingSinceMs: now,
    graceMs: null,
    attached: false,
    detachedAtMs: now,
    epoch: 0,
    told: { state: 'STATE_UNKNOWN', bootReady: false, reason: '', message: '', retryAtMs: null },
    mustTell: false,
    demand: noDemand,
    demandAtMs: now,
    bootReady: false,
    served: false,
    launcher: 'never',
    launcherGoneAtMs: now,
    askedBytes: 0,
    askedUuids: [],
    restarts: 0,
    waitTold: null,
    ending: null,
    phase: 'absent',
    phaseSinceMs: now,
    deadlineMs: null,
    changedAtMs: now,
    proven: true,
    bytes: [],
    leaving: null,
    found: false,
    becameServingAtMs: now,
    turnTold: false,
    wakeLeft: false,
    stoppedAtMs: now,
    askedAtMs: now,
    readyAtMs: null,
    roomMade: false,
    gaveWay: false,
    tookRoom: false,
    asking: false,
    askStale: false,
    askTries: 0,
    probedAtMs: now,
    silences: 0,
    retryAtMs: 0,
    wakeFailures: 0,
    sleepFailures: 0,
    failures: 0,
    chosenRestarts: 0,
    failureText: '',
    failureLine: '',
    notBootBeforeMs: 0,
    notSleepBeforeMs: 0,
    mustRestart: null,
    unproven: null,
    proof: null,
    probes: 0,
    reference: null,
    failure: null,
    awakeBytes: null,
    residueBytes: null,
    firstResidueBytes: null,
    suspended: false,
    sleepMs: null,
    wakeMs: null,
    bootMs: null,
    returnGapMs: null,
    returnedAtMs: null,
  };
}

/**
 * After the agent's start: its launcher has said nothing yet, so an engine may run or even boot under an older grant. One
 * whose pod appears later is new, unless its memory tells otherwise.
 */
export function isUnheard(state: ArbiterState, replica: Replica): boolean {
  if (replica.phase !== 'absent' || replica.launcher !== 'never') return false;
  const early = replica.seenAtMs <= state.settledAtMs || replica.bytes.some((bytes) => bytes > 0);
  return early && state.nowMs < unheardUntilMs(state, replica);
}

export const unheardUntilMs = (state: ArbiterState, replica: Replica): number =>
  Math.max(state.settledAtMs, replica.seenAtMs) + leaseGraceMs;

export function gpusOf(state: ArbiterState, replica: Replica): Gpu[] {
  const found: Gpu[] = [];
  for (const uuid of replica.uuids) {
    const gpu = state.gpus.get(uuid);
    if (gpu) found.push(gpu);
  }
  return found;
}

/** The driver does not list one of its GPUs, or it is not well: asleep or frozen, it could not wake. */
export const lacksGpu = (state: ArbiterState, replica: Replica): boolean =>
  gpusOf(state, replica).some((gpu) => !gpu.listed || !gpu.usable);

/** The binding of this replica on this GPU; null: none, or no list has come yet. */
export function bindingOn(gpu: Gpu, replica: Replica): BindingFact | null {
  for (const binding of gpu.bindings) {
    if (
      binding.model === replica.model &&
      binding.replica === replica.replica &&
      binding.namespace === replica.namespace
    )
      return binding;
  }
  return null;
}

/** Its resource is there and whole: one that was deleted by hand comes back without the bindings of the pods that are on it. */
export function hasItsBindings(state: ArbiterState, gpu: Gpu): boolean {
  if (!gpu.resource || !state.resourcesListed || gpu.bindings.length > 0) return gpu.resource;
  for (const replica of state.replicas.values()) {
    if (replica.listed && !replica.deleting && replica.uuids.includes(gpu.uuid)) return false;
  }
  return true;
}

/**
 * What follows from lists and settings for each replica, kept so that no decision searches for it: whether it is popular
 * (by its binding, which the controller turns on when there is room; without a list by its settings) and what is reserved.
 */
export function refreshBindings(state: ArbiterState): void {
  state.bindingsStale = false;
  for (const replica of state.replicas.values()) {
    let popular: boolean | null = null;
    replica.reservedBytes = replica.uuids.map((uuid) => {
      const gpu = state.gpus.get(uuid);
      const binding = gpu ? bindingOn(gpu, replica) : null;
      if (binding && state.resourcesListed) popular ??= binding.popular;
      return binding?.reservedBytes ?? replica.vramBytes ?? (replica.askedBytes || null);
    });
    replica.popular = popular ?? replica.settings.fairness.popular;
  }
}

/** The memory of its engine is about to move or has just moved by our doing. */
export function memoryMoves(step: Step, replica: Replica): void {
  replica.changedAtMs = step.now;
  replica.proven = false;
  step.state.measureWantedMs = step.now;
  step.state.measureAgainAtMs = step.now;
  for (const gpu of gpusOf(step.state, replica)) gpu.changedAtMs = step.now;
}

/** Phases in which weights move. */
const unprovenBy: ReadonlySet<Phase> = new Set(['booting', 'sleeping', 'freeing', 'asleep', 'waking']);

export function enter(step: Step, replica: Replica, phase: Phase, deadlineMs: number | null = null): void {
  step.changed = true;
  replica.phase = phase;
  replica.phaseSinceMs = step.now;
  replica.deadlineMs = deadlineMs;
  if (phase !== 'draining' && phase !== 'sleeping') replica.leaving = null;
  if (phase !== 'checking') replica.wakeLeft = false;
  if (phase !== 'proving') replica.proof = null;
  if (unprovenBy.has(phase)) replica.unproven = true;
}

/** Smoothed with the newest value weighing `averageWeight`. */
export function smooth(before: number | null, value: number, weight: number): number {
  return before === null ? value : before + weight * (value - before);
}

export const hasEngine = (replica: Replica): boolean =>
  replica.phase !== 'absent' && replica.phase !== 'asking';
