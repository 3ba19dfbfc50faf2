/**
 * The simulated agent process around the real core: it hears events, carries out effects, dies and comes back with nothing.
 * What it commands is checked here against the world as it is.
 */
import {
  type ArbiterEffect,
  type ArbiterEvent,
  type ArbiterState,
  decide,
  initialState,
} from '../../agent/decide/arbiter/arbiter.ts';
import type { ProbeOutcome } from '../../agent/decide/arbiter/words.ts';
import { sleepCallMsMax, wakeCallMsMax } from '../../agent/decide/engine-times.ts';
import type { Appointment } from './clock.ts';
import type { SimEngine } from './engine.ts';
import type { PodEvent, SimPod } from './pod.ts';
import { nonsense, Rules, sense } from './rules.ts';
import { describe } from './timeline.ts';
import type { World } from './world.ts';

const askTimeoutMs = 3_000;
const canaryTimeoutMs = 30_000;
const settleMsMax = 3_000;
const measureEveryMs = 5_000;
/** What strangers hold by the last measurement that the agent had heard; a command is judged by that. */
export type KnownStrangers = number[];

export class Host {
  life = -1;
  alive = false;
  state: ArbiterState | null = null;
  decisions = 0;
  /** Real time spent in `decide`, when measured. */
  stalledUntilMs = 0;
  known: KnownStrangers;
  measureDelayMs = 0;
  /** It dies right after commanding this. */
  deadlyEffect: { type: ArbiterEffect['type']; forMs: number } | null = null;
  #world: World;
  #backlog: PodEvent[] = [];
  #timer: Appointment | null = null;
  #settled = false;
  #rules: Rules;

  constructor(world: World) {
    this.#world = world;
    this.#rules = new Rules(world);
    this.known = world.gpus.map(() => 0);
  }

  // -- life and death

