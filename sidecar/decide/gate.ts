/**
 * The gate: which request may go to the engine now, and in which order. It obeys what the agent told last and never
 * decides who is awake. Requests are numbers here; their sockets and bodies live elsewhere.
 *
 * The loop owns the state and hands it to `step` with one event at a time; `step` changes it in place (a queue of 100,000
 * is not copied for each arrival) and answers with effects. Every accepted request leaves exactly once: to the engine, to
 * a sibling, as a refusal, or with its client.
 */
import type { Demand, ModelState, State } from '#proto/link.ts';
import type { Refusal } from './refusals.ts';

/** First pause after the engine refused a connection, and the longest: one request probes, the rest keep their places. */
const awayMsFirst = 100;
const awayMsMax = 1000;

export interface Limits {
  maxQueued: number;
  maxQueuedBytes: number;
  maxWaitMs: number;
}

export interface Waiting {
  id: number;
  bytes: number;
  /** Its place in the order of arrival, kept also when it comes back from an engine. */
  place: number;
  /** When it arrived: its deadline follows from it. */
  sinceMs: number;
  /** It came from a sibling and is never handed on twice. */
  hopped: boolean;
}

export interface Gate {
  limits: Limits;
  told: State;
  toldAtMs: number;
  /** An agent answers on the link. */
  linked: boolean;
  /** When the wake or boot under way began, as told; null: none. */
  wakeSinceMs: number | null;
  /** The pod is being ended; not drained before `settledAtMs`, `drained` once that was said. */
  ending: { settledAtMs: number; drained: boolean } | null;
  /** Accepted before all of `queue` and come back unsent, or to be sent once more; in order. */
  returned: Waiting[];
  /** In order of arrival. */
  queue: Map<number, Waiting>;
  queuedBytes: number;
  /** Sent to the engine, answer not complete; frozen ones too. */
  inFlight: Map<number, Waiting>;
  /** Given to a sibling, answer not complete. */
  handedOn: Set<number>;
  /** The engine refuses connections although it should serve: who may try, and when. */
  away: { probeAtMs: number; pauseMs: number; probe: number | null } | null;
  lastActiveMs: number;
  requestsTotal: number;
}

export type GateEvent =
  | { type: 'arrived'; id: number; bytes: number; hopped: boolean; atMs: number }
  /** The client left, wherever its request was. */
  | { type: 'left'; id: number; atMs: number }
  /** The engine took the request (its connection stands). */
  | { type: 'sent'; id: number; atMs: number }
  /** The engine or the sibling is done with it, well or badly. */
  | { type: 'finished'; id: number; atMs: number }
  /** The engine ended its connection before the answer was whole; nobody tries it again. */
  | { type: 'cut'; id: number; atMs: number }
  /** No connection to the engine, or its end before a byte came back and the client allowed another try. */
  | { type: 'unsent'; id: number; atMs: number }
  | { type: 'told'; state: State; atMs: number }
  | { type: 'barrier'; epoch: number; atMs: number }
  | { type: 'link'; up: boolean; atMs: number }
  | { type: 'limits'; limits: Limits; atMs: number }
  /** `settleMs`: so long may balancers and kube-proxy go on sending new connections here. */
  | { type: 'end'; settleMs: number; atMs: number }
  | { type: 'tick'; atMs: number };

export type GateEffect =
  | { do: 'pass'; id: number; queueMs: number; wakeMs: number }
  | { do: 'hold'; id: number }
  | { do: 'refuse'; id: number; refusal: Refusal; queueMs: number }
  | { do: 'handOn'; id: number; queueMs: number }
  | { do: 'barrierUp'; epoch: number; inFlight: number }
  | { do: 'ending'; drained: boolean };

export function newGate(limits: Limits, atMs: number): Gate {
  return {
    limits,
    told: {
      epoch: 0,
      state: 'STATE_UNKNOWN',
      bootReady: false,
      reason: '',
      message: '',
      retryAfterMs: 0,
      expectedMs: 0,
    },
    toldAtMs: atMs,
    linked: false,
    wakeSinceMs: null,
    ending: null,
    returned: [],
    queue: new Map(),
    queuedBytes: 0,
    inFlight: new Map(),
    handedOn: new Set(),
    away: null,
    lastActiveMs: atMs,
    requestsTotal: 0,
  };
}

