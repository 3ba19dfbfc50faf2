/** Single pieces of the arbiter's state, for tests of one function: what is not said is as in a node at rest. */
import {
  type ArbiterState,
  type Gpu,
  initialState,
  newReplica,
  type Replica,
  type Step,
} from '../../../../agent/decide/arbiter/state.ts';

export const GiB = 2 ** 30;
export const MiB = 2 ** 20;

export function gpu(rest: Partial<Gpu> = {}): Gpu {
  return {
    uuid: 'GPU-0',
    index: 0,
    totalBytes: 80 * GiB,
    usable: true,
    listed: true,
    unusableSinceMs: null,
    resource: true,
    bindings: [],
    freeBytes: 80 * GiB,
    usedBytes: 0,
    measuredAtMs: 0,
    foreignBytes: 0,
    foreignSinceMs: 0,
    changedAtMs: 0,
    wantedMs: 0,
    ...rest,
  };
}

/** An engine that serves, as its clients know, attached, idle since 0, with 20 GiB reserved on GPU-0. */
export function replica(podUid: string, rest: Partial<Replica> = {}): Replica {
  const made = newReplica(podUid, 0, 0);
  const uuids = rest.uuids ?? ['GPU-0'];
  return {
    ...made,
    model: podUid,
    namespace: 'default',
    key: `default/${podUid}/0`,
    uuids,
    reservedBytes: uuids.map(() => 20 * GiB),
    vramBytes: 20 * GiB,
    phase: 'serving',
    attached: true,
    launcher: 'connected',
    bootReady: true,
    listed: true,
    turnTold: ['serving', 'draining'].includes(rest.phase ?? 'serving'),
    ...rest,
  };
}

export function stateOf(gpus: Gpu[], replicas: Replica[], now = 100_000): ArbiterState {
  const state = initialState({ startedAtMs: 0 });
  state.nowMs = now;
  state.settled = true;
  for (const one of gpus) state.gpus.set(one.uuid, one);
  for (const one of replicas) {
    state.replicas.set(one.podUid, one);
    state.keys.set(one.key, [...(state.keys.get(one.key) ?? []), one.podUid]);
  }
  return state;
}

export function stepOf(state: ArbiterState): Step {
  return { state, now: state.nowMs, effects: [], nextMs: Number.POSITIVE_INFINITY, changed: false };
}
