/** What the agent may command, judged by the world as it is and by what the agent has been told of it. */
import type { State } from '#proto/link.ts';
import type { BindingFact } from '../../agent/decide/arbiter/words.ts';
import type { CanaryAnswer } from '../../agent/decide/canary.ts';
import { GivingWay } from './giving-way.ts';
import type { PodEvent, SimPod } from './pod.ts';
import type { World } from './world.ts';

/** What engines answer to a canary. */
export const sense: CanaryAnswer = { kind: 'tokens', steps: [{ token: 'a', logprob: -1, top: { a: -1 } }] };
export const nonsense: CanaryAnswer = {
  kind: 'tokens',
  steps: [{ token: 'b', logprob: -9, top: { b: -9 } }],
};

export const sharesGpu = (other: SimPod, pod: SimPod): boolean =>
  other !== pod && other.model.gpus.some((gpu) => pod.model.gpus.includes(gpu));

/** It may wait for that one's room. */
const waitsBeside = (other: SimPod, pod: SimPod): boolean =>
  sharesGpu(other, pod) && other.engine?.condition !== 'awake';

export class Rules {
  #world: World;
  /** Bindings by GPU as the agent last heard them; null: it never has. */
  #resources: Map<string, BindingFact[]> | null = null;
  #deleting = new Set<string>();
  /** Models of the pods it has heard of, one for each pod. */
  #models: string[] = [];
  #told = new Map<string, string>();
  /** Clients of a pod as its sidecar said last. */
  #clients = new Map<string, number>();
  /** Pods whose sidecars said that they serve, and that this agent has not moved. */
  #found = new Set<string>();
  #givingWay: GivingWay;

  constructor(world: World) {
    this.#world = world;
    this.#givingWay = new GivingWay(world);
  }

  /** A new agent has heard nothing. */
  forget(): void {
    this.#resources = null;
    this.#deleting.clear();
    this.#models = [];
    this.#told.clear();
    this.#clients.clear();
    this.#found.clear();
    this.#givingWay = new GivingWay(this.#world);
  }

  heard(event: PodEvent): void {
    this.#givingWay.heard(event);
    if (event.type === 'pods') {
      this.#models = event.pods.map(({ model }) => model);
      this.#deleting = new Set(event.pods.filter(({ deleting }) => deleting).map(({ podUid }) => podUid));
    } else if (event.type === 'gpu-resources') {
      this.#resources = new Map(event.resources.map(({ uuid, bindings }) => [uuid, bindings]));
    } else if (event.type === 'demand') {
      this.#clients.set(event.podUid, event.demand.inFlight + event.demand.queued);
    } else if (event.type === 'attached') {
      const { podUid, demand } = event.hello;
      this.#clients.set(podUid, demand.inFlight + demand.queued);
      // One that has just attached is told its state, changed or not.
      this.#told.delete(event.hello.podUid);
      if (event.hello.state === 'SERVING') this.#found.add(podUid);
    }
  }