export const queuedCount = (gate: Gate): number => gate.queue.size + gate.returned.length;

const isBarriered = (gate: Gate): boolean => gate.told.state === 'DEACTIVATING';

/** The one that has waited longest; null: nobody waits. */
function head(gate: Gate): Waiting | null {
  if (gate.returned.length > 0) return gate.returned[0]!;
  for (const waiting of gate.queue.values()) return waiting;
  return null;
}

/** What the agent is told of clients' wants; `oldestWaitMs` is at least 1 while somebody waits. */
export function demandOf(gate: Gate, nowMs: number): Demand {
  const oldest = head(gate);
  const busy = oldest !== null || gate.inFlight.size > 0;
  return {
    inFlight: gate.inFlight.size,
    queued: queuedCount(gate),
    oldestWaitMs: oldest === null ? 0 : Math.max(1, Math.round(nowMs - oldest.sinceMs)),
    idleMs: busy ? 0 : Math.max(0, Math.round(nowMs - gate.lastActiveMs)),
    requestsTotal: gate.requestsTotal,
  };
}

/** When `step` wants its next tick: the head's deadline or the next probe; null: nothing waits. */
export function nextTickMs(gate: Gate): number | null {
  if (gate.ending && !gate.ending.drained && isEmpty(gate)) return gate.ending.settledAtMs;
  const oldest = head(gate);
  if (oldest === null) return null;
  const deadline = oldest.sinceMs + gate.limits.maxWaitMs;
  const probes = gate.away !== null && gate.away.probe === null && gate.told.state === 'SERVING';
  return probes ? Math.min(deadline, gate.away!.probeAtMs) : deadline;
}

/** Carries one event into the state. */
export function step(gate: Gate, event: GateEvent): GateEffect[] {
  const effects: GateEffect[] = [];
  switch (event.type) {
    case 'arrived':
      arrive(gate, event, effects);
      break;
    case 'left':
    case 'finished':
      finish(gate, event, effects);
      break;
    case 'sent':
      if (!gate.away) break;
      gate.away = null;
      release(gate, event.atMs, effects);
      break;
    case 'unsent':
      giveBack(gate, event, effects);
      break;
    case 'cut':
      if (gate.told.state === 'SERVING') goAway(gate, event);
      finish(gate, event, effects);
      break;
    case 'told':
      tell(gate, event.state, event.atMs, effects);
      break;
    case 'barrier':
      raise(gate, event.epoch, event.atMs, effects);
      break;
    case 'link':
      gate.linked = event.up;
      break;
    case 'limits':
      gate.limits = event.limits;
      expire(gate, event.atMs, effects);
      break;
    case 'end':
      end(gate, event, effects);
      break;
    case 'tick':
      expire(gate, event.atMs, effects);
      release(gate, event.atMs, effects);
      break;
    default:
      event satisfies never;
  }
  drained(gate, event.atMs, effects);
  return effects;
}

/**
 * A new request:
 * 1. the pod ends → to a sibling, or refused when it came from one;
 * 2. the model cannot be woken → refused with the agent's reason;
 * 3. it serves (then nobody waits) → passes;
 * 4. number or bytes are full → refused; 5. waits.
 * A body that alone exceeds maxQueuedBytes may wait when nothing else does: else it could never wake the model.
 */
