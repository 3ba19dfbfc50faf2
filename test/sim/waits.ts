/** How long clients, frozen streams and boots may wait, in seeds without faults; and that nothing stands still meanwhile. */
import { component, longest, waitBoundMs } from './checks.ts';
import type { SimPod } from './pod.ts';
import type { ModelPlan } from './schedule.ts';
import type { World } from './world.ts';

/** A component in which nothing has moved for so long though something could. */
const stillMs = 2_500;
const lookEveryMs = 500;
/** From /sleep to its rest, measured, beyond what the sleep takes. */
const restMs = 1_000;

const isUp = ({ engine }: SimPod): boolean => engine?.condition === 'awake';
const isAsleep = ({ engine }: SimPod): boolean => engine?.condition === 'asleep';

export class Waits {
  #world: World;
  #near = new Map<ModelPlan, Set<ModelPlan>>();
  /** When each pod's launcher could first ask, and when it was granted; readiness comes at most its boot later. */
  #boots = new Map<SimPod, { fromMs: number; grantedMs: number | null; readyMs: number | null }>();
  #movedMs = new Map<ModelPlan, number>();
  #stoppedMs = new Map<SimPod, number>();
  #draining = new Set<SimPod>();

  constructor(world: World) {
    this.#world = world;
    for (const model of world.plan.models) this.#near.set(model, new Set(component(world.plan, model)));
  }

