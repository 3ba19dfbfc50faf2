/**
 * What no policy can beat: not one that knows every request beforehand, freezes streams when it likes and loses nothing by
 * it. From memory and time alone, so it may be far below what can be reached.
 *
 * A window reaches from one request's arrival to the end that another would have without waiting. The requests that come
 * and would end inside it need engine time: each model at least that of its longest. If none of them waits longer than T,
 * all that happens within the window and T. Models weigh so that any set that fits the GPU together weighs at most 1; then
 * the weighted engine times, and the wakes of all of these models but those awake at first, cannot exceed the window and
 * T. Where they do, at least one request of the window waits longer than T. Windows without a common request each give one.
 */
import { type Arrival, residueBytes, type Scenario } from './scenario.ts';

/** A window spans at most this many requests: longer ones say little and cost much. */
const requestsMax = 60;
const precisionMs = 10;
/** Two shares that make exactly one GPU fit, whatever their sum rounds to. */
const rounding = 1e-9;
const searchedMsMax = 3_600_000;

/**
 * Weights of models such that whatever fits together weighs at most 1: shares of the memory, and what is known from bin
 * packing as dual feasible functions of them (halves, thresholds, rounded multiples).
 */
export function weightings({ models, gpuBytes }: Scenario): number[][] {
  const freeBytes = gpuBytes - models.length * residueBytes;
  return weightingsOf(models.map(({ bytes }) => (bytes - residueBytes) / freeBytes));
}

/** The same of shares of what is free. */
export function weightingsOf(shares: number[]): number[][] {
  const found = [shares, shares.map((share) => (share > 0.5 ? 1 : 0))];
  for (const threshold of new Set(shares.filter((share) => share <= 0.5)))
    found.push(shares.map((share) => (share > 1 - threshold + rounding ? 1 : share < threshold ? 0 : share)));
  for (let multiple = 2; multiple <= 5; multiple++) {
    found.push(
      shares.map((share) =>
        Number.isInteger(share * multiple) ? share : Math.floor(share * multiple) / (multiple - 1),
      ),
    );
  }
  return found;
}

/** What one weighting has gathered of a window. */
class Need {
  readonly #weights: number[];
  readonly #wakesMs: number[];
  #ms = 0;
  #dearestMs = 0;

  constructor(weights: number[], wakesMs: number[]) {
    this.#weights = weights;
    this.#wakesMs = wakesMs;
  }

  /** @returns the time that the window needs at least, ms */
  add(model: number, moreMs: number, isNew: boolean): number {
    const weight = this.#weights[model]!;
    if (isNew) {
      this.#ms += weight * this.#wakesMs[model]!;
      // Those awake at first weigh at most 1 together: no more than the dearest is saved.
      if (weight > 0) this.#dearestMs = Math.max(this.#dearestMs, this.#wakesMs[model]!);
    }
    this.#ms += weight * moreMs;
    return this.#ms - this.#dearestMs;
  }
}

/** The windows that begin with one request: their ends, and the T that they prove, both rising. */
interface Windows {
  fromMs: number;
  endsMs: number[];
  waitsMs: number[];
}

function windowsFrom(scenario: Scenario, first: number, weights: number[][]): Windows {
  const { models, arrivals } = scenario;
  const fromMs = arrivals[first]!.atMs;
  const endMs = ({ atMs, workMs }: Arrival): number => atMs + workMs;
  const inside = arrivals.slice(first, first + requestsMax).sort((a, b) => endMs(a) - endMs(b));
  const wakesMs = models.map(({ wakeMs }) => wakeMs);
  const needs = weights.map((one) => new Need(one, wakesMs));
  const longestMs = new Map<number, number>();
  const windows: Windows = { fromMs, endsMs: [], waitsMs: [] };
  let provenMs = 0;
  for (const arrival of inside) {
    const before = longestMs.get(arrival.model);
    const moreMs = arrival.workMs - (before ?? 0);
    if (moreMs <= 0) continue;
    longestMs.set(arrival.model, arrival.workMs);
    const added = needs.map((need) => need.add(arrival.model, moreMs, before === undefined));
    const waitMs = Math.max(...added) - (endMs(arrival) - fromMs);
    if (waitMs <= provenMs) continue;
    provenMs = waitMs;
    windows.endsMs.push(endMs(arrival));
    windows.waitsMs.push(waitMs);
  }
  return windows;
}

/** How many windows without a common request prove that somebody waits longer: the earliest ends first, as many as can be. */
function provenWaiters(all: Windows[], waitMs: number): number {
  const shortest: [fromMs: number, endMs: number][] = [];
  for (const { fromMs, endsMs, waitsMs } of all) {
    const at = waitsMs.findIndex((proven) => proven > waitMs);
    if (at >= 0) shortest.push([fromMs, endsMs[at]!]);
  }
  shortest.sort((a, b) => a[1] - b[1]);
  let count = 0;
  let lastMs = Number.NEGATIVE_INFINITY;
  for (const [fromMs, endMs] of shortest) {
    if (fromMs <= lastMs) continue;
    count++;
    lastMs = endMs;
  }
  return count;
}

/** @returns ms below which no policy's percentile of the waits can be; `share` 1: the longest wait */
export function leastWaitMs(scenario: Scenario, share: number): number {
  const weights = weightings(scenario);
  const all = scenario.arrivals.map((_, first) => windowsFrom(scenario, first, weights));
  const total = scenario.arrivals.length;
  /** So many may wait longer than the percentile. */
  const above = total - Math.ceil(total * share);
  let low = 0;
  let high = searchedMsMax;
  if (provenWaiters(all, 0) <= above) return 0;
  while (high - low > precisionMs) {
    const middle = (low + high) / 2;
    if (provenWaiters(all, middle) > above) low = middle;
    else high = middle;
  }
  return low;
}