function arrive(gate: Gate, event: GateEvent & { type: 'arrived' }, effects: GateEffect[]) {
  const { id, bytes, hopped, atMs } = event;
  gate.requestsTotal++;
  gate.lastActiveMs = atMs;
  const waiting: Waiting = { id, bytes, place: gate.requestsTotal, sinceMs: atMs, hopped };
  if (gate.ending) return leaveAtEnd(gate, waiting, atMs, effects);
  const failure = failureNow(gate, atMs);
  if (failure) {
    effects.push({ do: 'refuse', id, refusal: failure, queueMs: 0 });
    return;
  }
  if (gate.told.state === 'SERVING' && !gate.away) {
    gate.inFlight.set(id, waiting);
    effects.push({ do: 'pass', id, queueMs: 0, wakeMs: 0 });
    return;
  }
  const queued = queuedCount(gate);
  const retryAfterMs = expectedInMs(gate, atMs);
  if (queued >= gate.limits.maxQueued) {
    effects.push({ do: 'refuse', id, refusal: { code: 'queue_full', retryAfterMs }, queueMs: 0 });
    return;
  }
  if (queued > 0 && gate.queuedBytes + bytes > gate.limits.maxQueuedBytes) {
    effects.push({ do: 'refuse', id, refusal: { code: 'queue_bytes_full', retryAfterMs }, queueMs: 0 });
    return;
  }
  gate.queue.set(id, waiting);
  gate.queuedBytes += bytes;
  effects.push({ do: 'hold', id });
  release(gate, atMs, effects);
}

/** When the agent expects the model to serve, from now; null where it did not say. */
function expectedInMs({ told, toldAtMs }: Gate, atMs: number): number | null {
  return told.expectedMs === 0 ? null : Math.max(0, toldAtMs + told.expectedMs - atMs);
}

/** Why nothing can be served now; null when it can, or when it is time to ask the agent again. */
function failureNow(gate: Gate, atMs: number): Refusal | null {
  const { state, reason, message, retryAfterMs } = gate.told;
  if (state !== 'FAILED') return null;
  const detail = [reason, message].filter(Boolean).join(': ');
  if (retryAfterMs === 0) return { code: 'model_unservable', detail };
  const leftMs = gate.toldAtMs + retryAfterMs - atMs;
  return leftMs <= 0 ? null : { code: 'model_failed', detail, retryAfterMs: leftMs };
}

function take(gate: Gate, id: number): Waiting | null {
  const at = gate.returned.findIndex((waiting) => waiting.id === id);
  const found = at === -1 ? gate.queue.get(id) : gate.returned.splice(at, 1)[0];
  if (!found) return null;
  gate.queue.delete(id);
  gate.queuedBytes -= found.bytes;
  return found;
}

function finish(gate: Gate, { id, atMs }: { id: number; atMs: number }, effects: GateEffect[]): void {
  if (gate.inFlight.delete(id)) {
    gate.lastActiveMs = atMs;
    sayBarrier(gate, effects);
    if (gate.away?.probe === id) gate.away.probe = null;
    release(gate, atMs, effects);
  } else if (take(gate, id)) gate.lastActiveMs = atMs;
  else gate.handedOn.delete(id);
}

/** Back to its place: before all that never left, in order among those that did. */
function giveBack(gate: Gate, { id, atMs }: { id: number; atMs: number }, effects: GateEffect[]) {
  const waiting = gate.inFlight.get(id);
  if (!waiting) return;
  gate.inFlight.delete(id);
  sayBarrier(gate, effects);
  if (gate.ending) return leaveAtEnd(gate, waiting, atMs, effects);
  const at = gate.returned.findIndex((other) => other.place > waiting.place);
  gate.returned.splice(at === -1 ? gate.returned.length : at, 0, waiting);
  gate.queuedBytes += waiting.bytes;
  effects.push({ do: 'hold', id });
  goAway(gate, { id, atMs });
}

/**
 * The engine did not take a request, or ended its connection: it may be dying, and its socket takes connections until it is
 * gone. Nothing passes for a moment, then one request to see.
 */
function goAway(gate: Gate, { id, atMs }: { id: number; atMs: number }): void {
  if (gate.away && gate.away.probe !== id) return;
  const pauseMs = gate.away ? Math.min(gate.away.pauseMs * 2, awayMsMax) : awayMsFirst;
  gate.away = { probeAtMs: atMs + pauseMs, pauseMs, probe: null };
}

