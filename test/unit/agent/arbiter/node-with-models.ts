/**
 * A node for the arbiter's scenario tests: GPUs, pods, and engines that do at once, or after a given time, what they are
 * told. A scenario says what clients do and reads what the arbiter did.
 */

import { type Demand, linkProtocol, type State } from '#proto/link.ts';
import { defaultSettings, formatSettings, type Settings } from '#proto/settings.ts';
import {
  type ArbiterEffect,
  type ArbiterEvent,
  decide,
  initialState,
} from '../../../../agent/decide/arbiter/arbiter.ts';
import type { BindingFact, EngineState, PodFact } from '../../../../agent/decide/arbiter/words.ts';

export const GiB = 2 ** 30;

export interface ModelOptions {
  gpus?: number[];
  gib?: number;
  residueGib?: number;
  popular?: boolean;
  fairness?: Partial<Settings['fairness']>;
  sleep?: Partial<Settings['sleep']>;
  /** Another pod's replica: a roll. */
  model?: string;
  bootMs?: number;
  sleepMs?: number;
  wakeMs?: number;
}

type Untimed<E> = E extends unknown ? Omit<E, 'atMs'> : never;

interface Engine {
  options: Required<Pick<ModelOptions, 'gpus' | 'gib' | 'residueGib' | 'bootMs' | 'sleepMs' | 'wakeMs'>>;
  state: 'none' | 'booting' | 'awake' | 'sleeping' | 'paused' | 'asleep' | 'waking';
  bytes: number;
  restarts: number;
  /** What the next sleep leaves instead of its residue, GiB. */
  keepsGib: number | null;
  /** So many of the next sleeps are refused; the driver has it go on, but with `staysPaused`. */
  sleepFails: number;
  staysPaused: boolean;
  /** It answers no question, and its process is there. */
  hangs: boolean;
  /** Answers of the next wakes and boots that fail, with the message. */
  wakeFails: string[];
  bootFails: string[];
}

const idleDemand: Demand = { inFlight: 0, queued: 0, oldestWaitMs: 0, idleMs: 0, requestsTotal: 0 };

export class ScenarioNode {
  now = 0;
  state: ReturnType<typeof initialState>;
  /** What each sidecar was given to keep, JSON. */
  kept = new Map<string, string>();
  readonly canary: boolean;
  effects: ArbiterEffect[] = [];
  engines = new Map<string, Engine>();
  pods: PodFact[] = [];
  bindings = new Map<string, BindingFact[]>();
  demands = new Map<string, Demand & { sinceMs: number; idleSinceMs: number }>();
  strangerGib: number[] = [];
  usable: boolean[] = [];
  /** Indices of GPUs that the driver neither lists nor measures. */
  vanished = new Set<number>();
  gpuGib: number;
  /** What each sidecar was told last, kept when effects are forgotten. */
  #told = new Map<string, State>();
  #barriers = new Map<string, number>();
  #timer: number | null = null;
  #later: { atMs: number; order: number; run: () => void }[] = [];
  #order = 0;

  constructor(gpus: number, gpuGib = 48, canary = false) {
    this.gpuGib = gpuGib;
    this.canary = canary;
    this.state = initialState({ startedAtMs: 0, canary });
    for (let index = 0; index < gpus; index++) {
      this.strangerGib.push(0);
      this.usable.push(true);
      this.bindings.set(`GPU-${index}`, []);
    }
  }

  /** Sends one event now. */
  send(event: Untimed<ArbiterEvent>): void {
    const result = decide(this.state, { ...event, atMs: this.now } as ArbiterEvent);
    for (const effect of result.effects) this.#carryOut(effect);
  }

  start(): this {
    this.sendGpus();
    this.measure();
    this.sendLists();
    this.send({ type: 'settled' });
    return this;
  }

  sendGpus(): void {
    const gpus = this.usable.map((usable, index) => ({
      uuid: `GPU-${index}`,
      index,
      totalBytes: this.gpuGib * GiB,
      usable,
    }));
    this.send({ type: 'gpus', gpus: gpus.filter(({ index }) => !this.vanished.has(index)) });
  }