  start(): void {
    const look = (): void => {
      this.#checkMotion();
      if (!this.#world.calm) this.#world.clock.after(lookEveryMs, look);
    };
    this.#world.clock.after(lookEveryMs, look);
  }

  // -- what happens

  added(pod: SimPod): void {
    this.#boots.set(pod, { fromMs: this.#world.clock.nowMs, grantedMs: null, readyMs: null });
  }

  granted(pod: SimPod): void {
    this.#moved(pod);
    const boot = this.#boots.get(pod);
    if (!boot || boot.grantedMs !== null) return;
    boot.grantedMs = this.#world.clock.nowMs;
    this.#judge(pod.model, boot.fromMs, `the boot of ${pod.uid}`, true);
  }

  ready(pod: SimPod): void {
    this.#moved(pod);
    const boot = this.#boots.get(pod);
    if (boot) boot.readyMs ??= this.#world.clock.nowMs;
  }

  barrier(pod: SimPod): void {
    this.#moved(pod);
    this.#draining.add(pod);
  }

  told(pod: SimPod): void {
    if (this.#draining.delete(pod)) this.#moved(pod);
  }

  sleeps(pod: SimPod): void {
    this.#moved(pod);
    this.#draining.delete(pod);
    this.#stoppedMs.set(pod, this.#world.clock.nowMs);
  }

  wakes(pod: SimPod): void {
    this.#moved(pod);
    for (const other of this.#world.pods) if (this.#isPassedOver(other, pod)) this.#refuseOrder(other, pod);
  }

  /** One client, or one stream, has waited since then. */
  waited(model: ModelPlan, sinceMs: number, who: string): void {
    this.#judge(model, sinceMs, who, false);
  }

  #moved(pod: SimPod): void {
    for (const model of this.#near.get(pod.model)!) this.#movedMs.set(model, this.#world.clock.nowMs);
  }

  // -- how long

  #judge(model: ModelPlan, sinceMs: number, who: string, boots: boolean): void {
    const { plan, clock } = this.#world;
    const waitedMs = clock.nowMs - sinceMs;
    // Most waits are short.
    if (waitedMs < 1_000) return;
    const near = this.#near.get(model)!;
    const booting = [...this.#boots].flatMap(([pod, { fromMs, readyMs }]) =>
      near.has(pod.model) && fromMs < clock.nowMs && (readyMs === null || readyMs > sinceMs)
        ? [pod.model]
        : [],
    );
    const boundMs = waitBoundMs(plan, model, boots && booting.length === 0 ? [model] : booting);
    if (waitedMs > boundMs)
      this.#world.refuse('wait', `${who} waited ${Math.round(waitedMs)} ms, bound ${Math.round(boundMs)} ms`);
  }

  // -- in which order

  #sinceMs(pod: SimPod): number {
    const stopped = this.#stoppedMs.get(pod) ?? Number.POSITIVE_INFINITY;
    const { inFlight, queued, oldestWaitMs } = pod.door!.demand();
    if (inFlight > 0) return stopped;
    return queued > 0 ? Math.max(stopped, this.#world.clock.nowMs - oldestWaitMs) : Number.POSITIVE_INFINITY;
  }

  /** It waited, at rest, before that one went to sleep, is worth no less, and cannot be awake beside it. */
  #isPassedOver(waiting: SimPod, woken: SimPod): boolean {
    if (waiting === woken || !isAsleep(waiting) || woken.model.popular || !waiting.door) return false;
    if (!waiting.model.gpus.every((gpu) => woken.model.gpus.includes(gpu))) return false;
    const { plan, gpus } = this.#world;
    const from = this.#stoppedMs.get(woken);
    if (from === undefined || !this.#allBooted(woken.model, from)) return false;
    const restsMs = this.#stoppedMs.get(waiting)! + waiting.model.sleepMs + restMs;
    if (!(Math.max(restsMs, this.#sinceMs(waiting)) < from - 1)) return false;
    const worth = (pod: SimPod): number[] => longest(plan, pod.model).priorities;
    if (Math.min(...worth(waiting)) < Math.max(...worth(woken))) return false;
    const together = waiting.model.awakeBytes + woken.model.awakeBytes;
    return waiting.model.gpus.some((gpu) => together > gpus[gpu]!.totalBytes);
  }

  #refuseOrder(waiting: SimPod, woken: SimPod): void {
    const ms = Math.round(this.#world.clock.nowMs - this.#sinceMs(waiting));
    this.#world.refuse(
      'order',
      `${woken.uid} wakes before ${waiting.uid}, which has waited longer, ${ms} ms`,
    );
  }

  #allBooted(model: ModelPlan, beforeMs: number): boolean {
    const near = this.#near.get(model)!;
    for (const [pod, { readyMs }] of this.#boots)
      if (near.has(pod.model) && (readyMs === null || readyMs > beforeMs)) return false;
    return true;
  }

  // -- that something moves

  /**
   * Where nothing has moved for a while and somebody waits, something keeps the room: clients at work, their turn not over, or a
   * waiter whose maxWaitTime is not. What is idle keeps nothing.
   */
  #checkMotion(): void {
    const { clock, pods } = this.#world;
    for (const pod of pods) if (this.#draining.has(pod) || (!isUp(pod) && !isAsleep(pod))) this.#moved(pod);
    for (const pod of pods) {
      if (!isAsleep(pod) || !(clock.nowMs - this.#sinceMs(pod) >= stillMs)) continue;
      const near = pods.filter((other) => this.#near.get(pod.model)!.has(other.model));
      if (clock.nowMs - (this.#movedMs.get(pod.model) ?? clock.nowMs) < stillMs) continue;
      if (!this.#allBooted(pod.model, clock.nowMs - stillMs)) continue;
      if (near.every((other) => this.#givesRoom(other, near))) {
        const text = `${pod.uid} has waited ${Math.round(clock.nowMs - this.#sinceMs(pod))} ms, nothing keeps its room, and nothing moves`;
        this.#world.refuse('standstill', text);
      }
    }
  }

  #givesRoom(pod: SimPod, near: SimPod[]): boolean {
    if (!isUp(pod) || pod.model.popular) return true;
    const { plan, clock } = this.#world;
    const { inFlight, queued, idleMs } = pod.door!.demand();
    if (inFlight + queued === 0) return idleMs >= stillMs;
    const servedMs = clock.nowMs - (pod.servingSinceMs ?? clock.nowMs);
    if (servedMs < longest(plan, pod.model).turn + stillMs) return false;
    return near.every((other) => {
      if (isUp(other)) return true;
      const waitedMs = clock.nowMs - this.#sinceMs(other);
      return waitedMs === Number.NEGATIVE_INFINITY || waitedMs >= longest(plan, other.model).force + stillMs;
    });
  }
}
