/**
 * The exact offline optimum on one slot: models so large that one at a time is awake, every request known beforehand. It may
 * wake ahead of time and leave requests queued, but cuts nothing: a model sleeps when what it started has ended.
 *
 * Exact because of two exchanges. Leaving a model the moment its last started request has ended is never worse than later,
 * unless it stays for a request yet to come; so what is decided at each stay is only how many of its requests, in order, it
 * serves. And two ways to the same place with the same requests served differ by time and cost alone: one that is neither
 * earlier nor cheaper is dropped.
 */
import type { Arrival, Scenario } from './scenario.ts';

interface Stay {
  /** The model that is awake, from `readyMs` on. */
  model: number;
  readyMs: number;
  /** For each model how many of its requests were served before. */
  served: number[];
  costMs: number;
}

/** Searches give up beyond this many stays: the case is not small. */
const staysMax = 2_000_000;

/** Stays in the order of their cost, the cheapest first. */
class CheapestFirst {
  #heap: Stay[] = [];

  get size(): number {
    return this.#heap.length;
  }

  push(stay: Stay): void {
    const heap = this.#heap;
    let at = heap.push(stay) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (heap[parent]!.costMs <= stay.costMs) break;
      heap[at] = heap[parent]!;
      at = parent;
    }
    heap[at] = stay;
  }

  pop(): Stay {
    const heap = this.#heap;
    const top = heap[0]!;
    const last = heap.pop()!;
    if (heap.length === 0) return top;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && heap[child + 1]!.costMs < heap[child]!.costMs) child++;
      if (heap[child]!.costMs >= last.costMs) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = last;
    return top;
  }
}

/** All ways to leave a stay: with one more request served each. Stops where one would have waited too long. */
function* departures(
  stay: Stay,
  own: Arrival[],
  waitMsMax: number,
): Generator<{ served: number; atMs: number }> {
  let atMs = stay.readyMs;
  for (let next = stay.served[stay.model]!; next < own.length; next++) {
    const { atMs: arrivedMs, workMs } = own[next]!;
    if (stay.readyMs - arrivedMs > waitMsMax) return;
    atMs = Math.max(atMs, Math.max(stay.readyMs, arrivedMs) + workMs);
    yield { served: next + 1, atMs };
  }
}

/** Whether an earlier stay at the same place is no later and no dearer; remembers this one if not. */
function isDominated(seen: Map<string, number>, stay: Stay): boolean {
  // Stays come in the order of cost: what was seen is no dearer.
  const key = `${stay.model}:${stay.served.join(',')}`;
  const earliestMs = seen.get(key);
  if (earliestMs !== undefined && earliestMs <= stay.readyMs) return true;
  seen.set(key, stay.readyMs);
  return false;
}

function checkOneSlot({ name, models, gpuBytes }: Scenario): void {
  const sizes = models.map(({ bytes }) => bytes).sort((a, b) => a - b);
  if (sizes.length > 1 && sizes[0]! + sizes[1]! <= gpuBytes)
    throw new Error(`${name}: two models fit together; the optimum is for one slot`);
}

/**
 * The least time that sleeps and wakes can take when no request waits longer than `waitMsMax` before it starts.
 * @returns null: no schedule keeps everybody's wait so short
 * @throws Error when two models fit beside one another, or the case is too large
 */
export function leastSwitchMs(scenario: Scenario, waitMsMax: number): number | null {
  const { models, sleepMs } = scenario;
  checkOneSlot(scenario);
  const byModel = models.map((_, at) => scenario.arrivals.filter(({ model }) => model === at));
  /** Those with requests that these do not cover. */
  const asked = (served: number[]): number[] =>
    byModel.flatMap((own, model) => (served[model]! < own.length ? [model] : []));
  const none = models.map(() => 0);
  const open = new CheapestFirst();
  const seen = new Map<string, number>();
  for (const model of asked(none))
    open.push({ model, readyMs: 0, served: none, costMs: models[model]!.wakeMs });
  for (let stays = 0; open.size > 0; stays++) {
    if (stays > staysMax) throw new Error(`${scenario.name}: more than ${staysMax} stays`);
    const stay = open.pop();
    if (isDominated(seen, stay)) continue;
    for (const { served: count, atMs } of departures(stay, byModel[stay.model]!, waitMsMax)) {
      const served = stay.served.with(stay.model, count);
      const left = asked(served);
      if (left.length === 0) return stay.costMs;
      for (const model of left.filter((other) => other !== stay.model)) {
        const switchMs = sleepMs + models[model]!.wakeMs;
        open.push({ model, readyMs: atMs + switchMs, served, costMs: stay.costMs + switchMs });
      }
    }
  }
  return null;
}

/** How near to the least longest wait the search goes, ms. */
const precisionMs = 5;

/**
 * The shortest longest wait that any schedule can reach, ms, to within 5 ms from below.
 * @param knownMs a longest wait that some schedule does reach
 */
export function leastLongestWaitMs(scenario: Scenario, knownMs: number): number {
  if (leastSwitchMs(scenario, 0) !== null) return 0;
  let low = 0;
  let high = knownMs;
  while (high - low > precisionMs) {
    const middle = (low + high) / 2;
    if (leastSwitchMs(scenario, middle) === null) low = middle;
    else high = middle;
  }
  return low;
}
