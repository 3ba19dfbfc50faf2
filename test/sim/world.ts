/** One seed's node in virtual time: GPUs, pods, clients, the API server's lists, and everything that goes wrong. */
import { ledgerView } from '../../agent/decide/arbiter/arbiter.ts';
import type { GpuResourceFact } from '../../agent/decide/arbiter/words.ts';
import { calmBoundMs, type Violation } from './checks.ts';
import { Clock } from './clock.ts';
import type { SimEngine } from './engine.ts';
import type { Client, Outcome } from './frontdoor.ts';
import { SimGpu } from './gpu.ts';
import { Host } from './host.ts';
import { judgeEnd } from './outcomes.ts';
import { SimPod, settingsOf } from './pod.ts';
import { type Random, randomFor } from './random.ts';
import { sharesGpu } from './rules.ts';
import type { Action, ModelPlan, Plan } from './schedule.ts';
import { Waits } from './waits.ts';

const timelineLinesMax = 100_000;

export class World {
  readonly plan: Plan;
  readonly clock = new Clock();
  readonly random: Random;
  readonly gpus: SimGpu[];
  readonly host: Host;
  /** Null: there are faults, nothing bounds a wait. */
  readonly waits: Waits | null;
  pods: SimPod[] = [];
  apiUp = true;
  calm = false;
  violation: Violation | null = null;
  timeline: string[] | null;
  clients: Client[] = [];
  /** GPUs that were out of use, and that strangers were on, at any time. */
  readonly gpusLost = new Set<number>();
  readonly gpusStranged = new Set<number>();
  #resourceGone = new Set<number>();
  #podCount = 0;
  #events = 0;
  #afterEnd = new Map<Client, () => void>();
  #listsPending = false;

  constructor(plan: Plan, options: { timeline: boolean }) {
    this.plan = plan;
    this.random = randomFor(plan.seed, 'world');
    this.gpus = Array.from({ length: plan.gpus }, (_, index) => new SimGpu(index, plan.gpuBytes));
    this.timeline = options.timeline ? [] : null;
    this.host = new Host(this);
    this.waits = plan.faultless ? new Waits(this) : null;
  }

  note(text: () => string): void {
    this.#events++;
    if (!this.timeline || this.timeline.length >= timelineLinesMax) return;
    this.timeline.push(`${(this.clock.nowMs / 1000).toFixed(4).padStart(11)} ${text()}`);
  }

  /** A rule is broken. */
  refuse(kind: string, text: string): void {
    if (this.violation) return;
    this.violation = { kind, text, atMs: this.clock.nowMs };
    this.note(() => `!! ${kind}: ${text}`);
  }

