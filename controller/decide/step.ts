/** The controller's state and its one way to change: an event comes in, effects come out. */
import type { KubernetesObject } from '#platform/kubernetes/client.ts';
import { appliedKey, type Effect, effectKey } from './effects.ts';
import { keyOf } from './kubernetes.ts';
import { plan } from './plan.ts';
import { projected } from './projection.ts';
import type { ControllerSettings } from './settings.ts';
import { remember } from './silence.ts';
import { type Memory, type Snapshot, type WatchedKind, watchedKinds } from './snapshot.ts';

export type ControllerEvent =
  /** A complete list of one kind. */
  | { type: 'synced'; kind: WatchedKind; objects: KubernetesObject[] }
  | { type: 'put'; kind: WatchedKind; object: KubernetesObject }
  | { type: 'gone'; kind: WatchedKind; object: KubernetesObject }
  | { type: 'leading' }
  /** Time to look whether anything is to be done. */
  | { type: 'tick' }
  /** An effect's end; `object` is the API server's answer. */
  | { type: 'done'; effect: Effect; object: KubernetesObject | null }
  /** `status` of HTTP; 0 when there was no answer. */
  | { type: 'failed'; effect: Effect; message: string; status: number };

/** Effects under way at once; the rest comes with the next tick. */
export const inFlightMax = 32;
/** Bounds of the pause before a failed effect is tried again, ms; it doubles. */
export const retryMs = { least: 500, most: 60_000 };
/** After a deletion the watch must have told of it by now; until then it is not asked for twice, ms. */
export const settleMs = 1_000;
/** An apply that changed nothing (another writer owns what differs) is not repeated before this, ms. */
export const futileMs = 60_000;
/** Statuses by which the API server says no, not merely not now. */
const refusedStatuses = [400, 403, 422];
/** Objects known to be gone, so that a late answer does not bring one back. */
const goneMax = 4_096;

interface Attempt {
  isRunning: boolean;
  failures: number;
  /** Not again before this, ms. */
  notBeforeMs: number;
  /** Version of the object that an apply was planned on; null for other effects. */
  plannedOn: string | null;
  /** What an apply said that changed nothing: only that waits, another content may go at once. */
  futile: string | null;
}

export interface State {
  caches: { [Kind in WatchedKind]: Map<string, KubernetesObject> };
  synced: Set<WatchedKind>;
  leading: boolean;
  memory: Memory;
  attempts: Map<string, Attempt>;
  /** What the API server refused, by the effect's key. */
  refusals: Map<string, string>;
  gone: Set<string>;
}

export const emptyState = (): State => ({
  caches: {
    models: new Map(),
    gpus: new Map(),
    nodes: new Map(),
    pods: new Map(),
    ownPods: new Map(),
    jobs: new Map(),
    services: new Map(),
    routes: new Map(),
    progress: new Map(),
  },
  synced: new Set(),
  leading: false,
  memory: {
    nodeSilentSince: new Map(),
    agentSilentSince: new Map(),
    refusals: new Map(),
    engineFailures: new Map(),
  },
  refusals: new Map(),
  attempts: new Map(),
  gone: new Set(),
});

export interface Step {
  effects: Effect[];
  /** Whether a tick should follow soon. */
  isDirty: boolean;
  /** A tick is wanted at this moment, ms; null: none. */
  wakeAtMs: number | null;
}

const nothing: Step = { effects: [], isDirty: false, wakeAtMs: null };
const dirty: Step = { effects: [], isDirty: true, wakeAtMs: null };

/** Progress is for people: nothing waits for it. */
export const isSynced = (state: State): boolean =>
  watchedKinds.every((kind) => kind === 'progress' || state.synced.has(kind));

/** Takes an event into the state; only a tick of a leader whose lists are complete answers with effects. */
export function step(
  state: State,
  event: ControllerEvent,
  settings: ControllerSettings,
  nowMs: number,
): Step {
  switch (event.type) {
    case 'synced':
      state.caches[event.kind] = new Map(
        event.objects.map((object) => [keyOf(object), projected(event.kind, object)]),
      );
      state.synced.add(event.kind);
      return dirty;
    case 'put':
      return put(state, event.kind, event.object) ? dirty : nothing;
    case 'gone':
      drop(state, event.kind, event.object);
      return dirty;
    case 'leading':
      state.leading = true;
      return dirty;
    case 'done':
      succeeded(state, event.effect, event.object, nowMs);
      return dirty;
    case 'failed':
      failed(state, event.effect, nowMs);
      if (refusedStatuses.includes(event.status)) state.refusals.set(effectKey(event.effect), event.message);
      return dirty;
    case 'tick':
      return tick(state, settings, nowMs);
  }
}

