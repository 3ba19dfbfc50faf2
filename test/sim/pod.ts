/** One simulated pod: its launcher, its engine and its sidecar, and how each of them comes, goes and reconnects. */
import { linkProtocol, type State } from '#proto/link.ts';
import { defaultSettings, formatSettings, type Settings } from '#proto/settings.ts';
import type { ArbiterEvent, PodFact } from '../../agent/decide/arbiter/words.ts';
import type { Appointment, Clock } from './clock.ts';
import { type Ground, SimEngine } from './engine.ts';
import { type Client, FrontDoor, type Outcome } from './frontdoor.ts';
import type { Random } from './random.ts';
import type { ModelPlan, OneShotFault } from './schedule.ts';

export type Untimed<E> = E extends unknown ? Omit<E, 'atMs'> : never;
export type PodEvent = Untimed<ArbiterEvent>;

/** What a pod needs of its node. */
export interface PodGround extends Ground {
  clock: Clock;
  refuse(kind: string, text: string): void;
  /** To the agent; lost when it is dead. */
  post(event: PodEvent): void;
  agentLife(): number;
  passed(client: Client): void;
  ended(pod: SimPod, client: Client, outcome: Outcome): void;
  /** Its first engine is awake. */
  bootedFirst(pod: SimPod): void;
  /** All its containers have ended. */
  over(pod: SimPod): void;
}

/** From the agent to the sidecar. */
type Word = { state: State } | { barrier: number } | { end: true } | { canary: string };

const askAgainMsMax = 16_000;

export function settingsOf(model: ModelPlan): Settings {
  return {
    ...defaultSettings,
    fairness: {
      popular: model.popular,
      minRuntimeMs: model.minRuntimeMs,
      maxWaitTimeMs: model.maxWaitTimeMs,
      priority: model.priority,
    },
    sleep: { idleTimeoutMs: model.idleTimeoutMs, drainTimeoutMs: model.drainTimeoutMs, level: 'auto' },
  };
}

export class SimPod {
  readonly uid: string;
  readonly model: ModelPlan;
  settings: Settings;
  deleting = false;
  isOver = false;
  engine: SimEngine | null = null;
  /** The engine it has, or had last. */
  #lastEngine: SimEngine | null = null;
  /** Something was injected into one of its engines. */
  everStruck = false;
  door: FrontDoor | null = null;
  /** Faults armed for engines of this pod; `alwaysFails`: every boot. */
  faults: OneShotFault[] = [];
  alwaysFails: boolean;
  everReady = false;
  attachedLife = -1;
  launcherLife = -1;
  servingSinceMs: number | null = null;
  /** What the agent knew of strangers when it granted the last boot. */
  knownStrangers: number[] | null = null;
  told: State | null = null;
  answered = false;
  #ground: PodGround;
  #random: Random;
  #launcherUp = true;
  #grant: string | null = null;
  #grantLife = -1;
  /** Which connection of the launcher's a line came through: an answer goes there, or nowhere. */
  #connection = 0;
  #heardConnection = 0;
  #lines = new WeakMap<object, number>();
  #starts = 0;
  #askPauseMs = 1_000;
  #ask: Appointment | null = null;
  #ending = false;
  #mayEnd = false;
  #epoch = 0;
  /** What the agent had the sidecar keep. */
  #canary = '';

  constructor(
    uid: string,
    model: ModelPlan,
    ground: PodGround,
    options: { random: Random; alwaysFails: boolean },
  ) {
    this.uid = uid;
    this.model = model;
    this.settings = settingsOf(model);
    this.#ground = ground;
    this.#random = options.random;
    this.alwaysFails = options.alwaysFails;
    this.#openDoor();
  }

  /** Something was injected into its engine, or into its last one. */
  get isStruck(): boolean {
    return this.#lastEngine?.struck ?? false;
  }