  /** Runs the whole plan. */
  run(): Violation | null {
    const { plan, clock } = this;
    this.host.start();
    this.waits?.start();
    for (const action of plan.actions) clock.at(action.atMs, () => this.#act(action));
    clock.at(plan.calmAtMs, () => this.#becomeCalm());
    const stop = (): boolean => this.violation !== null;
    clock.runUntil(plan.calmAtMs + 1, stop);
    const bound = calmBoundMs(plan);
    let quietMs = 0;
    while (!stop() && quietMs < 2_000) {
      if (clock.nowMs > plan.calmAtMs + bound) {
        this.refuse('liveness', this.#unfinished() ?? 'not quiet');
        break;
      }
      clock.runUntil(clock.nowMs + 1_000, stop);
      quietMs = this.#unfinished() === null ? quietMs + 1_000 : 0;
    }
    return this.violation;
  }

  // -- surroundings of pods and engines

  readonly #ground = {
    clock: this.clock,
    post: (event: Parameters<Host['post']>[0]) => this.host.post(event),
    refuse: (kind: string, text: string) => this.refuse(kind, text),
    agentLife: () => (this.host.alive ? this.host.life : -1),
    hold: (engine: SimEngine, bytes: number) => this.#hold(engine, bytes),
    died: (engine: SimEngine, tail: string) => this.#died(engine, tail),
    ready: (engine: SimEngine) => this.#podOf(engine)?.engineReady(engine),
    thawed: (engine: SimEngine, request: number, sinceMs: number) =>
      this.waits?.waited(engine.model, sinceMs, `frozen request ${request} to ${engine.pod}`),
    passed: (client: Client) => this.#waited(client),
    finished: (engine: SimEngine, request: number) => this.#podOf(engine)?.door?.finished(request, 'served'),
    note: (text: string) => this.note(() => text),
    ended: (pod: SimPod, client: Client, outcome: Outcome) => this.#ended(pod, client, outcome),
    bootedFirst: (pod: SimPod) => this.#replaceOld(pod),
    over: (pod: SimPod) => this.#over(pod),
  };

  #podOf(engine: SimEngine): SimPod | undefined {
    return this.pods.find((pod) => pod.engine === engine);
  }

  /** The judge: an engine that finds no memory is the arbiter's fault unless a stranger came after the last measurement. */
  #hold(engine: SimEngine, bytes: number): boolean {
    const known = engine.knownStrangers ?? this.#podOf(engine)?.knownStrangers ?? this.host.known;
    for (const index of engine.model.gpus) {
      const gpu = this.gpus[index]!;
      const others = gpu.enginesBytes(engine);
      if (bytes <= (gpu.held.get(engine) ?? 0)) continue;
      // What grows by itself beside a stranger was commanded by nobody.
      const excused = engine.condition === 'awake' && gpu.strangerBytes > 0;
      // One that was known and has gone again takes nothing.
      const strangers = Math.min(known[index]!, gpu.strangerBytes);
      if (!excused && others + bytes > gpu.totalBytes - strangers) {
        const names = [...gpu.held].map(
          ([other, held]) => `${other.pod} ${(held / 2 ** 30).toFixed(2)} GiB (${other.condition})`,
        );
        this.refuse(
          'over-commit',
          `${engine.pod} takes ${(bytes / 2 ** 30).toFixed(2)} GiB on GPU ${index} beside ${names.join(', ')}; strangers ${(strangers / 2 ** 30).toFixed(2)} GiB of ${(gpu.totalBytes / 2 ** 30).toFixed(0)}`,
        );
      }
      if (others + bytes > gpu.totalBytes - gpu.strangerBytes) return false;
    }
    for (const index of engine.model.gpus) this.gpus[index]!.held.set(engine, bytes);
    engine.bytes = bytes;
    this.note(() => `   · ${engine.pod} holds ${(bytes / 2 ** 30).toFixed(2)} GiB`);
    return true;
  }

