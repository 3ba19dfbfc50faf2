/**
 * A scenario in time slots, rounded in every policy's favour. Sample any policy's run at the slots' beginnings: a model that
 * held its memory over [b, e) (wake, service, sleep) holds it in the slots from ceil(b/slot) to before ceil(e/slot), and what
 * is held in a slot fits, because it did at that moment. Of these slots the first `wakeSlots` count as its wake and the rest
 * as service. That is at least the real service, within any request's window too, since a window reaches in slots from the
 * one that holds its arrival and a sleep to before the first one after its deadline and a sleep (`docs/policy-experiments.md`).
 */
import { weightings } from './lower-bound.ts';
import { residueBytes, type Scenario } from './scenario.ts';

/** Added to every wait: more than what doubles lose in these sums, less than anything counted here. */
const roundingMs = 0.001;
/** Sets of models are bits of one number. */
const modelsMax = 20;
/** A wait or a wake in slots is a byte of a state, below 127. */
const slotsMax = 120;

export interface GridRequest {
  model: number;
  /** The first slot in which service counts. */
  from: number;
  /** So many slots of service end it. */
  need: number;
  /** So many slots without service it can spare; one more and it is late. */
  spare: number;
}

export interface Grid {
  models: number;
  /** From the first slot that a model holds to the first in which it serves. */
  wakeSlots: Uint8Array;
  /** By set of models (bit m: model m): 1 where they fit the GPU together. */
  fits: Uint8Array;
  /** By model, several times: what fits together weighs at most 1. */
  weights: number[][];
  /** In order of `from`. */
  requests: GridRequest[];
}

function fitting({ models, gpuBytes }: Scenario): Uint8Array {
  const freeBytes = gpuBytes - models.length * residueBytes;
  const fits = new Uint8Array(1 << models.length);
  for (let set = 0; set < fits.length; set++) {
    const bytes = models.reduce(
      (sum, model, at) => (set & (1 << at) ? sum + model.bytes - residueBytes : sum),
      0,
    );
    fits[set] = bytes <= freeBytes ? 1 : 0;
  }
  return fits;
}

/**
 * @param waitMs a request that waits longer is late
 * @param slotMs shorter slots prove more and cost more
 * @throws Error when there are too many models, a wait spans too many slots, or a slot is longer than a wake and a sleep: a
 *   stay may then show in fewer slots than its service counts, and the proof would claim too much
 */
export function gridOf(scenario: Scenario, waitMs: number, slotMs: number): Grid {
  const { models, sleepMs, arrivals } = scenario;
  if (models.length > modelsMax)
    throw new Error(`${models.length} models; at most ${modelsMax} can be proven`);
  const longestMs = Math.max(waitMs, ...models.map(({ wakeMs }) => wakeMs + sleepMs));
  if (longestMs / slotMs + 3 > slotsMax)
    throw new Error(`${longestMs} ms in slots of ${slotMs} ms: at most ${slotsMax} slots`);
  const shortestMs = Math.min(...models.map(({ wakeMs }) => wakeMs + sleepMs));
  if (slotMs > shortestMs)
    throw new Error(`slots of ${slotMs} ms: at most the ${shortestMs} ms of the shortest wake and its sleep`);
  const requests = arrivals.map(({ atMs, model, workMs }): GridRequest => {
    const from = Math.floor((atMs + sleepMs - roundingMs) / slotMs);
    const to = Math.ceil((atMs + workMs + waitMs + sleepMs + roundingMs) / slotMs);
    const need = Math.ceil((workMs - roundingMs) / slotMs);
    return { model, from, need, spare: to - from - need };
  });
  return {
    models: models.length,
    wakeSlots: Uint8Array.from(
      models,
      ({ wakeMs }) => Math.floor((wakeMs + sleepMs + roundingMs / 10) / slotMs) - 1,
    ),
    fits: fitting(scenario),
    weights: weightings(scenario),
    requests,
  };
}
