/** Metrics of what the arbiter heard and did, from the events and effects that pass through the loop. */
import { Counter, Gauge, Histogram, type Registry } from 'prom-client';
import type { ModelState } from '#proto/link.ts';
import type { ArbiterEffect, ArbiterEvent } from '../decide/arbiter/words.ts';

/** Seconds: a wish with room takes a few milliseconds, one that needs a victim some seconds. */
const wishBuckets = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];
/** Seconds: from a wake out of shared memory to a sleep that copies hundreds of gigabytes. */
const transitionBuckets = [0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128];

interface Wish {
  atMs: number;
  /** Somebody on this node was between two states since: the wake waited for memory, not for us alone. */
  made: boolean;
}

export interface ArbiterMetrics {
  /** Before each decision: a wake may be on its way before the step is over. */
  heard(event: ArbiterEvent): void;
  /** Before each effect is carried out. */
  did(effect: ArbiterEffect, atMs: number): void;
  /** The wake call is on its way to the engine. */
  wakeSent(podUid: string, atMs: number): void;
}

/** States told to a sidecar while its engine moves, or waits to. */
const moving: ReadonlySet<ModelState> = new Set(['DEACTIVATING', 'WAKING']);

export function createArbiterMetrics(registry: Registry): ArbiterMetrics {
  const registers = [registry];
  const wishToWake = new Histogram({
    name: 'gthread_agent_wish_to_wake_seconds',
    help: "From a sidecar's first waiter to the wake call to its engine; room=free: nobody else had to move.",
    labelNames: ['room'],
    buckets: wishBuckets,
    registers,
  });
  const wake = new Histogram({
    name: 'gthread_agent_wake_duration_seconds',
    help: 'Wake calls, until the engine said it is awake.',
    labelNames: ['outcome'],
    buckets: transitionBuckets,
    registers,
  });
  const sleep = new Histogram({
    name: 'gthread_agent_sleep_duration_seconds',
    help: "Sleep calls, until the engine's answer; what the GPU says follows.",
    labelNames: ['outcome'],
    buckets: transitionBuckets,
    registers,
  });
  const wait = new Histogram({
    name: 'gthread_agent_wait_seconds',
    help: "From a sidecar's first waiter to the state SERVING.",
    buckets: transitionBuckets,
    registers,
  });
  const canary = new Histogram({
    name: 'gthread_agent_canary_duration_seconds',
    help: "The canary's question after a boot or wake, until its answer, by outcome: answered, broken, silent, not-offered.",
    labelNames: ['outcome'],
    buckets: wishBuckets,
    registers,
  });
  const canaryAlarms = new Counter({
    name: 'gthread_agent_canary_alarms_total',
    help: 'Wakes after which an engine answered otherwise than after its boot.',
    registers,
  });
  const decisions = new Counter({
    name: 'gthread_agent_decisions_total',
    help: 'Decisions that were explained, by reason.',
    labelNames: ['reason'],
    registers,
  });
  const preemptions = new Counter({
    name: 'gthread_agent_preemptions_total',
    help: 'Models put to sleep because another one needed the room.',
    registers,
  });
  const waiting: Gauge = new Gauge({
    name: 'gthread_agent_waiting_models',
    help: 'Models with waiters that do not serve.',
    registers,
    collect: () => waiting.set(waits.size),
  });
  const events = new Counter({
    name: 'gthread_agent_events_total',
    help: 'Events the arbiter heard, by type.',
    labelNames: ['type'],
    registers,
  });
  const effects = new Counter({
    name: 'gthread_agent_effects_total',
    help: 'Effects the arbiter asked for, by type.',
    labelNames: ['type'],
    registers,
  });

  const told = new Map<string, ModelState>();
  const wishes = new Map<string, Wish>();
  /** Begun waits, until SERVING. */
  const waits = new Map<string, number>();
  const sleepsSince = new Map<string, number>();
  /** Pods between two states. */
  const moves = new Set<string>();

  const forget = (podUid: string): void => {
    for (const map of [told, wishes, waits, sleepsSince]) map.delete(podUid);
    moves.delete(podUid);
  };

  const demanded = (
    podUid: string,
    { queued, oldestWaitMs }: { queued: number; oldestWaitMs: number },
    atMs: number,
  ): void => {
    if (queued === 0) {
      wishes.delete(podUid);
      waits.delete(podUid);
    } else if (told.get(podUid) !== 'SERVING' && !waits.has(podUid)) {
      const since = atMs - oldestWaitMs;
      waits.set(podUid, since);
      wishes.set(podUid, { atMs: since, made: moves.size > 0 });
    }
  };

  const outcome = (ok: boolean) => ({ outcome: ok ? 'ok' : 'failed' });

  const slept = (podUid: string, ok: boolean, atMs: number): void => {
    const since = sleepsSince.get(podUid);
    sleepsSince.delete(podUid);
    if (since !== undefined) sleep.observe(outcome(ok), (atMs - since) / 1_000);
  };

  const heard = (event: ArbiterEvent): void => {
    events.inc({ type: event.type });
    if (event.type === 'attached') demanded(event.hello.podUid, event.hello.demand, event.atMs);
    else if (event.type === 'demand') demanded(event.podUid, event.demand, event.atMs);
    else if (event.type === 'woken') wake.observe(outcome(event.ok), event.tookMs / 1_000);
    else if (event.type === 'probed') canary.observe({ outcome: event.outcome.type }, event.tookMs / 1_000);
    else if (event.type === 'slept') slept(event.podUid, event.ok, event.atMs);
    else if (event.type === 'launcher-gone' || event.type === 'detached') forget(event.podUid);
  };

  const toldState = (podUid: string, state: ModelState, atMs: number): void => {
    told.set(podUid, state);
    if (moving.has(state)) {
      moves.add(podUid);
      for (const [other, wish] of wishes) if (other !== podUid) wish.made = true;
    } else moves.delete(podUid);
    const since = waits.get(podUid);
    if (state !== 'SERVING' || since === undefined) return;
    wait.observe((atMs - since) / 1_000);
    waits.delete(podUid);
    wishes.delete(podUid);
  };

  const did = (effect: ArbiterEffect, atMs: number): void => {
    effects.inc({ type: effect.type });
    if (effect.type === 'explain') {
      decisions.inc({ reason: effect.reason });
      if (effect.reason === 'Preempted') preemptions.inc();
      if (effect.reason === 'CanaryAlarm') canaryAlarms.inc();
    } else if (effect.type === 'sleep-engine') sleepsSince.set(effect.podUid, atMs);
    else if (effect.type === 'barrier') toldState(effect.podUid, 'DEACTIVATING', atMs);
    else if (effect.type === 'tell') toldState(effect.podUid, effect.state.state, atMs);
  };

  return {
    heard,
    did,
    wakeSent(podUid, atMs) {
      const wish = wishes.get(podUid);
      wishes.delete(podUid);
      if (wish)
        wishToWake.observe({ room: wish.made ? 'made' : 'free' }, Math.max(0, atMs - wish.atMs) / 1_000);
    },
  };
}