  /** The driver clears an ended process within 200 ms. */
  #died(engine: SimEngine, tail: string): void {
    this.note(() => `   · engine of ${engine.pod} ended ${tail}`);
    this.clock.after(this.random.between(0, 200), () => {
      for (const gpu of this.gpus) gpu.held.delete(engine);
    });
    this.#podOf(engine)?.engineDied(engine, tail);
  }

  #ended(pod: SimPod, client: Client, outcome: Outcome): void {
    judgeEnd(this, pod, client, outcome);
    if (outcome === 'left' && client.passedMs === null) this.#waited(client);
    client.outcome = outcome;
    this.#afterEnd.get(client)?.();
    this.#afterEnd.delete(client);
  }

  #waited({ id, model: name, arrivedMs }: Client): void {
    const model = this.plan.models.find((one) => one.name === name)!;
    this.waits?.waited(model, arrivedMs, `request ${id} to ${name}`);
  }

  // -- desired state

  resources(): GpuResourceFact[] {
    return this.gpus
      .filter((gpu) => !this.#resourceGone.has(gpu.index))
      .map((gpu) => ({
        uuid: gpu.uuid,
        bindings: this.plan.models
          .filter(
            (model) =>
              model.gpus.includes(gpu.index) && this.pods.some((pod) => pod.model === model && !pod.isOver),
          )
          .map(({ name, reservedBytes, popular }) => ({
            namespace: 'sim',
            model: name,
            replica: 0,
            reservedBytes,
            popular,
          })),
      }));
  }

  /** The watch brings a change a little later. */
  #changed(): void {
    if (this.#listsPending) return;
    this.#listsPending = true;
    this.clock.after(this.random.between(10, 200), () => {
      this.#listsPending = false;
      this.host.sendLists();
    });
  }

  #addPod(model: ModelPlan, alwaysFails: boolean): SimPod {
    const uid = `${model.name}-${++this.#podCount}`;
    const pod = new SimPod(uid, model, this.#ground, { random: randomFor(this.plan.seed, uid), alwaysFails });
    const newest = this.#newest(model.name);
    if (newest) pod.change(newest.settings);
    this.pods.push(pod);
    this.waits?.added(pod);
    this.#changed();
    this.clock.after(pod.uid.length + this.random.between(50, 500), () => pod.attach());
    this.clock.after(this.random.between(100, 1_500), () => pod.connectLauncher());
    return pod;
  }

  #over(pod: SimPod): void {
    this.clock.after(this.random.between(50, 1_000), () => {
      this.pods = this.pods.filter((other) => other !== pod);
      this.#changed();
    });
  }

  /** The controller ends the old pod when the new one is up. */
  #replaceOld(pod: SimPod): void {
    this.waits?.ready(pod);
    const older = this.pods.filter((other) => other !== pod && other.model === pod.model && !other.deleting);
    this.clock.after(this.random.between(100, 2_000), () => {
      if (pod.isOver || pod.deleting) return;
      for (const old of older) old.terminate();
      if (older.length > 0) this.#changed();
    });
  }

  #newest(model: string): SimPod | undefined {
    return this.pods.findLast((pod) => pod.model.name === model && !pod.deleting);
  }

  // -- what happens

  #act(action: Action): void {
    if (this.calm && action.type !== 'arrive') return;
    if (action.type !== 'arrive') this.note(() => `** ${JSON.stringify(action)}`);
    switch (action.type) {
      case 'arrive':
        this.#arrive(action);
        return;
      case 'add': {
        const model = this.plan.models.find(({ name }) => name === action.model)!;
        if (!this.#newest(action.model)) this.#addPod(model, false);
        return;
      }
      case 'loop':
        for (let client = 0; client < action.clients; client++) this.#loop(action, { left: action.requests });
        return;
      case 'agent-dies':
        this.agentDies(action.forMs);
        return;
      case 'agent-dies-after':
        this.host.deadlyEffect = { type: action.effect, forMs: action.forMs };
        return;
      case 'api-away':
        this.apiUp = false;
        this.clock.after(action.forMs, () => this.#apiBack());
        return;
      case 'stall':
        this.host.stall(action.forMs);
        return;
      case 'measurements-slow':
        this.host.measureDelayMs = action.byMs;
        this.clock.after(action.forMs, () => {
          this.host.measureDelayMs = 0;
        });
        return;
      case 'resource-gone':
      case 'gpu-unusable':
      case 'gpu-vanishes':
      case 'stranger':
        this.#toGpu(action);
        return;
      default: {
        const pod = this.#newest(action.model);
        if (pod) this.#toPod(pod, action);
      }
    }
  }

  agentDies(forMs: number): void {
    if (!this.host.alive) return;
    this.note(() => '** the agent is killed');
    this.host.die();
    this.clock.after(forMs, () => {
      if (!this.host.alive) this.host.start();
    });
  }

  /** One client that asks again and again. */
  #loop(action: Action & { type: 'loop' }, budget: { left: number }): void {
    if (this.calm || budget.left-- <= 0) return;
    const pauseMs = (): number => action.thinkMs * this.random.between(0.5, 1.5);
    const again = (): void => void this.clock.after(pauseMs(), () => this.#loop(action, budget));
    const client = this.#arrive({ ...action, type: 'arrive', patienceMs: null });
    if (!client) this.clock.after(5_000, () => this.#loop(action, budget));
    else if (client.outcome === null) this.#afterEnd.set(client, again);
    else this.clock.after(1_000, () => this.#loop(action, budget));
  }

  #apiBack(): void {
    this.apiUp = true;
    this.#changed();
  }

  #arrive(action: Action & { type: 'arrive' }): Client | null {
    const open = this.pods.filter((pod) => pod.model.name === action.model && pod.door && !pod.isOver);
    const pod = open.find(({ deleting }) => !deleting) ?? open[0];
    if (!pod) return null;
    const id = this.clients.length + 1;
    const client: Client = {
      id,
      model: action.model,
      workMs: action.workMs,
      arrivedMs: this.clock.nowMs,
      outcome: null,
      refusal: '',
      passedMs: null,
    };
    this.clients.push(client);
    this.note(() => `++ request ${id} to ${pod.uid}, ${Math.round(action.workMs)} ms of work`);
    const { door } = pod;
    door!.arrive(client);
    if (action.patienceMs !== null) this.clock.after(action.patienceMs, () => door!.leave(id));
    return client;
  }

  #toGpu(action: Action & { gpu: number; forMs: number }): void {
    const gpu = this.gpus[action.gpu]!;
    const restore = (run: () => void): void => {
      this.clock.after(action.forMs, run);
    };
    if (action.type === 'stranger') {
      this.gpusStranged.add(action.gpu);
      gpu.strangerBytes = Math.min(action.bytes, gpu.strangerBytes + gpu.freeBytes);
      restore(() => {
        gpu.strangerBytes = 0;
      });
    } else if (action.type === 'resource-gone') {
      this.#resourceGone.add(action.gpu);
      this.#changed();
      restore(() => {
        this.#resourceGone.delete(action.gpu);
        this.#changed();
      });
    } else {
      this.gpusLost.add(action.gpu);
      if (action.type === 'gpu-unusable') gpu.usable = false;
      else {
        gpu.present = false;
        for (const engine of [...gpu.held.keys()]) engine.die('CUDA error: device lost');
      }
      this.host.sendGpus();
      restore(() => {
        gpu.usable = true;
        gpu.present = !this.#isLost(gpu.index);
        this.host.sendGpus();
      });
    }
  }

  #toPod(
    pod: SimPod,
    action: Exclude<
      Action,
      {
        type:
          | 'arrive'
          | 'add'
          | 'agent-dies'
          | 'agent-dies-after'
          | 'loop'
          | 'api-away'
          | 'stall'
          | 'measurements-slow'
          | 'resource-gone'
          | 'gpu-unusable'
          | 'gpu-vanishes'
          | 'stranger';
      }
    >,
  ): void {
    switch (action.type) {
      case 'fault':
        pod.faults.push(action.fault);
        return;
      case 'engine-dies':
        pod.engine?.die('Segmentation fault');
        return;
      case 'engine-grows':
        pod.engine?.grow(action.bytes);
        return;
      case 'launcher-restarts':
        pod.launcherRestarts();
        return;
      case 'sidecar-restarts':
        pod.sidecarDies();
        this.clock.after(action.forMs, () => pod.sidecarStarts());
        return;
      case 'link-flaps':
        pod.detach(false);
        this.clock.after(action.forMs, () => pod.attach());
        return;
      case 'delete':
        pod.terminate();
        this.#changed();
        return;
      case 'roll':
        if (pod.everReady && this.pods.filter(({ model }) => model === pod.model).length === 1)
          this.#addPod(pod.model, action.fails);
        return;
      case 'settings':
        pod.change(settingsOf({ ...pod.asModel(), ...action.change }));
        this.#changed();
        return;
      default:
        action satisfies never;
    }
  }

  /** Faults stop, what was taken away comes back, failing rolls are taken back. */
  #becomeCalm(): void {
    this.calm = true;
    this.note(() => '** calm: no more faults');
    this.apiUp = true;
    this.#resourceGone.clear();
    this.host.measureDelayMs = 0;
    this.host.deadlyEffect = null;
    for (const gpu of this.gpus) {
      gpu.usable = true;
      gpu.present = !this.#isLost(gpu.index);
      gpu.strangerBytes = 0;
    }
    for (const pod of this.pods) {
      pod.faults.length = 0;
      if (pod.alwaysFails) pod.terminate();
      if (!pod.door) pod.sidecarStarts();
      pod.attach();
      pod.connectLauncher();
    }
    if (!this.host.alive) this.host.start();
    this.host.sendGpus();
    this.#changed();
  }

  // -- the end

  #isLost(gpu: number): boolean {
    return this.plan.lostGpu === gpu && this.gpusLost.has(gpu);
  }

  #isDoomed({ gpus }: ModelPlan): boolean {
    return gpus.some((gpu) => this.#isLost(gpu));
  }

  /** What is not finished yet; null: all is quiet and the agent's view is the world's. */
  #unfinished(): string | null {
    const open = this.clients.find(({ outcome }) => outcome === null);
    if (open) return `request ${open.id} to ${open.model} never ended`;
    if (!this.host.state) return 'the agent is not there';
    for (const pod of this.pods) {
      if (this.#isDoomed(pod.model)) continue;
      const phase = this.host.state.replicas.get(pod.uid)?.phase;
      const condition = pod.engine?.condition ?? 'none';
      const agrees =
        (phase === 'serving' && condition === 'awake') ||
        (phase === 'asleep' && condition === 'asleep') ||
        (phase === 'asking' && condition === 'none' && this.#isKeptOut(pod));
      if (!agrees) return `${pod.uid} is ${phase} for the agent and ${condition} in truth`;
      if (pod.model.popular && condition !== 'awake') return `${pod.uid} is pinned and ${condition}`;
    }
    for (const { uuid, roomBytes } of ledgerView(this.host.state)) {
      const { freeBytes: free, index } = this.gpus.find((gpu) => gpu.uuid === uuid)!;
      if (this.#isLost(index)) continue;
      if (roomBytes > free)
        return `the ledger sees ${roomBytes} bytes of room on ${uuid}, of which ${free} are free`;
    }
    return null;
  }

  /** It waits to boot, nobody for it, beside an engine that serves and does not sleep: that is ended for clients alone. */
  #isKeptOut(pod: SimPod): boolean {
    return this.pods.some((other) => other.engine?.refuses && sharesGpu(other, pod));
  }

  get events(): number {
    return this.#events;
  }
}
