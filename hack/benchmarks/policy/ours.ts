/**
 * Ours: the real arbiter and the real gate of the sidecar, on the simulator's engines and GPU, in virtual time. The engine's
 * answer to a sleep comes when its memory is free, so that a sleep costs what the experiment says; measuring comes on top.
 */
import { linkProtocol } from '#proto/link.ts';
import { defaultSettings, formatSettings, type Settings } from '#proto/settings.ts';
import {
  type ArbiterEffect,
  type ArbiterEvent,
  type ArbiterState,
  decide,
  initialState,
} from '../../../agent/decide/arbiter/arbiter.ts';
import { type Appointment, Clock } from '../../../test/sim/clock.ts';
import { type Ground, SimEngine } from '../../../test/sim/engine.ts';
import { type Client, FrontDoor } from '../../../test/sim/frontdoor.ts';
import { SimGpu } from '../../../test/sim/gpu.ts';
import type { ModelPlan } from '../../../test/sim/schedule.ts';
import { type BenchModel, type Outcome, residueBytes, type Scenario, UnionTime } from './scenario.ts';

type Untimed<E> = E extends unknown ? Omit<E, 'atMs'> : never;

/** One message between agent and sidecar, or one call's overhead at the engine. */
const linkMs = 0.3;
const callMs = 0.5;
/** When nvidia-smi looks, and when its answer is there. */
const measureLooksMs = 3;
const measureMs = 30;
/** The agent comes up before the first request. */
const startMs = 2_000;

interface Pod {
  uid: string;
  plan: BenchModel;
  engine: SimEngine;
  door: FrontDoor;
  /** When its running requests were frozen; null: none are. */
  frozenMs: number | null;
}

function modelPlan(plan: BenchModel, sleepMs: number, { fairness, sleep }: Settings): ModelPlan {
  const { name, bytes, wakeMs } = plan;
  return {
    name,
    gpus: [0],
    reservedBytes: bytes,
    awakeBytes: bytes,
    residueBytes,
    bootMs: 0,
    sleepMs,
    wakeMs,
    ...fairness,
    ...sleep,
  };
}

export class OurNode {
  readonly #clock = new Clock();
  readonly #scenario: Scenario;
  readonly #settings: Settings;
  readonly #gpu: SimGpu;
  readonly #pods = new Map<string, Pod>();
  readonly #state: ArbiterState;
  readonly #waitsMs: Float64Array;
  #timer: Appointment | null = null;
  #lost = new UnionTime();
  #moves = new Set<string>();
  #counts = { wakes: 0, sleeps: 0, switchMs: 0, ended: 0, endMs: 0, longestMs: 0 };

  constructor(scenario: Scenario, settings: Settings = defaultSettings) {
    this.#scenario = scenario;
    this.#settings = settings;
    this.#gpu = new SimGpu(0, scenario.gpuBytes);
    this.#waitsMs = new Float64Array(scenario.arrivals.length);
    this.#state = initialState({ startedAtMs: 0 });
    for (const plan of scenario.models) this.#addPod(plan);
  }

  #addPod(plan: BenchModel): void {
    const uid = plan.name;
    const ground: Ground = {
      clock: this.#clock,
      hold: (engine, bytes) => this.#hold(engine, bytes),
      died: (engine, tail) => {
        throw new Error(`the engine of ${engine.pod} died: ${tail}`);
      },
      ready: () => undefined,
      finished: (_engine, request) => door.finished(request, 'served'),
      note: () => undefined,
    };
    const engine = new SimEngine(uid, modelPlan(plan, this.#scenario.sleepMs, this.#settings), ground, []);
    engine.condition = 'asleep';
    ground.hold(engine, residueBytes);
    const door = new FrontDoor({
      clock: this.#clock,
      engine: () => engine,
      ended: (client, outcome) => {
        if (outcome !== 'served') throw new Error(`request ${client.id} to ${uid} ended as ${outcome}`);
        this.#ended(client);
      },
      send: (message) => {
        if ('demand' in message)
          this.#later(linkMs, () => ({ type: 'demand', podUid: uid, demand: door.demand() }));
        else if ('barrier' in message)
          this.#later(linkMs, () => ({ type: 'barrier-up', podUid: uid, barrier: message.barrier }));
      },
    });
    this.#pods.set(uid, { uid, plan, engine, door, frozenMs: null });
  }

  /** The GPU itself judges over-commit. */
  #hold(engine: SimEngine, bytes: number): boolean {
    if (this.#gpu.enginesBytes(engine) + bytes > this.#gpu.totalBytes)
      throw new Error(
        `over-commit: ${engine.pod} takes ${bytes} bytes beside ${this.#gpu.enginesBytes(engine)}`,
      );
    this.#gpu.held.set(engine, bytes);
    engine.bytes = bytes;
    return true;
  }

  #later(delayMs: number, event: () => Untimed<ArbiterEvent>): void {
    this.#clock.after(delayMs, () => this.#post(event()));
  }

