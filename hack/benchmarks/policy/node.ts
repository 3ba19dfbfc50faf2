/**
 * One GPU under a peer's policy, in virtual time: models sleep and wake at their cost, requests run beside one another.
 * Peers know at once and exactly what is free, and talk in no time; only ours pays for its measurements and messages.
 */
import { Clock } from '../../../test/sim/clock.ts';
import { type BenchModel, type Outcome, residueBytes, type Scenario, UnionTime } from './scenario.ts';

export type Condition = 'asleep' | 'waking' | 'awake' | 'draining' | 'sleeping';

export interface Waiting {
  arrival: number;
  sinceMs: number;
}

export class NodeModel {
  readonly index: number;
  readonly plan: BenchModel;
  condition: Condition = 'asleep';
  running = 0;
  queue: Waiting[] = [];
  awakeSinceMs = 0;
  /** The last arrival or end of a request. */
  usedMs = Number.NEGATIVE_INFINITY;

  constructor(index: number, plan: BenchModel) {
    this.index = index;
    this.plan = plan;
  }

  /** What its sleep gives back. */
  get leavingBytes(): number {
    return this.plan.bytes - residueBytes;
  }

  get oldestMs(): number {
    return this.queue[0]?.sinceMs ?? Number.POSITIVE_INFINITY;
  }
}

/** One policy: what it is asked after each change. It acts by `wake`, `drain`, `start` and `clock`. */
export interface Policy {
  /** Called after each arrival, end, wake and sleep, and at each time that it asked for by `node.again`. */
  decide(node: PeerNode): void;
  /** A request has come; by default it queues and `decide` is called. */
  arrived?(node: PeerNode, model: NodeModel, waiting: Waiting): void;
}

export class PeerNode {
  readonly clock = new Clock();
  readonly models: NodeModel[];
  freeBytes: number;
  #scenario: Scenario;
  #policy: Policy;
  #waitsMs: Float64Array;
  #longestMs = 0;
  #lost = new UnionTime();
  #counts = { wakes: 0, sleeps: 0, switchMs: 0, ended: 0, endMs: 0 };
  #againMs = new Set<number>();

  constructor(scenario: Scenario, policy: Policy) {
    this.#scenario = scenario;
    this.#policy = policy;
    this.models = scenario.models.map((plan, index) => new NodeModel(index, plan));
    this.freeBytes = scenario.gpuBytes - residueBytes * scenario.models.length;
    this.#waitsMs = new Float64Array(scenario.arrivals.length);
  }

  get nowMs(): number {
    return this.clock.nowMs;
  }

  /** Room once all that leaves now has left. */
  get comingBytes(): number {
    return this.models.reduce(
      (bytes, model) =>
        model.condition === 'draining' || model.condition === 'sleeping' ? bytes + model.leavingBytes : bytes,
      this.freeBytes,
    );
  }

  /** @throws Error when requests are left over after `untilMs`: the policy starves somebody */
  run(untilMs: number): Outcome {
    const { arrivals } = this.#scenario;
    this.#arriveFrom(0);
    this.clock.runUntil(untilMs, () => this.#counts.ended === arrivals.length);
    const { wakes, sleeps, switchMs, ended, endMs } = this.#counts;
    if (ended < arrivals.length) this.#countStarved();
    return {
      waitsMs: this.#waitsMs,
      longestWaitMs: this.#longestMs,
      wakes,
      sleeps,
      switchMs,
      lostMs: this.#lost.totalMs,
      endMs: ended < arrivals.length ? this.nowMs : endMs,
    };
  }

  /** Whoever still waits has waited until now. */
  #countStarved(): void {
    for (const model of this.models) {
      for (const { arrival, sinceMs } of model.queue) {
        this.#waitsMs[arrival] = this.nowMs - sinceMs;
        this.#longestMs = Math.max(this.#longestMs, this.nowMs - sinceMs);
      }
    }
  }

  #arriveFrom(at: number): void {
    const arrival = this.#scenario.arrivals[at];
    if (!arrival) return;
    this.clock.at(arrival.atMs, () => {
      const model = this.models[arrival.model]!;
      const waiting = { arrival: at, sinceMs: arrival.atMs };
      model.usedMs = this.nowMs;
      if (this.#policy.arrived) this.#policy.arrived(this, model, waiting);
      else this.enqueue(model, waiting);
      this.#arriveFrom(at + 1);
    });
  }

  enqueue(model: NodeModel, waiting: Waiting): void {
    model.queue.push(waiting);
    this.#policy.decide(this);
  }

  /** Asks the policy again at this time. */
  again(atMs: number): void {
    if (atMs <= this.nowMs || !Number.isFinite(atMs) || this.#againMs.has(atMs)) return;
    this.#againMs.add(atMs);
    this.clock.at(atMs, () => {
      this.#againMs.delete(atMs);
      this.#policy.decide(this);
    });
  }

  /** The engine takes this many of its queue, the oldest first; all by default. */
  start(model: NodeModel, count = model.queue.length): void {
    if (model.condition !== 'awake')
      throw new Error(`${model.plan.name} takes requests while ${model.condition}`);
    for (const { arrival, sinceMs } of model.queue.splice(0, count)) {
      const waitedMs = this.nowMs - sinceMs;
      this.#waitsMs[arrival] = waitedMs;
      this.#longestMs = Math.max(this.#longestMs, waitedMs);
      model.running++;
      this.clock.after(this.#scenario.arrivals[arrival]!.workMs, () => this.#ended(model));
    }
  }

  #ended(model: NodeModel): void {
    model.running--;
    model.usedMs = this.nowMs;
    this.#counts.ended++;
    this.#counts.endMs = this.nowMs;
    if (model.condition === 'draining' && model.running === 0) this.#sleep(model);
    this.#policy.decide(this);
  }

  wake(model: NodeModel): void {
    const need = model.leavingBytes;
    if (model.condition !== 'asleep' || need > this.freeBytes)
      throw new Error(`${model.plan.name} wakes while ${model.condition} with ${this.freeBytes} bytes free`);
    this.freeBytes -= need;
    model.condition = 'waking';
    this.#counts.wakes++;
    this.#counts.switchMs += model.plan.wakeMs;
    this.#lost.begin(this.nowMs);
    this.clock.after(model.plan.wakeMs, () => {
      this.#lost.end(this.nowMs);
      model.condition = 'awake';
      model.awakeSinceMs = this.nowMs;
      this.#policy.decide(this);
    });
  }

  /** Takes no new requests from now on and sleeps when those that run have ended. */
  drain(model: NodeModel): void {
    if (model.condition !== 'awake') throw new Error(`${model.plan.name} drains while ${model.condition}`);
    model.condition = 'draining';
    if (model.running === 0) this.#sleep(model);
  }

  #sleep(model: NodeModel): void {
    const { sleepMs } = this.#scenario;
    model.condition = 'sleeping';
    this.#counts.sleeps++;
    this.#counts.switchMs += sleepMs;
    this.#lost.begin(this.nowMs);
    this.clock.after(sleepMs, () => {
      this.#lost.end(this.nowMs);
      model.condition = 'asleep';
      this.freeBytes += model.leavingBytes;
      this.#policy.decide(this);
    });
  }
}