  sendLists(): void {
    this.send({ type: 'pods', pods: structuredClone(this.pods) });
    const resources = [...this.bindings].map(([uuid, bindings]) => ({
      uuid,
      bindings: structuredClone(bindings),
    }));
    this.send({ type: 'gpu-resources', resources });
  }

  /** A pod appears, bound and with its sidecar attached; its launcher asks. */
  add(name: string, options: ModelOptions = {}): this {
    const { gpus = [0], gib = 40, residueGib = 0.5, popular = false, model = name } = options;
    const settings: Settings = {
      ...defaultSettings,
      fairness: { ...defaultSettings.fairness, popular, ...options.fairness },
      sleep: { ...defaultSettings.sleep, ...options.sleep },
    };
    const uuids = gpus.map((index) => `GPU-${index}`);
    const base = { namespace: 'default', model, replica: 0 };
    this.pods.push({
      ...base,
      podUid: name,
      pod: `${name}-pod`,
      uuids,
      vramBytes: gib * GiB,
      engineHash: null,
      graceMs: null,
      settings,
      deleting: false,
    });
    for (const uuid of uuids) {
      const bindings = this.bindings.get(uuid)!.filter((binding) => binding.model !== model);
      this.bindings.set(uuid, [...bindings, { ...base, reservedBytes: gib * GiB, popular }]);
    }
    const { bootMs = 40_000, sleepMs = 100, wakeMs = 400 } = options;
    this.engines.set(name, {
      options: { gpus, gib, residueGib, bootMs, sleepMs, wakeMs },
      state: 'none',
      bytes: 0,
      restarts: 0,
      keepsGib: null,
      sleepFails: 0,
      staysPaused: false,
      hangs: false,
      wakeFails: [],
      bootFails: [],
    });
    this.demands.set(name, { ...idleDemand, sinceMs: this.now, idleSinceMs: this.now });
    this.sendLists();
    this.attach(name);
    this.ask(name);
    return this;
  }

  pod(name: string): PodFact {
    return this.pods.find((pod) => pod.podUid === name)!;
  }

  attach(name: string): void {
    const pod = this.pod(name);
    const told = this.told(name);
    const barrier = this.#barriers.get(name) ?? -1;
    this.send({
      type: 'attached',
      hello: {
        protocol: linkProtocol,
        release: 'test',
        podUid: name,
        pod: pod.pod,
        namespace: pod.namespace,
        model: pod.model,
        replica: pod.replica,
        gpuUuids: pod.uuids,
        settings: formatSettings(pod.settings),
        state: barrier > (told?.epoch ?? -1) ? 'DEACTIVATING' : (told?.state ?? 'STATE_UNKNOWN'),
        epoch: Math.max(told?.epoch ?? 0, barrier),
        bootReady: told?.bootReady ?? false,
        demand: this.#demandNow(name),
        canary: this.kept.get(name) ?? '',
      },
    });
  }

  ask(name: string): void {
    const engine = this.engines.get(name)!;
    const uuids = this.pod(name).uuids;
    this.send({
      type: 'asked',
      podUid: name,
      uuids,
      bytes: engine.options.gib * GiB,
      restarts: engine.restarts,
    });
  }

  /** Its launcher reconnects to a new agent while an engine runs. */
  hold(name: string): void {
    const { options, restarts, state } = this.engines.get(name)!;
    const { uuids } = this.pod(name);
    const ready = state !== 'booting';
    this.send({
      type: 'holding',
      podUid: name,
      uuids,
      bytes: options.gib * GiB,
      restarts,
      grant: 'g',
      ready,
    });
  }

  /** The agent is killed and comes back knowing nothing; what was under way for it is lost. */
  restartAgent(): this {
    this.state = initialState({ startedAtMs: this.now, canary: this.canary });
    this.#later = [];
    this.#timer = null;
    this.effects = [];
    return this;
  }

