/** The peers' policies, each as its own simplest statement, with the parameters that the grids try. */
import type { NodeModel, PeerNode, Policy, Waiting } from './node.ts';

/** Asleep with clients, the oldest first. */
const waiters = (node: PeerNode): NodeModel[] =>
  node.models
    .filter((model) => model.condition === 'asleep' && model.queue.length > 0)
    .sort((a, b) => a.oldestMs - b.oldestMs || a.index - b.index);

const awake = (node: PeerNode): NodeModel[] => node.models.filter((model) => model.condition === 'awake');

/**
 * Makes room for one: drains awake ones in the given order until what comes suffices. If all of them do not, none goes.
 * @returns whether it was woken
 */
function admit(node: PeerNode, waiter: NodeModel, victims: NodeModel[]): boolean {
  if (waiter.leavingBytes <= node.freeBytes) {
    node.wake(waiter);
    return true;
  }
  const chosen: NodeModel[] = [];
  let room = node.comingBytes;
  for (const victim of victims) {
    if (room >= waiter.leavingBytes) break;
    chosen.push(victim);
    room += victim.leavingBytes;
  }
  if (room >= waiter.leavingBytes) for (const victim of chosen) node.drain(victim);
  return false;
}

/** Those that have been awake for at least this long; asks again when the next of them has. */
function residents(node: PeerNode, models: NodeModel[], residenceMs: number): NodeModel[] {
  const young = models.filter((model) => model.awakeSinceMs + residenceMs > node.nowMs);
  for (const model of young) node.again(model.awakeSinceMs + residenceMs);
  return models.filter((model) => !young.includes(model));
}

export interface LruParameters {
  /** No model goes before it has been awake for so long. */
  residenceMs: number;
  /** Before a waiter has waited so long only idle models go for it. */
  patienceMs: number;
}

/** Least recently used goes; a busy one drains. Waiters are served in the order of their oldest request. */
export function lru({ residenceMs, patienceMs }: LruParameters): Policy {
  return {
    decide(node) {
      for (const model of awake(node)) if (model.queue.length > 0) node.start(model);
      for (const waiter of waiters(node)) {
        const mayDrain = node.nowMs >= waiter.oldestMs + patienceMs;
        if (!mayDrain) node.again(waiter.oldestMs + patienceMs);
        const victims = residents(node, awake(node), residenceMs)
          .filter((model) => mayDrain || model.running === 0)
          .sort((a, b) => a.usedMs - b.usedMs || a.index - b.index);
        if (!admit(node, waiter, victims)) return;
      }
    },
  };
}

export interface FcfsParameters {
  /** No model goes before it has been awake for so long (llmux: min_active_secs). */
  residenceMs: number;
  /** A request for a model that is awake waits while an older one for another model does. */
  strict: boolean;
  /** One model is awake at a time, whatever would fit, as in llmux. */
  alone?: boolean;
}

/** Asleep or awake with clients, the oldest first. */
const pending = (node: PeerNode): NodeModel[] =>
  node.models
    .filter((model) => model.queue.length > 0)
    .sort((a, b) => a.oldestMs - b.oldestMs || a.index - b.index);

/** Starts in order of arrival; stops where the oldest that waits is for a model that is not awake. */
function startInOrder(node: PeerNode): void {
  for (;;) {
    const [head, next] = pending(node);
    if (head?.condition !== 'awake') return;
    const before = next?.oldestMs ?? Number.POSITIVE_INFINITY;
    const count = head.queue.findIndex(({ sinceMs }) => sinceMs > before);
    node.start(head, count === -1 ? head.queue.length : Math.max(1, count));
  }
}

/**
 * First come first served with drain, as llmux does: as soon as somebody waits, the model longest awake drains, without a
 * limit, and takes nothing new; one wake serves all that wait for it. Unless `alone`, kinder than llmux: what fits is awake
 * together.
 */
export function fcfs({ residenceMs, strict, alone = false }: FcfsParameters): Policy {
  return {
    decide(node) {
      if (strict) startInOrder(node);
      else for (const model of awake(node)) if (model.queue.length > 0) node.start(model);
      const [head] = pending(node).filter(({ condition }) => condition !== 'awake' || strict);
      if (head?.condition !== 'asleep') return;
      const victims = residents(node, awake(node), residenceMs).sort(
        (a, b) => a.awakeSinceMs - b.awakeSinceMs || a.index - b.index,
      );
      if (!alone || node.models.every(({ condition }) => condition === 'asleep')) admit(node, head, victims);
      else for (const victim of victims) node.drain(victim);
    },
  };
}

/** The reference's timers, from its own documentation. */
export const referenceTimers = {
  maxWaitMs: 5_000,
  recheckMs: 1_000,
  pollMs: 2_000,
  minRuntimeMs: 10_000,
  /** A client that was answered 503 asks again after this, doubled each time, at most the second. */
  retryMsFirst: 500,
  retryMsMax: 8_000,
} as const;

/**
 * A waiter writes its wish to the API server and looks each second whether it fits; after 5 s its wish counts. A victim
 * looks each 2 s for wishes that count; one that is idle or has run its 10 s then drains and answers 503 meanwhile.
 */
export function reference(timers: typeof referenceTimers = referenceTimers): Policy {
  /** Since when each model's wish stands; by index. */
  const wishes = new Map<number, number>();
  const refused = (node: PeerNode, model: NodeModel, waiting: Waiting, pauseMs: number): void => {
    node.clock.after(pauseMs, () => {
      if (model.condition === 'draining' || model.condition === 'sleeping')
        refused(node, model, waiting, Math.min(timers.retryMsMax, pauseMs * 2));
      else node.enqueue(model, waiting);
    });
  };
  const recheck = (node: PeerNode, model: NodeModel): void => {
    if (model.condition !== 'asleep') return;
    if (model.leavingBytes <= node.freeBytes) {
      wishes.delete(model.index);
      node.wake(model);
    } else node.clock.after(timers.recheckMs, () => recheck(node, model));
  };
  const poll = (node: PeerNode, victim: NodeModel): void => {
    if (victim.condition !== 'awake') return;
    node.clock.after(timers.pollMs, () => poll(node, victim));
    const due = [...wishes].filter(([, sinceMs]) => node.nowMs >= sinceMs + timers.maxWaitMs);
    const lacking = due.some(([index]) => node.models[index]!.leavingBytes > node.comingBytes);
    const over = victim.running === 0 || node.nowMs >= victim.awakeSinceMs + timers.minRuntimeMs;
    if (lacking && over) node.drain(victim);
  };
  const polled = new Set<NodeModel>();
  return {
    arrived(node, model, waiting) {
      if (model.condition === 'draining' || model.condition === 'sleeping')
        refused(node, model, waiting, timers.retryMsFirst);
      else node.enqueue(model, waiting);
    },
    decide(node) {
      for (const model of node.models) {
        if (model.condition === 'awake') {
          if (model.queue.length > 0) node.start(model);
          if (!polled.has(model)) {
            polled.add(model);
            node.clock.after(timers.pollMs, () => poll(node, model));
          }
          continue;
        }
        polled.delete(model);
        if (model.condition === 'asleep' && model.queue.length > 0 && !wishes.has(model.index)) {
          wishes.set(model.index, node.nowMs);
          recheck(node, model);
        }
      }
    },
  };
}