function succeeded(state: State, effect: Effect, object: KubernetesObject | null, nowMs: number): void {
  const plannedOn = state.attempts.get(effectKey(effect))?.plannedOn ?? null;
  if (object) put(state, effect.kind, object);
  state.refusals.delete(effectKey(effect));
  const isFutile = plannedOn !== null && object?.metadata.resourceVersion === plannedOn;
  const pauseMs = isFutile ? futileMs : object ? 0 : settleMs;
  state.attempts.set(effectKey(effect), {
    isRunning: false,
    failures: 0,
    notBeforeMs: nowMs + pauseMs,
    plannedOn: null,
    futile: isFutile ? contentOf(effect) : null,
  });
}

const contentOf = (effect: Effect): string => ('object' in effect ? JSON.stringify(effect.object) : '');

const waits = (attempt: Attempt, effect: Effect, nowMs: number): boolean =>
  attempt.notBeforeMs > nowMs && (attempt.futile === null || attempt.futile === contentOf(effect));

function failed(state: State, effect: Effect, nowMs: number): void {
  const failures = (state.attempts.get(effectKey(effect))?.failures ?? 0) + 1;
  const pauseMs = Math.min(retryMs.least * 2 ** Math.min(failures - 1, 16), retryMs.most);
  state.attempts.set(effectKey(effect), {
    isRunning: false,
    failures,
    notBeforeMs: nowMs + pauseMs,
    plannedOn: null,
    futile: null,
  });
}

/** Whether `left` is an older state of an object than `right`: versions of one object grow (Kubernetes 1.35 says so too). */
function isOlder(left: KubernetesObject, right: KubernetesObject): boolean {
  const versions = [left, right].map(({ metadata }) => metadata.resourceVersion ?? '');
  const [before = '', after = ''] = versions;
  if (!versions.every((version) => /^[0-9]+$/.test(version))) return false;
  return before.length === after.length ? before < after : before.length < after.length;
}

/** Whether the cache changed. */
function put(state: State, kind: WatchedKind, object: KubernetesObject): boolean {
  const cache = state.caches[kind];
  const key = keyOf(object);
  const found = cache.get(key);
  if (state.gone.has(object.metadata.uid ?? '')) return false;
  if (found && found.metadata.uid === object.metadata.uid && isOlder(object, found)) return false;
  cache.set(key, projected(kind, object));
  return true;
}

function drop(state: State, kind: WatchedKind, object: KubernetesObject): void {
  const key = keyOf(object);
  const found = state.caches[kind].get(key);
  if (found?.metadata.uid === object.metadata.uid) state.caches[kind].delete(key);
  state.gone.add(object.metadata.uid ?? '');
  for (const oldest of state.gone) {
    if (state.gone.size <= goneMax) break;
    state.gone.delete(oldest);
  }
}

function tick(state: State, settings: ControllerSettings, nowMs: number): Step {
  if (!isSynced(state)) return nothing;
  const snapshot = state.caches as unknown as Snapshot;
  state.memory = { ...remember(state.memory, snapshot, nowMs), refusals: state.refusals };
  if (!state.leading) return nothing;
  const planned = plan(snapshot, state.memory, settings, nowMs);
  const effects: Effect[] = [];
  let wakeAtMs = planned.wakeAtMs;
  let running = [...state.attempts.values()].filter(({ isRunning }) => isRunning).length;
  const wanted = new Set(planned.effects.map(effectKey));
  for (const effect of planned.effects) {
    const attempt = state.attempts.get(effectKey(effect));
    if (attempt?.isRunning || running >= inFlightMax) continue;
    if (attempt && waits(attempt, effect, nowMs)) {
      wakeAtMs = Math.min(wakeAtMs ?? attempt.notBeforeMs, attempt.notBeforeMs);
      continue;
    }
    state.attempts.set(effectKey(effect), {
      isRunning: true,
      failures: attempt?.failures ?? 0,
      notBeforeMs: nowMs,
      plannedOn: versionOf(state, effect),
      futile: null,
    });
    running += 1;
    effects.push(effect);
  }
  forget(state, wanted, nowMs);
  return { effects, isDirty: false, wakeAtMs };
}

function versionOf(state: State, effect: Effect): string | null {
  const key = appliedKey(effect);
  return key === null ? null : (state.caches[effect.kind].get(key)?.metadata.resourceVersion ?? null);
}

/** Attempts at what nobody wants any more are forgotten once their pause is over. */
function forget(state: State, wanted: ReadonlySet<string>, nowMs: number): void {
  for (const [key, attempt] of state.attempts) {
    if (!attempt.isRunning && attempt.notBeforeMs <= nowMs && !wanted.has(key)) state.attempts.delete(key);
  }
  for (const key of state.refusals.keys()) if (!wanted.has(key)) state.refusals.delete(key);
}