  /** Clients come or go: how many are being served and how many wait. */
  demand(name: string, inFlight: number, queued: number): void {
    const before = this.demands.get(name)!;
    const busy = inFlight + queued > 0;
    this.demands.set(name, {
      ...before,
      inFlight,
      queued,
      sinceMs: queued > 0 && before.queued === 0 ? this.now : before.sinceMs,
      idleSinceMs: busy ? before.idleSinceMs : this.now,
      requestsTotal: before.requestsTotal + (busy ? 1 : 0),
    });
    this.send({ type: 'demand', podUid: name, demand: this.#demandNow(name) });
    const epoch = this.#barriers.get(name) ?? -1;
    if (epoch > (this.told(name)?.epoch ?? -1) && inFlight < before.inFlight) this.#barrierUp(name, epoch);
  }

  #demandNow(name: string): Demand {
    const { sinceMs, idleSinceMs, inFlight, queued, requestsTotal } = this.demands.get(name)!;
    const busy = inFlight + queued > 0;
    const oldestWaitMs = queued > 0 ? Math.max(1, this.now - sinceMs) : 0;
    return { inFlight, queued, requestsTotal, oldestWaitMs, idleMs: busy ? 0 : this.now - idleSinceMs };
  }

  /** Time passes; timers ring, engines finish. */
  pass(ms: number): this {
    const until = this.now + ms;
    for (;;) {
      const next = this.#later.sort((a, b) => a.atMs - b.atMs || a.order - b.order)[0];
      const dueMs = Math.min(next?.atMs ?? Number.POSITIVE_INFINITY, this.#timer ?? Number.POSITIVE_INFINITY);
      if (dueMs > until) break;
      this.now = Math.max(this.now, dueMs);
      if (next && next.atMs <= this.now) {
        this.#later.shift();
        next.run();
      } else {
        this.#timer = null;
        this.send({ type: 'tick' });
      }
    }
    this.now = until;
    return this;
  }

  /** Time passes in small steps until it is in this phase. */
  until(name: string, phase: string): this {
    for (let step = 0; step < 200_000; step++) {
      if (this.phase(name) === phase) return this;
      this.pass(0.5);
    }
    throw new Error(`${name} did not come to be ${phase}: it is ${this.phase(name)}`);
  }

  later(ms: number, run: () => void): void {
    this.#later.push({ atMs: this.now + ms, order: this.#order++, run });
  }

  /** @param startedAtMs when the driver was asked, if not now */
  measure(startedAtMs = this.now): void {
    const gpus = this.usable.map((_, index) => {
      const byPod: Record<string, number> = {};
      let used = this.strangerGib[index]! * GiB;
      for (const [name, engine] of this.engines) {
        if (engine.bytes === 0 || !engine.options.gpus.includes(index)) continue;
        byPod[name] = engine.bytes;
        used += engine.bytes;
      }
      const totalBytes = this.gpuGib * GiB;
      const foreignBytes = this.strangerGib[index]! * GiB;
      return {
        uuid: `GPU-${index}`,
        totalBytes,
        usedBytes: used,
        freeBytes: totalBytes - used,
        byPod,
        foreignBytes,
      };
    });
    this.send({ type: 'measured', startedAtMs, gpus: gpus.filter((_, index) => !this.vanished.has(index)) });
  }

  #carryOut(effect: ArbiterEffect): void {
    this.effects.push(effect);
    if (effect.type === 'barrier') this.#barriers.set(effect.podUid, effect.epoch);
    if (effect.type === 'keep-canary') this.kept.set(effect.podUid, JSON.stringify(effect.answer));
    if (effect.type === 'tell') this.#told.set(effect.podUid, effect.state);
    if (effect.type === 'timer') this.#timer = effect.atMs;
    else if (effect.type === 'measure') this.later(20, () => this.measure());
    else if (effect.type === 'barrier') this.later(1, () => this.#barrierUp(effect.podUid, effect.epoch));
    else if ('podUid' in effect) this.#engineEffect(effect.type, effect.podUid);
  }

  #barrierUp(name: string, epoch: number): void {
    const { inFlight } = this.demands.get(name)!;
    this.send({ type: 'barrier-up', podUid: name, barrier: { epoch, inFlight } });
  }

  #engineEffect(type: ArbiterEffect['type'], name: string): void {
    const engine = this.engines.get(name)!;
    const { bootMs, sleepMs, wakeMs } = engine.options;
    if (type === 'grant') this.#boot(name, engine, bootMs);
    if (type === 'sleep-engine') {
      engine.state = 'sleeping';
      this.later(sleepMs, () => this.#slept(name, engine));
    }
    if (type === 'wake-engine') {
      engine.state = 'waking';
      this.later(wakeMs, () => this.#woken(name, engine, wakeMs));
    }
    if (type === 'ask-engine') this.later(2, () => this.#answer(name, engine));
    if (type === 'restart-engine') this.later(100, () => this.kill(name));
  }

  #boot(name: string, engine: Engine, bootMs: number): void {
    engine.restarts++;
    engine.state = 'booting';
    engine.bytes = engine.options.gib * GiB;
    this.later(1, () => this.send({ type: 'started', podUid: name }));
    this.later(bootMs, () => {
      if (engine.state !== 'booting') return;
      const failure = engine.bootFails.shift();
      if (failure !== undefined) {
        this.kill(name, failure);
        return;
      }
      engine.state = 'awake';
      this.send({ type: 'ready', podUid: name });
    });
  }

  #slept(name: string, engine: Engine): void {
    if (engine.state !== 'sleeping') return;
    if (engine.sleepFails > 0) {
      engine.sleepFails--;
      engine.state = engine.staysPaused ? 'paused' : 'awake';
      this.send({ type: 'slept', podUid: name, ok: false, message: 'POST /sleep answered 500' });
      return;
    }
    engine.state = 'asleep';
    engine.bytes = (engine.keepsGib ?? engine.options.residueGib) * GiB;
    engine.keepsGib = null;
    this.send({ type: 'slept', podUid: name, ok: true, message: '' });
  }

  #woken(name: string, engine: Engine, tookMs: number): void {
    if (engine.state !== 'waking') return;
    const message = engine.wakeFails.shift();
    if (message !== undefined) {
      engine.state = 'asleep';
      this.send({ type: 'woken', podUid: name, ok: false, message, tookMs });
      return;
    }
    engine.state = 'awake';
    engine.bytes = engine.options.gib * GiB;
    this.send({ type: 'woken', podUid: name, ok: true, message: '', tookMs });
  }