  /** Only what changed is said. */
  tells(pod: SimPod, { state, reason, bootReady, retryAfterMs }: State): void {
    const retryAtMs = retryAfterMs > 0 ? Math.round(this.#world.clock.nowMs + retryAfterMs) : 0;
    const now = JSON.stringify([state, reason, bootReady, retryAtMs]);
    if (this.#told.get(pod.uid) === now) this.#world.refuse('tell', `${pod.uid} was told ${now} twice`);
    this.#told.set(pod.uid, now);
    this.#givingWay.told(pod);
    if (state === 'SERVING') this.#checkSense(pod);
  }

  /** Where its own answer is known, clients never hear that one serves that talks nonsense. */
  #checkSense(pod: SimPod): void {
    const { host } = this.#world;
    const reference = host.state?.replicas.get(pod.uid)?.reference;
    const known = JSON.stringify(reference) === JSON.stringify(sense) && !this.#found.has(pod.uid);
    if (known && pod.engine?.garbled && pod.engine.condition === 'awake')
      this.#world.refuse('nonsense', `${pod.uid} serves and talks nonsense`);
  }

  barrier(pod: SimPod, drainMs: number): void {
    this.#told.delete(pod.uid);
    this.#givingWay.barrier(pod, drainMs);
  }

  #beside(pod: SimPod): SimPod[] {
    return this.#world.pods.filter(
      (other) =>
        other !== pod && other.engine && other.model.gpus.some((gpu) => pod.model.gpus.includes(gpu)),
    );
  }

  #checkNoBootBeside(pod: SimPod, what: string): void {
    for (const other of this.#beside(pod)) {
      if (other.engine!.condition === 'booting' && other.launcherLife === this.#world.host.life) {
        this.#world.refuse('beside-a-boot', `${pod.uid} ${what} while ${other.uid} boots on its GPU`);
      }
    }
  }

  #checkResource(pod: SimPod, what: string): void {
    if (!this.#resources) return;
    for (const uuid of pod.uuids) {
      if (!this.#resources.has(uuid))
        this.#world.refuse('resource', `${pod.uid} ${what} on ${uuid}, whose resource is gone`);
    }
  }

  sleeps(pod: SimPod): void {
    const { engine } = pod;
    const { pods } = this.#world;
    this.#found.delete(pod.uid);
    this.#checkNoBootBeside(pod, 'sleeps');
    this.#checkResource(pod, 'sleeps');
    const bound = this.#resources?.get(pod.uuids[0]!)?.find(({ model }) => model === pod.model.name);
    const popular = bound ? bound.popular : pod.settings.fairness.popular;
    const rolls =
      pods.some((other) => other !== pod && other.model === pod.model) ||
      this.#models.filter((model) => model === pod.model.name).length > 1;
    if (popular && !rolls) this.#world.refuse('popular', `${pod.uid} is pinned and sleeps`);
    if (engine && (engine.condition === 'sleeping' || engine.condition === 'waking')) {
      this.#world.refuse('transition', `${pod.uid} is sent to sleep while ${engine.condition}`);
    }
    for (const other of this.#beside(pod)) {
      if (other.engine!.condition === 'waking')
        this.#world.refuse('overlap', `${pod.uid} sleeps while ${other.uid} wakes beside it`);
    }
    const clients = Math.max(engine?.running.size ?? 0, this.#clients.get(pod.uid) ?? 0);
    if (engine && clients > 0) this.#checkNeeded(pod, clients);
    this.#givingWay.sleeps(pod);
  }

  /** One with clients sleeps only for somebody who waits. */
  #checkNeeded(pod: SimPod, clients: number): void {
    const { pods, host } = this.#world;
    if (pod.attachedLife !== host.life) return;
    if (!pods.some((other) => waitsBeside(other, pod)))
      this.#world.refuse('needless', `${pod.uid} sleeps with ${clients} clients, and nobody beside it waits`);
  }

  /** The step's effects are carried out. */
  decided(): void {
    this.#givingWay.decided();
  }

  wakes(pod: SimPod): void {
    this.#checkNoBootBeside(pod, 'wakes');
    this.#givingWay.wakes(pod);
    this.#found.delete(pod.uid);
    const { engine } = pod;
    if (engine && (engine.condition === 'sleeping' || engine.condition === 'waking')) {
      this.#world.refuse('transition', `${pod.uid} is woken while ${engine.condition}`);
    }
    for (const other of this.#beside(pod)) {
      if (other.engine!.condition === 'sleeping')
        this.#world.refuse('overlap', `${pod.uid} wakes while ${other.uid} falls asleep beside it`);
    }
  }

  /** One that only refuses to sleep lives and answers: it ends for somebody who waits, and with nothing running in it. */
  restarts(pod: SimPod, reason: string): void {
    this.#checkNoBootBeside(pod, 'is restarted');
    const { pods, host } = this.#world;
    if (reason === 'ResidueKept' && pod.engine?.condition === 'paused')
      this.#world.refuse('paused', `${pod.uid} is restarted for what it keeps, and has not slept`);
    if (reason !== 'SleepFailed' || pod.attachedLife !== host.life) return;
    const running = pod.engine?.running.size ?? 0;
    if (running > 0)
      this.#world.refuse('cut', `${pod.uid} is restarted for its failed sleeps with ${running} running`);
    if (!pods.some((other) => waitsBeside(other, pod)))
      this.#world.refuse('needless', `${pod.uid} is restarted for its failed sleeps, and nobody waits`);
  }

  grants(pod: SimPod): void {
    this.#checkNoBootBeside(pod, 'is granted a boot');
    this.#givingWay.granted(pod);
    this.#found.delete(pod.uid);
    this.#checkResource(pod, 'is granted a boot');
    if (this.#deleting.has(pod.uid))
      this.#world.refuse('grant', `${pod.uid} is granted a boot while it ends`);
    for (const other of this.#beside(pod)) {
      const { condition } = other.engine!;
      if (condition === 'sleeping' || condition === 'waking') {
        this.#world.refuse(
          'beside-a-boot',
          `${pod.uid} is granted a boot while ${other.uid} is ${condition}`,
        );
      }
    }
    for (const gpu of pod.model.gpus) {
      const bindings = this.#resources?.get(`GPU-${gpu}`);
      if (bindings && !bindings.some(({ model }) => model === pod.model.name)) {
        this.#world.refuse('grant', `${pod.uid} is granted a boot on GPU ${gpu}, to which it is not bound`);
      }
    }
  }
}