  // -- the loop

  #post(event: Untimed<ArbiterEvent>): void {
    const { effects } = decide(this.#state, { ...event, atMs: this.#clock.nowMs } as ArbiterEvent);
    this.#countMoves();
    for (const effect of effects) this.#carryOut(effect);
  }

  /** A switch lasts until the arbiter goes on: what it waits for is lost too. */
  #countMoves(): void {
    for (const { podUid, phase } of this.#state.replicas.values()) {
      const moves = phase === 'sleeping' || phase === 'waking' || phase === 'freeing';
      if (moves === this.#moves.has(podUid)) continue;
      if (moves) {
        this.#moves.add(podUid);
        this.#lost.begin(this.#clock.nowMs);
      } else {
        this.#moves.delete(podUid);
        this.#lost.end(this.#clock.nowMs);
      }
    }
  }

  #carryOut(effect: ArbiterEffect): void {
    const clock = this.#clock;
    switch (effect.type) {
      case 'timer':
        clock.cancel(this.#timer);
        this.#timer = effect.atMs === null ? null : clock.at(effect.atMs, () => this.#post({ type: 'tick' }));
        return;
      case 'measure':
        this.#measure();
        return;
      case 'tell': {
        const { door } = this.#pods.get(effect.podUid)!;
        clock.after(linkMs, () => door.told(effect.state));
        return;
      }
      case 'barrier': {
        const { door } = this.#pods.get(effect.podUid)!;
        clock.after(linkMs, () => door.barrier(effect.epoch));
        return;
      }
      case 'ask-engine':
        this.#later(callMs, () => {
          const { condition } = this.#pods.get(effect.podUid)!.engine;
          return {
            type: 'engine-state',
            podUid: effect.podUid,
            state: condition === 'awake' ? 'awake' : 'asleep',
          };
        });
        return;
      case 'sleep-engine':
        this.#sleep(this.#pods.get(effect.podUid)!);
        return;
      case 'wake-engine':
        this.#wake(this.#pods.get(effect.podUid)!);
        return;
      case 'explain':
      case 'remember':
        return;
      default:
        throw new Error(`the arbiter orders ${effect.type} where nothing boots, fails or ends`);
    }
  }

  #measure(): void {
    const startedAtMs = this.#clock.nowMs;
    this.#clock.after(measureLooksMs, () => {
      const gpus = [this.#gpu.measure()];
      this.#later(measureMs - measureLooksMs, () => ({ type: 'measured', startedAtMs, gpus }));
    });
  }

  #sleep(pod: Pod): void {
    const { sleepMs } = this.#scenario;
    this.#counts.sleeps++;
    this.#counts.switchMs += sleepMs;
    if (pod.engine.running.size > 0) pod.frozenMs = this.#clock.nowMs;
    // Posted when the memory is free, a little after the engine's own answer.
    pod.engine.sleep(0, () => undefined);
    this.#later(sleepMs + callMs, () => ({ type: 'slept', podUid: pod.uid, ok: true, message: '' }));
  }

  #wake(pod: Pod): void {
    const began = this.#clock.nowMs;
    this.#counts.wakes++;
    this.#counts.switchMs += pod.plan.wakeMs;
    pod.engine.wake(0, ({ ok, message }) => {
      if (pod.frozenMs !== null) this.#waited(this.#clock.nowMs - pod.frozenMs);
      pod.frozenMs = null;
      this.#later(callMs, () => ({
        type: 'woken',
        podUid: pod.uid,
        ok,
        message,
        tookMs: this.#clock.nowMs - began,
      }));
    });
  }

  // -- the start

  #start(): void {
    const { uuid, index, totalBytes } = this.#gpu;
    const uuids = [uuid];
    const pods = [...this.#pods.values()];
    const identity = ({ uid }: Pod) => ({
      podUid: uid,
      pod: uid,
      namespace: 'bench',
      model: uid,
      replica: 0,
    });
    const binding = ({ uid, plan }: Pod) => ({
      namespace: 'bench',
      model: uid,
      replica: 0,
      reservedBytes: plan.bytes,
      popular: false,
    });
    this.#post({ type: 'gpus', gpus: [{ uuid, index, totalBytes, usable: true }] });
    const settings = this.#settings;
    const facts = pods.map((pod) => ({
      ...identity(pod),
      uuids,
      vramBytes: pod.plan.bytes,
      engineHash: null,
      graceMs: null,
      settings,
      deleting: false,
    }));
    this.#post({ type: 'pods', pods: facts });
    this.#post({ type: 'gpu-resources', resources: [{ uuid, bindings: pods.map(binding) }] });
    for (const pod of pods) {
      const hello = {
        ...identity(pod),
        protocol: linkProtocol,
        release: 'bench',
        gpuUuids: uuids,
        settings: formatSettings(settings),
        state: 'SLEEPING' as const,
        epoch: 0,
        bootReady: true,
        demand: pod.door.demand(),
      };
      const { uid: podUid, plan } = pod;
      pod.door.link(true);
      this.#post({ type: 'remembered', podUid, awakeBytes: plan.bytes, residueBytes });
      this.#post({ type: 'attached', hello });
      this.#post({
        type: 'holding',
        podUid,
        uuids,
        bytes: plan.bytes,
        restarts: 1,
        grant: 'kept',
        ready: true,
      });
    }
    this.#measure();
    this.#later(startMs / 2, () => ({ type: 'settled' }));
  }

  // -- the requests

  #arriveFrom(at: number): void {
    const arrival = this.#scenario.arrivals[at];
    if (!arrival) return;
    this.#clock.at(startMs + arrival.atMs, () => {
      const { uid, door } = this.#pods.get(this.#scenario.models[arrival.model]!.name)!;
      const client: Client = {
        id: at,
        model: uid,
        workMs: arrival.workMs,
        arrivedMs: this.#clock.nowMs,
        outcome: null,
        refusal: '',
        passedMs: null,
      };
      door.arrive(client);
      this.#arriveFrom(at + 1);
    });
  }

  #waited(ms: number): void {
    this.#counts.longestMs = Math.max(this.#counts.longestMs, ms);
  }

  #ended(client: Client): void {
    const nowMs = this.#clock.nowMs;
    this.#waitsMs[client.id] = nowMs - client.arrivedMs - client.workMs;
    this.#waited((client.passedMs ?? nowMs) - client.arrivedMs);
    this.#counts.ended++;
    this.#counts.endMs = nowMs - startMs;
  }

  /** @throws Error on over-commit, a refusal, a lost request, or when requests are left over after `untilMs` */
  run(untilMs: number): Outcome {
    const { arrivals } = this.#scenario;
    this.#start();
    this.#arriveFrom(0);
    this.#clock.runUntil(startMs + untilMs, () => this.#counts.ended === arrivals.length);
    const { wakes, sleeps, switchMs, ended, endMs, longestMs } = this.#counts;
    if (ended < arrivals.length) throw new Error(`${arrivals.length - ended} requests never ended`);
    return {
      waitsMs: this.#waitsMs,
      longestWaitMs: longestMs,
      wakes,
      sleeps,
      switchMs,
      lostMs: this.#lost.totalMs,
      endMs,
    };
  }
}
