/**
 * Who is made to give way, for whom and when: judged by the world's own clock, by what engines really take, and by what the agent
 * has been told.
 */
import type { Demand } from '#proto/link.ts';
import type { PodEvent, SimPod } from './pod.ts';
import type { ModelPlan, Plan } from './schedule.ts';
import type { World } from './world.ts';

const turnMsMax = 60_000;
const turnSwitches = 4;
/** A boot that nobody waits for forces nobody before this. */
const idleBootMs = 30_000;
const headRoomBytes = 256 * 2 ** 20;
/** What a sleeper counts until it was measured. */
const residueUnmeasuredBytes = 1.5 * 2 ** 30;
/** Idle for so long, and left alone since a drain that was called off: it may go without a doubt. */
const surelyIdleMs = 250;
const clockMs = 1;

type Setting = 'maxWaitTimeMs' | 'drainTimeoutMs' | 'minRuntimeMs' | 'idleTimeoutMs';

/** The least this setting has been so far: a change takes a moment to arrive. */
export function least(plan: Plan, model: ModelPlan, setting: Setting, nowMs: number): number {
  let ms = model[setting];
  for (const action of plan.actions) {
    if (action.atMs > nowMs) break;
    if (action.type === 'settings' && action.model === model.name)
      ms = Math.min(ms, action.change[setting] ?? ms);
  }
  return ms;
}

interface Drain {
  atMs: number;
  /** What its sidecar was given; one that was away hears of it later and has the rest. */
  drainMs: number;
  /** It had clients when it was chosen, and was judged then. */
  forced: boolean;
}

export class GivingWay {
  #world: World;
  #listed: string[] = [];
  #attachedAt = new Map<string, number>();
  #demand = new Map<string, { demand: Demand; atMs: number }>();
  /** Since when a launcher asks for a boot. */
  #asked = new Map<string, number>();
  /** Engines that ended, and since then the launcher went: it keeps its place over that, from the end on. */
  #ended = new Map<string, { atMs: number; launcherGone: boolean }>();
  /** When this agent sent it to sleep. */
  #stopped = new Map<string, number>();
  /** This agent's sleep of it was answered well. */
  #slept = new Set<string>();
  /** The least that this agent has measured: its own sleep, ms, and its wakes. */
  #sleepMs = new Map<string, number>();
  #wakeMs = new Map<string, number>();
  #drains = new Map<string, Drain>();
  #calledOff = new Map<string, number>();
  /** Those chosen in the step that is being carried out. */
  #chosen: SimPod[] = [];
  /** Of these, those chosen after the one that is judged. */
  #later: SimPod[] = [];

  constructor(world: World) {
    this.#world = world;
  }