  #answer(name: string, engine: Engine): void {
    const awake = engine.state === 'awake' || engine.state === 'sleeping';
    const asleep = engine.state === 'asleep' || engine.state === 'waking';
    const state: EngineState = engine.hangs
      ? 'unreachable'
      : engine.state === 'paused'
        ? 'paused'
        : awake
          ? 'awake'
          : asleep
            ? 'asleep'
            : 'unreachable';
    this.send({ type: 'engine-state', podUid: name, state });
  }

  /** The engine ends, its memory is free at once, and its launcher asks again a second later. */
  kill(name: string, tail = ''): void {
    const engine = this.engines.get(name)!;
    if (engine.state === 'none') return;
    engine.state = 'none';
    engine.bytes = 0;
    this.send({ type: 'exited', podUid: name, code: 1, signal: null, tail });
    this.later(1_000, () => this.ask(name));
  }

  lastOf<T extends ArbiterEffect['type']>(type: T, name: string) {
    return this.effects.findLast(
      (effect): effect is Extract<ArbiterEffect, { type: T; podUid: string }> =>
        effect.type === type && 'podUid' in effect && effect.podUid === name,
    );
  }

  told(name: string) {
    return this.#told.get(name);
  }

  failSleeps(name: string, times: number): void {
    this.engines.get(name)!.sleepFails = times;
  }

  /** Names of pods that were sent this, in order. */
  sent(type: ArbiterEffect['type']): string[] {
    return this.effects.flatMap((effect) =>
      effect.type === type && 'podUid' in effect ? [effect.podUid] : [],
    );
  }

  phase(name: string): string | undefined {
    return this.state.replicas.get(name)?.phase;
  }

  /** All pods booted once, in this order, and asleep but for the last where they don't fit together. */
  booted(...names: string[]): this {
    for (const name of names) {
      for (let tries = 0; tries < 100 && this.phase(name) !== 'serving'; tries++) this.pass(1_000);
    }
    return this;
  }

  forget(): this {
    this.effects = [];
    return this;
  }
}