  start(): void {
    const { clock, random } = this.#world;
    this.life++;
    this.alive = true;
    this.#settled = false;
    this.#backlog = [];
    this.stalledUntilMs = 0;
    this.#rules.forget();
    this.state = initialState({ startedAtMs: clock.nowMs, canary: this.#world.plan.canary });
    const life = this.life;
    const ifAlive = (run: () => void) => () => {
      if (this.alive && this.life === life) run();
    };
    clock.after(
      random.between(10, 400),
      ifAlive(() => this.sendGpus()),
    );
    clock.after(
      random.between(10, 400),
      ifAlive(() => this.measure()),
    );
    clock.after(
      random.between(50, 900),
      ifAlive(() => this.sendLists()),
    );
    for (const pod of this.#world.pods) {
      pod.answered = false;
      clock.after(
        random.between(5, 1_000),
        ifAlive(() => pod.attach()),
      );
      clock.after(
        random.between(5, 1_000),
        ifAlive(() => pod.connectLauncher()),
      );
    }
    clock.after(
      settleMsMax,
      ifAlive(() => this.#settle()),
    );
    clock.after(
      random.between(0, 400),
      ifAlive(() => this.#settleWhenAnswered(ifAlive)),
    );
    clock.after(
      measureEveryMs,
      ifAlive(() => this.#measureNowAndThen(ifAlive)),
    );
  }

  #settle(): void {
    if (this.#settled) return;
    this.#settled = true;
    this.post({ type: 'settled' });
  }

  #settleWhenAnswered(ifAlive: (run: () => void) => () => void): void {
    if (this.#settled) return;
    if (this.#world.pods.every((pod) => pod.answered)) this.#settle();
    else
      this.#world.clock.after(
        50,
        ifAlive(() => this.#settleWhenAnswered(ifAlive)),
      );
  }

  #measureNowAndThen(ifAlive: (run: () => void) => () => void): void {
    this.measure();
    const everyMs = this.#world.calm ? 6 * measureEveryMs : measureEveryMs;
    this.#world.clock.after(
      everyMs,
      ifAlive(() => this.#measureNowAndThen(ifAlive)),
    );
  }

  die(): void {
    if (!this.alive) return;
    this.alive = false;
    this.state = null;
    this.#world.clock.cancel(this.#timer);
    this.#timer = null;
    for (const pod of this.#world.pods) {
      pod.detach(true);
      pod.disconnectLauncher(true);
    }
    this.life++;
  }

  /** The machine stands still: what comes in is heard late, all at once. */
  stall(forMs: number): void {
    const { clock } = this.#world;
    const untilMs = clock.nowMs + forMs;
    if (untilMs <= this.stalledUntilMs) return;
    this.stalledUntilMs = untilMs;
    clock.at(untilMs, () => {
      if (clock.nowMs >= this.stalledUntilMs) for (const late of this.#backlog.splice(0)) this.#handle(late);
    });
  }

  // -- what it hears

  post(event: PodEvent): void {
    if (!this.alive) return;
    const { clock } = this.#world;
    if (clock.nowMs < this.stalledUntilMs) {
      this.#backlog.push(event);
      return;
    }
    this.#handle(event);
  }

  #handle(event: PodEvent): void {
    if (!this.alive || this.#world.violation) return;
    this.decisions++;
    this.#world.note(() => `→ ${describe(event)}`);
    this.#heard(event);
    const { effects } = decide(this.state!, { ...event, atMs: this.#world.clock.nowMs } as ArbiterEvent);
    for (const effect of effects) {
      if (!this.alive || this.#world.violation) return;
      this.#carryOut(effect);
      if (this.deadlyEffect?.type !== effect.type) continue;
      const { forMs } = this.deadlyEffect;
      this.deadlyEffect = null;
      this.#world.agentDies(forMs);
      return;
    }
    this.#rules.decided();
  }

  #heard(event: PodEvent): void {
    this.#rules.heard(event);
    if ('podUid' in event) this.#world.pods.find(({ uid }) => uid === event.podUid)?.heard(event);
    if (event.type === 'measured') {
      for (const { uuid, foreignBytes } of event.gpus) this.known[Number(uuid.slice(4))] = foreignBytes;
    }
  }

  sendGpus(): void {
    const gpus = this.#world.gpus
      .filter((gpu) => gpu.present)
      .map(({ uuid, index, totalBytes, usable }) => ({ uuid, index, totalBytes, usable }));
    this.post({ type: 'gpus', gpus });
  }

  sendLists(): void {
    if (!this.#world.apiUp) return;
    this.post({ type: 'pods', pods: this.#world.pods.filter((pod) => !pod.isOver).map((pod) => pod.fact()) });
    this.post({ type: 'gpu-resources', resources: this.#world.resources() });
  }

  measure(): void {
    const { clock, random } = this.#world;
    const life = this.life;
    const startedAtMs = clock.nowMs;
    clock.after(3, () => {
      const gpus = this.#world.gpus.filter((gpu) => gpu.present).map((gpu) => gpu.measure());
      clock.after(random.between(15, 50) + this.measureDelayMs, () => {
        if (this.life === life) this.post({ type: 'measured', startedAtMs, gpus });
      });
    });
  }

  // -- what it does

  #carryOut(effect: ArbiterEffect): void {
    const { clock } = this.#world;
    if (effect.type === 'timer') {
      clock.cancel(this.#timer);
      this.#timer = effect.atMs === null ? null : clock.at(effect.atMs, () => this.post({ type: 'tick' }));
      return;
    }
    this.#world.note(() => `   ← ${describe(effect)}`);
    if (effect.type === 'measure') {
      this.measure();
      return;
    }
    const pod = this.#world.pods.find(({ uid }) => uid === effect.podUid);
    if (!pod || pod.isOver) this.#nobody(effect);
    else this.#forPod(pod, effect);
  }

  /** The pod's directory is gone: engine calls fail, words are lost. */
  #nobody(effect: Exclude<ArbiterEffect, { type: 'timer' | 'measure' }>): void {
    const { podUid } = effect;
    const message = 'no such pod';
    if (effect.type === 'ask-engine') this.#later({ type: 'engine-state', podUid, state: 'unreachable' });
    if (effect.type === 'sleep-engine') this.#later({ type: 'slept', podUid, ok: false, message });
    if (effect.type === 'probe-engine')
      this.#later({ type: 'probed', podUid, id: effect.id, outcome: { type: 'silent', message }, tookMs: 0 });
    if (effect.type === 'wake-engine') this.#later({ type: 'woken', podUid, ok: false, message, tookMs: 0 });
  }

  #later(event: PodEvent): void {
    const { life } = this;
    this.#world.clock.after(0.5, () => {
      if (this.life === life) this.post(event);
    });
  }

  #forPod(pod: SimPod, effect: Exclude<ArbiterEffect, { type: 'timer' | 'measure' }>): void {
    switch (effect.type) {
      case 'tell': {
        const { state } = effect;
        this.#rules.tells(pod, state);
        this.#world.waits?.told(pod);
        if (state.state === 'SERVING' && pod.told?.state !== 'SERVING')
          pod.servingSinceMs ??= this.#world.clock.nowMs;
        pod.told = state;
        pod.hear(this.life, { state });
        return;
      }
      case 'barrier':
        this.#rules.barrier(pod, effect.drainTimeoutMs);
        this.#world.waits?.barrier(pod);
        pod.hear(this.life, { barrier: effect.epoch });
        return;
      case 'end':
        pod.hear(this.life, { end: true });
        return;
      case 'grant':
        this.#rules.grants(pod);
        this.#world.waits?.granted(pod);
        pod.knownStrangers = [...this.known];
        pod.servingSinceMs = null;
        pod.granted(this.life, effect.id);
        return;
      case 'restart-engine':
        this.#rules.restarts(pod, effect.reason);
        pod.restartOrder(this.life);
        return;
      case 'release-launcher':
        pod.releaseOrder(this.life);
        return;
      case 'ask-engine':
        this.#ask(pod);
        return;
      case 'sleep-engine':
        this.#sleep(pod, effect.bytes);
        return;
      case 'wake-engine':
        this.#wake(pod, effect.bytes);
        return;
      case 'probe-engine':
        this.#probe(pod, effect.id);
        return;
      case 'keep-canary':
        pod.hear(this.life, { canary: JSON.stringify(effect.answer) });
        return;
      case 'wait':
      case 'remember':
      case 'explain':
        return;
      default:
        effect satisfies never;
    }
  }

  #ask(pod: SimPod): void {
    const { engine } = pod;
    const podUid = pod.uid;
    if (!engine) {
      this.#later({ type: 'engine-state', podUid, state: 'unreachable' });
      return;
    }
    const once = this.#once(askTimeoutMs, () =>
      this.#later({ type: 'engine-state', podUid, state: 'unreachable' }),
    );
    this.#world.clock.after(0.5, () =>
      engine.ask((state) => once(() => this.#later({ type: 'engine-state', podUid, state }))),
    );
  }

  /** One that is awake answers, itself or nonsense; any other says nothing. */
  #probe(pod: SimPod, id: number): void {
    const { engine } = pod;
    const { clock, random } = this.#world;
    const began = clock.nowMs;
    const say = (outcome: ProbeOutcome): void =>
      this.#later({ type: 'probed', podUid: pod.uid, id, outcome, tookMs: clock.nowMs - began });
    const once = this.#once(canaryTimeoutMs, () => say({ type: 'silent', message: 'timeout' }));
    clock.after(random.between(2, 200), () => {
      if (!engine || engine.condition === 'dead') once(() => say({ type: 'silent', message: 'refused' }));
      else if (engine.condition === 'awake')
        once(() => say({ type: 'answered', answer: engine.garbled ? nonsense : sense }));
    });
  }

  /** Runs what comes first, the answer or the time limit; nothing after the agent's death. */
  #once(limitMs: number, timedOut: () => void): (run: () => void) => void {
    const { life } = this;
    let open = true;
    const limit = this.#world.clock.after(limitMs, () => {
      if (open && this.life === life) timedOut();
      open = false;
    });
    return (run) => {
      if (open && this.life === life) run();
      open = false;
      this.#world.clock.cancel(limit);
    };
  }

  #sleep(pod: SimPod, bytes: number): void {
    const { engine } = pod;
    const podUid = pod.uid;
    this.#rules.sleeps(pod);
    this.#world.waits?.sleeps(pod);
    if (!engine) {
      this.#later({ type: 'slept', podUid, ok: false, message: 'connection refused' });
      return;
    }
    const once = this.#once(sleepCallMsMax(bytes), () =>
      this.#later({ type: 'slept', podUid, ok: false, message: 'timeout' }),
    );
    if (engine.condition !== 'awake' && engine.condition !== 'paused') {
      // A second /sleep is a no-op; one that hangs or has died does not answer.
      if (engine.condition === 'asleep')
        once(() => this.#later({ type: 'slept', podUid, ok: true, message: '' }));
      else if (engine.condition === 'dead')
        once(() => this.#later({ type: 'slept', podUid, ok: false, message: 'refused' }));
      return;
    }
    engine.sleep(this.life, (answer) =>
      once(() => {
        if (answer.ok) this.#later({ type: 'slept', podUid, ...answer });
        else this.#goOn(pod, engine, { bytes, message: answer.message });
      }),
    );
    engine.onDeath(() =>
      once(() => this.#later({ type: 'slept', podUid, ok: false, message: 'connection closed' })),
    );
  }

  /** As the agent's driver does: a sleep that was refused is followed by a wake, unless the agent dies between the two. */
  #goOn(pod: SimPod, engine: SimEngine, { bytes, message }: { bytes: number; message: string }): void {
    const { life } = this;
    const failed = (): void => this.#later({ type: 'slept', podUid: pod.uid, ok: false, message });
    const once = this.#once(wakeCallMsMax(bytes), failed);
    engine.onDeath(() => once(failed));
    this.#world.clock.after(0.5, () => {
      if (this.life === life && engine.condition === 'paused') engine.wake(life, () => once(failed));
    });
  }

  #wake(pod: SimPod, bytes: number): void {
    const { engine } = pod;
    const podUid = pod.uid;
    const began = this.#world.clock.nowMs;
    this.#rules.wakes(pod);
    this.#world.waits?.wakes(pod);
    pod.servingSinceMs = null;
    const answer = (ok: boolean, message: string): void => {
      this.#later({ type: 'woken', podUid, ok, message, tookMs: this.#world.clock.nowMs - began });
    };
    if (!engine) {
      answer(false, 'connection refused');
      return;
    }
    const once = this.#once(wakeCallMsMax(bytes), () => answer(false, 'timeout'));
    if (engine.condition !== 'asleep' && engine.condition !== 'paused') {
      if (engine.condition === 'awake') once(() => answer(true, ''));
      if (engine.condition === 'dead') once(() => answer(false, 'connection refused'));
      return;
    }
    engine.knownStrangers = [...this.known];
    engine.wake(this.life, ({ ok, message }) => once(() => answer(ok, message)));
    engine.onDeath(() => once(() => answer(false, 'connection closed')));
  }
}