  heard(event: PodEvent): void {
    const atMs = this.#world.clock.nowMs;
    switch (event.type) {
      case 'pods':
        this.#listed = event.pods.map(({ podUid }) => podUid);
        return;
      case 'attached':
        this.#attachedAt.set(event.hello.podUid, atMs);
        this.#demand.set(event.hello.podUid, { demand: event.hello.demand, atMs });
        return;
      case 'detached':
        this.#attachedAt.delete(event.podUid);
        return;
      case 'demand':
        this.#demand.set(event.podUid, { demand: event.demand, atMs });
        return;
      case 'barrier-up': {
        const known = this.#demand.get(event.podUid);
        if (known) known.demand = { ...known.demand, inFlight: event.barrier.inFlight };
        return;
      }
      case 'exited':
        this.#ended.set(event.podUid, { atMs, launcherGone: false });
        return;
      case 'launcher-gone': {
        const end = this.#ended.get(event.podUid);
        if (end) end.launcherGone = true;
        return;
      }
      case 'asked': {
        const end = this.#ended.get(event.podUid);
        const sinceMs = end?.launcherGone ? end.atMs : atMs;
        if (!this.#asked.has(event.podUid)) this.#asked.set(event.podUid, sinceMs);
        this.#ended.delete(event.podUid);
        return;
      }
      case 'slept':
        if (event.ok) this.#slept.add(event.podUid);
        return;
      case 'woken': {
        const before = this.#wakeMs.get(event.podUid) ?? event.tookMs;
        if (event.ok) this.#wakeMs.set(event.podUid, Math.min(before, event.tookMs));
        return;
      }
      default:
    }
  }

  told(pod: SimPod): void {
    if (this.#drains.delete(pod.uid)) this.#calledOff.set(pod.uid, this.#world.clock.nowMs);
  }

  granted(pod: SimPod): void {
    this.#asked.delete(pod.uid);
    this.#checkHeadRoom(pod, pod.model.reservedBytes);
  }

  #clients(pod: SimPod): number {
    const demand = this.#demand.get(pod.uid)?.demand;
    return demand && this.#attachedAt.has(pod.uid) ? demand.inFlight + demand.queued : 0;
  }

  barrier(pod: SimPod, drainMs: number): void {
    const { plan, clock } = this.#world;
    const atMs = clock.nowMs;
    // One that is on its way already hears it once more.
    if (this.#stopped.has(pod.uid) || this.#drains.has(pod.uid)) return;
    const forced = this.#clients(pod) > 0;
    const wholeMs = least(plan, pod.model, 'drainTimeoutMs', atMs);
    const wasAway = atMs - (this.#attachedAt.get(pod.uid) ?? 0) <= clockMs;
    this.#drains.set(pod.uid, { atMs, forced, drainMs: wasAway ? Math.min(wholeMs, drainMs) : wholeMs });
    if (forced) this.#checkDue(pod);
    this.#chosen.push(pod);
  }

  sleeps(pod: SimPod): void {
    const { plan, clock } = this.#world;
    const drain = this.#drains.get(pod.uid);
    const running = pod.engine?.condition === 'awake' ? pod.engine.running.size : 0;
    if (drain && this.#attachedAt.has(pod.uid)) {
      if (!drain.forced && this.#clients(pod) > 0) this.#checkDue(pod);
      const drainedMs = clock.nowMs - drain.atMs;
      const drainMs = Math.min(drain.drainMs, least(plan, pod.model, 'drainTimeoutMs', clock.nowMs));
      if (running > 0 && drainedMs < drainMs - clockMs)
        this.#refuse(
          'drain',
          `${pod.uid} is frozen with ${running} running after ${Math.round(drainedMs)} of its ${Math.round(drainMs)} ms to drain`,
        );
    }
    this.#drains.delete(pod.uid);
    this.#slept.delete(pod.uid);
    this.#stopped.set(pod.uid, clock.nowMs);
  }

  wakes(pod: SimPod): void {
    if (this.#slept.delete(pod.uid)) this.#sleepMs.set(pod.uid, pod.model.sleepMs);
    this.#stopped.delete(pod.uid);
    this.#checkHeadRoom(pod, pod.model.awakeBytes + headRoomBytes);
  }

  #refuse(kind: string, text: string): void {
    this.#world.refuse(kind, text);
  }

  /** The larger of minRuntime and 4 × the switch as this agent has seen it. */
  #turnMs(pod: SimPod): number {
    const { plan, clock } = this.#world;
    const switchMs = (this.#sleepMs.get(pod.uid) ?? 0) + (this.#wakeMs.get(pod.uid) ?? 0);
    const runMs = least(plan, pod.model, 'minRuntimeMs', clock.nowMs);
    return Math.min(turnMsMax, Math.max(runMs, turnSwitches * switchMs));
  }

  /** One with clients gives way when its turn is over and somebody has waited his time. */
  #checkDue(pod: SimPod): void {
    const { clock, pods } = this.#world;
    const turnMs = this.#turnMs(pod);
    const servedMs = clock.nowMs - (pod.servingSinceMs ?? Number.NEGATIVE_INFINITY);
    if (servedMs < turnMs - clockMs)
      this.#refuse(
        'turn',
        `${pod.uid} gives way with clients, ${Math.round(servedMs)} ms into a turn of ${Math.round(turnMs)} ms`,
      );
    // One that has gone unheard may still be waited for.
    const allThere = this.#listed.every((uid) => pods.some((other) => other.uid === uid));
    if (allThere && !pods.some((other) => this.#mayForce(other, pod)))
      this.#refuse(
        'early',
        `${pod.uid} gives way with clients, and nobody has waited his maxWaitTime for it`,
      );
  }

  /** It waits for room on that one's GPUs, and has waited its maxWaitTime. */
  #mayForce(other: SimPod, pod: SimPod): boolean {
    if (other === pod || !other.model.gpus.some((gpu) => pod.model.gpus.includes(gpu))) return false;
    const { plan, clock } = this.#world;
    const maxWaitMs = least(plan, other.model, 'maxWaitTimeMs', clock.nowMs);
    const clients = this.#clients(other) > 0;
    const asked = this.#asked.get(other.uid);
    if (asked !== undefined) {
      const patienceMs = clients ? maxWaitMs : Math.max(maxWaitMs, idleBootMs);
      if (clock.nowMs >= asked + patienceMs - clockMs) return true;
    }
    // Of an engine that has ended with its launcher the agent hears later.
    if (this.#isUp(other) || (!clients && !other.model.popular)) return false;
    const stopped = this.#stopped.get(other.uid) ?? Number.NEGATIVE_INFINITY;
    const { demand, atMs } = this.#demand.get(other.uid) ?? {};
    const queues = demand !== undefined && demand.inFlight === 0 && demand.queued > 0;
    const since = queues ? Math.max(stopped, atMs! - demand.oldestWaitMs) : stopped;
    return clock.nowMs >= since + maxWaitMs - clockMs;
  }

  /** Beside others that are awake each has head room over what it takes; only where nothing grows or comes from outside. */
  #checkHeadRoom(pod: SimPod, bytes: number): void {
    if (!this.#world.plan.faultless) return;
    for (const index of pod.model.gpus) {
      const gpu = this.#world.gpus[index]!;
      let taken = bytes;
      let awake = 0;
      for (const [engine, held] of gpu.held) {
        if (engine.pod === pod.uid) continue;
        const up = engine.condition === 'awake' || engine.condition === 'waking';
        if (up) awake++;
        taken += up ? Math.max(held, engine.model.awakeBytes) + headRoomBytes : held;
      }
      if (awake > 0 && taken > gpu.totalBytes)
        this.#refuse('head-room', `${pod.uid} starts on GPU ${index} beside ${awake} without head room`);
    }
  }

  // -- whom

  /** All effects of one step are carried out: nobody was chosen in vain, and nobody at work where idle ones would do. */
  decided(): void {
    const chosen = this.#chosen;
    if (chosen.length === 0) return;
    this.#chosen = [];
    const { plan, clock } = this.#world;
    if (!plan.faultless) return;
    for (const [at, pod] of chosen.entries()) {
      // Waiters are served in their order: whom a later one made give way was not going yet.
      this.#later = chosen.slice(at + 1);
      const idleMs = pod.door?.demand().idleMs ?? 0;
      const forced = this.#drains.get(pod.uid)?.forced === true;
      if (!forced && idleMs >= least(plan, pod.model, 'idleTimeoutMs', clock.nowMs) - clockMs) continue;
      if (pod.model.gpus.every((gpu) => this.#suffices(gpu, pod, false)))
        this.#refuse('in-vain', `${pod.uid} gives way though there is room enough without it`);
      if (forced && pod.model.gpus.every((gpu) => this.#suffices(gpu, pod, true)))
        this.#refuse('busy', `${pod.uid} gives way with clients though idle ones would make room enough`);
    }
  }

  /** All that wait on this GPU would fit without this one's going, at the most that everybody may count. */
  #suffices(index: number, without: SimPod, idleOnesGo: boolean): boolean {
    const { pods, gpus } = this.#world;
    let bytes = 0;
    for (const other of pods) {
      if (!other.model.gpus.includes(index)) continue;
      const { reservedBytes, residueBytes } = other.model;
      const awake = reservedBytes + headRoomBytes;
      const leaves =
        other !== without && (this.#isLeaving(other) || (idleOnesGo && this.#isSurelyIdle(other)));
      if (leaves) bytes += Math.max(residueBytes, residueUnmeasuredBytes);
      else if (other === without || this.#isUp(other) || this.#waits(other)) bytes += awake;
      else bytes += Math.max(residueBytes, residueUnmeasuredBytes);
    }
    return bytes <= gpus[index]!.totalBytes;
  }

  #isUp({ engine }: SimPod): boolean {
    const condition = engine?.condition;
    return condition === 'awake' || condition === 'waking' || condition === 'booting';
  }

  #isLeaving(pod: SimPod): boolean {
    if (this.#later.includes(pod)) return false;
    return this.#drains.has(pod.uid) || pod.engine?.condition === 'sleeping';
  }

  #waits(pod: SimPod): boolean {
    return this.#asked.has(pod.uid) || this.#clients(pod) > 0 || pod.model.popular;
  }

  #isSurelyIdle(pod: SimPod): boolean {
    if (pod.engine?.condition !== 'awake' || pod.model.popular || this.#clients(pod) > 0) return false;
    const { demand, atMs } = this.#demand.get(pod.uid) ?? {};
    if (!demand || !this.#attachedAt.has(pod.uid)) return false;
    const { nowMs } = this.#world.clock;
    const calledOff = this.#calledOff.get(pod.uid) ?? Number.NEGATIVE_INFINITY;
    return nowMs - (atMs! - demand.idleMs) >= surelyIdleMs && nowMs - calledOff >= surelyIdleMs;
  }
}