  strike(): void {
    this.everStruck = true;
    if (this.#lastEngine) this.#lastEngine.struck = true;
  }

  get uuids(): string[] {
    return this.model.gpus.map((gpu) => `GPU-${gpu}`);
  }

  change(settings: Settings): void {
    this.settings = settings;
  }

  /** Its model with the settings it has now. */
  asModel(): ModelPlan {
    const { fairness, sleep } = this.settings;
    return {
      ...this.model,
      ...fairness,
      idleTimeoutMs: sleep.idleTimeoutMs,
      drainTimeoutMs: sleep.drainTimeoutMs,
    };
  }

  fact(): PodFact {
    return {
      podUid: this.uid,
      pod: this.uid,
      namespace: 'sim',
      model: this.model.name,
      replica: 0,
      uuids: this.uuids,
      vramBytes: this.model.reservedBytes,
      engineHash: null,
      graceMs: null,
      settings: this.settings,
      deleting: this.deleting,
    };
  }

  #post(event: PodEvent, link: 'sidecar' | 'launcher'): void {
    const life = link === 'sidecar' ? this.attachedLife : this.launcherLife;
    if (life !== this.#ground.agentLife()) return;
    if (link === 'launcher') this.#lines.set(event, this.#connection);
    this.#ground.clock.after(link === 'sidecar' ? 0.3 : 0.4, () => {
      const still = link === 'sidecar' ? this.attachedLife : this.launcherLife;
      if (still === life && life === this.#ground.agentLife()) this.#ground.post(event);
    });
  }

  // -- the sidecar