/** Lets pass what may: all in order; while the engine is away only one, as a probe. */
function release(gate: Gate, atMs: number, effects: GateEffect[]): void {
  if (gate.told.state !== 'SERVING' || gate.ending) return;
  if (gate.away && (gate.away.probe !== null || atMs < gate.away.probeAtMs)) return;
  for (let next = head(gate); next !== null; next = head(gate)) {
    take(gate, next.id);
    gate.inFlight.set(next.id, next);
    const queueMs = atMs - next.sinceMs;
    const wakeMs = gate.wakeSinceMs === null ? 0 : atMs - Math.max(next.sinceMs, gate.wakeSinceMs);
    effects.push({ do: 'pass', id: next.id, queueMs, wakeMs });
    if (gate.away) {
      gate.away.probe = next.id;
      return;
    }
  }
}

function expire(gate: Gate, atMs: number, effects: GateEffect[]): void {
  for (let next = head(gate); next !== null; next = head(gate)) {
    const queueMs = atMs - next.sinceMs;
    if (queueMs < gate.limits.maxWaitMs) return;
    take(gate, next.id);
    gate.lastActiveMs = atMs;
    const refusal: Refusal = { code: 'wait_timeout', retryAfterMs: expectedInMs(gate, atMs) };
    effects.push({ do: 'refuse', id: next.id, refusal, queueMs });
  }
}

const isWaking = (state: ModelState): boolean => state === 'WAKING';

/** The state that holds from now on; an older epoch is ignored. */
function tell(gate: Gate, state: State, atMs: number, effects: GateEffect[]): void {
  if (state.epoch < gate.told.epoch) return;
  const before = gate.told.state;
  gate.told = state;
  gate.toldAtMs = atMs;
  gate.away = null;
  if (isWaking(state.state) && !isWaking(before)) gate.wakeSinceMs = atMs;
  if (!isWaking(state.state) && state.state !== 'SERVING') gate.wakeSinceMs = null;
  sayBarrier(gate, effects);
  const failure = failureNow(gate, atMs);
  for (let next = head(gate); failure && next !== null; next = head(gate)) {
    take(gate, next.id);
    effects.push({ do: 'refuse', id: next.id, refusal: failure, queueMs: atMs - next.sinceMs });
  }
  release(gate, atMs, effects);
  if (state.state === 'SERVING') gate.wakeSinceMs = null;
}

function raise(gate: Gate, epoch: number, atMs: number, effects: GateEffect[]): void {
  if (epoch < gate.told.epoch) return;
  gate.told = { ...gate.told, epoch, state: 'DEACTIVATING', reason: '', message: '', expectedMs: 0 };
  gate.toldAtMs = atMs;
  gate.wakeSinceMs = null;
  gate.away = null;
  sayBarrier(gate, effects);
}

function sayBarrier(gate: Gate, effects: GateEffect[]): void {
  if (isBarriered(gate)) {
    effects.push({ do: 'barrierUp', epoch: gate.told.epoch, inFlight: gate.inFlight.size });
  }
}

function leaveAtEnd(gate: Gate, waiting: Waiting, atMs: number, effects: GateEffect[]): void {
  const queueMs = atMs - waiting.sinceMs;
  if (waiting.hopped) {
    effects.push({ do: 'refuse', id: waiting.id, refusal: { code: 'pod_ending' }, queueMs });
    return;
  }
  gate.handedOn.add(waiting.id);
  effects.push({ do: 'handOn', id: waiting.id, queueMs });
}

function end(gate: Gate, event: GateEvent & { type: 'end' }, effects: GateEffect[]): void {
  if (gate.ending) return;
  const { atMs, settleMs } = event;
  gate.ending = { settledAtMs: atMs + settleMs, drained: false };
  effects.push({ do: 'ending', drained: false });
  for (let next = head(gate); next !== null; next = head(gate)) {
    take(gate, next.id);
    leaveAtEnd(gate, next, atMs, effects);
  }
}

const isEmpty = (gate: Gate): boolean => gate.inFlight.size === 0 && gate.handedOn.size === 0;

/** Said once; what arrives later is handed on and changes nothing for the engine. */
function drained(gate: Gate, atMs: number, effects: GateEffect[]): void {
  if (!gate.ending || gate.ending.drained) return;
  if (!isEmpty(gate) || atMs < gate.ending.settledAtMs) return;
  gate.ending.drained = true;
  effects.push({ do: 'ending', drained: true });
}