  #openDoor(): void {
    this.told = null;
    this.#epoch = 0;
    this.#canary = '';
    this.door = new FrontDoor({
      clock: this.#ground.clock,
      engine: () => this.engine,
      passed: (client) => this.#ground.passed(client),
      ended: (client, outcome) => this.#ground.ended(this, client, outcome),
      send: (message) => {
        const podUid = this.uid;
        if ('demand' in message) {
          if (this.door) this.#post({ type: 'demand', podUid, demand: this.door.demand() }, 'sidecar');
        } else if ('barrier' in message)
          this.#post({ type: 'barrier-up', podUid, barrier: message.barrier }, 'sidecar');
        else this.#post({ type: 'sidecar-ending', podUid, drained: message.ending }, 'sidecar');
      },
    });
  }

  attach(): void {
    const life = this.#ground.agentLife();
    if (!this.door || this.isOver || this.attachedLife === life || life < 0) return;
    this.attachedLife = life;
    this.answered = true;
    this.door.link(true);
    const { told } = this.door.gate;
    this.#post(
      {
        type: 'attached',
        hello: {
          protocol: linkProtocol,
          release: 'sim',
          podUid: this.uid,
          pod: this.uid,
          namespace: 'sim',
          model: this.model.name,
          replica: 0,
          gpuUuids: this.uuids,
          settings: formatSettings(this.settings),
          state: told.state,
          epoch: told.epoch,
          bootReady: told.bootReady,
          demand: this.door.demand(),
          canary: this.#canary,
        },
      },
      'sidecar',
    );
    if (this.door.gate.ending)
      this.#post(
        { type: 'sidecar-ending', podUid: this.uid, drained: this.door.gate.ending.drained },
        'sidecar',
      );
  }

  /** The link breaks; @param silent the agent is dead and hears nothing of it */
  detach(silent: boolean): void {
    if (this.attachedLife === this.#ground.agentLife() && !silent) {
      const life = this.attachedLife;
      this.#ground.clock.after(0.3, () => {
        if (life === this.#ground.agentLife()) this.#ground.post({ type: 'detached', podUid: this.uid });
      });
    }
    this.attachedLife = -1;
    this.door?.link(false);
  }

  sidecarDies(): void {
    this.detach(false);
    this.door?.lose();
    this.door = null;
  }

  sidecarStarts(): void {
    if (this.isOver || this.door) return;
    this.#openDoor();
    if (this.#ending && this.deleting) this.door!.end();
    this.#ground.clock.after(this.#random.between(1, 100), () => this.attach());
  }

  /** What the agent said on this link; what is on its way when the link breaks is lost. */
  hear(life: number, message: Word): void {
    if (this.attachedLife === life && this.door)
      this.#ground.clock.after(0.3, () => this.#obey(life, message));
  }

  #obey(life: number, message: Word): void {
    if (this.attachedLife !== life || !this.door) return;
    const epoch = 'state' in message ? message.state.epoch : 'barrier' in message ? message.barrier : null;
    if (epoch !== null) {
      if (epoch <= this.#epoch)
        this.#ground.refuse('epoch', `${this.uid} was told epoch ${epoch} after ${this.#epoch}`);
      this.#epoch = epoch;
    }
    if ('state' in message) this.door.told(message.state);
    else if ('barrier' in message) this.door.barrier(message.barrier);
    else if ('canary' in message) this.#canary = message.canary;
    else this.door.end();
  }

  // -- the launcher

  connectLauncher(): void {
    const life = this.#ground.agentLife();
    if (!this.#launcherUp || this.isOver || this.launcherLife === life || life < 0) return;
    this.launcherLife = life;
    this.#connection++;
    this.answered = true;
    const wish = {
      podUid: this.uid,
      uuids: this.uuids,
      bytes: this.model.reservedBytes,
      restarts: this.#starts,
    };
    if (this.engine) {
      const ready = this.engine.condition !== 'booting' && this.#readySaid;
      this.#post({ type: 'holding', ...wish, grant: this.#grant ?? '', ready }, 'launcher');
    } else if (!this.#ending) {
      if (this.#ground.clock.nowMs >= this.#notBeforeMs) this.#post({ type: 'asked', ...wish }, 'launcher');
    }
    if (this.#ending) this.#post({ type: 'launcher-ending', podUid: this.uid }, 'launcher');
  }

  #readySaid = false;
  #notBeforeMs = 0;

  /** The connection breaks: a grant not used yet is void. */
  disconnectLauncher(silent: boolean): void {
    const life = this.launcherLife;
    if (life === this.#ground.agentLife() && !silent) {
      this.#ground.clock.after(0.3, () => {
        if (life === this.#ground.agentLife()) this.#ground.post({ type: 'launcher-gone', podUid: this.uid });
      });
    }
    this.launcherLife = -1;
    if (!this.engine) this.#grant = null;
  }

  /** The agent has come to this event. */
  heard(event: PodEvent): void {
    this.#heardConnection = this.#lines.get(event) ?? this.#heardConnection;
  }

  granted(life: number, id: string): void {
    const connection = this.#heardConnection;
    this.#ground.clock.after(0.4, () => {
      if (this.launcherLife !== life || this.#connection !== connection) return;
      if (this.engine || this.#grant || this.#ending || this.isOver) return;
      this.#grant = id;
      this.#grantLife = life;
      this.#ground.clock.after(this.#random.between(1, 300), () => this.#start());
    });
  }

  #start(): void {
    if (!this.#grant || this.launcherLife !== this.#grantLife || this.engine || this.#ending || this.isOver)
      return;
    this.#starts++;
    this.#readySaid = false;
    if (this.alwaysFails) this.faults.push('boot-fails');
    this.engine = new SimEngine(this.uid, this.model, this.#ground, this.faults);
    this.#lastEngine = this.engine;
    this.engine.knownStrangers = this.knownStrangers;
    this.#post({ type: 'started', podUid: this.uid }, 'launcher');
    this.engine.boot();
  }

  /** Its engine answers /health; the launcher looks every 250 ms. */
  engineReady(engine: SimEngine): void {
    this.#ground.clock.after(this.#random.between(0, 250), () => {
      if (this.engine !== engine || engine.condition === 'dead') return;
      this.#readySaid = true;
      this.#post({ type: 'ready', podUid: this.uid }, 'launcher');
      if (!this.everReady) this.#ground.bootedFirst(this);
      this.everReady = true;
    });
  }

  restartOrder(life: number): void {
    this.#ground.clock.after(0.4, () => {
      if (this.launcherLife !== life || this.#ending) return;
      const { engine } = this;
      if (engine) this.#ground.clock.after(this.#random.between(10, 500), () => engine.die(''));
      else if (this.#grant) {
        this.#grant = null;
        this.#askAfter(0);
      }
    });
  }

  releaseOrder(life: number): void {
    this.#ground.clock.after(0.4, () => {
      if (this.launcherLife === life && this.#ending) this.endEngine();
    });
  }

  /** What is running is lost with the engine; its launcher says so and asks again after a pause. */
  engineDied(engine: SimEngine, tail: string): void {
    if (engine.struck) this.everStruck = true;
    if (this.engine !== engine) return;
    this.engine = null;
    this.#grant = null;
    for (const id of engine.running.keys()) this.door?.finished(id, 'engine-died');
    const podUid = this.uid;
    this.#post({ type: 'exited', podUid, code: 1, signal: null, tail }, 'launcher');
    if (this.#ending) {
      if (this.#mayEnd) this.#finish();
      return;
    }
    this.#askAfter(this.#askPauseMs);
    this.#askPauseMs = Math.min(askAgainMsMax, this.#askPauseMs * 2);
  }

  #askAfter(delayMs: number): void {
    const { clock } = this.#ground;
    clock.cancel(this.#ask);
    this.#notBeforeMs = clock.nowMs + delayMs;
    this.#ask = clock.after(delayMs, () => {
      if (this.engine || this.#grant || this.#ending || !this.#launcherUp || this.isOver) return;
      const wish = {
        podUid: this.uid,
        uuids: this.uuids,
        bytes: this.model.reservedBytes,
        restarts: this.#starts,
      };
      this.#post({ type: 'asked', ...wish }, 'launcher');
    });
  }

  /** The engine's container crashes and is started again by the kubelet. */
  launcherRestarts(): void {
    if (this.isOver || this.#ending || !this.#launcherUp) return;
    this.disconnectLauncher(false);
    this.#launcherUp = false;
    const { engine } = this;
    this.strike();
    this.engine = null;
    this.#grant = null;
    this.#starts = 0;
    if (engine) {
      for (const id of engine.running.keys()) this.door?.finished(id, 'engine-died');
      engine.die('');
    }
    this.#ground.clock.after(this.#random.between(300, 3_000), () => {
      if (this.isOver) return;
      this.#launcherUp = true;
      this.#notBeforeMs = 0;
      this.connectLauncher();
    });
  }

  // -- the end

  /** SIGTERM to the launcher; the kubelet kills what is left when the grace is over. */
  terminate(): void {
    if (this.deleting) return;
    this.deleting = true;
    this.#ending = true;
    const { clock } = this.#ground;
    clock.cancel(this.#ask);
    if (!this.engine) this.#grant = null;
    this.#post({ type: 'launcher-ending', podUid: this.uid }, 'launcher');
    const graceMs = this.settings.sleep.drainTimeoutMs + 30_000;
    clock.after(graceMs - 5_000, () => this.endEngine());
    clock.after(graceMs, () => this.#finish());
  }

  endEngine(): void {
    this.#mayEnd = true;
    const { engine } = this;
    if (!engine) this.#finish();
    else this.#ground.clock.after(this.#random.between(10, 500), () => engine.die(''));
  }

  #finish(): void {
    if (this.isOver) return;
    this.isOver = true;
    const { engine } = this;
    if (engine) {
      for (const id of engine.running.keys()) this.door?.finished(id, 'engine-died');
      this.engine = null;
      engine.die('');
    }
    this.#launcherUp = false;
    this.disconnectLauncher(false);
    this.sidecarDies();
    this.#ground.over(this);
  }
}
