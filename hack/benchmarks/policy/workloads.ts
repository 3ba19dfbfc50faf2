/** The workloads: a trace dealt to models by a Zipf law, on/off bursts, a diurnal mix, and small cases. */
import { type Random, randomFor } from '../../../test/sim/random.ts';
import { type Arrival, type BenchModel, GB, modelOf, type Scenario, scenarioOf } from './scenario.ts';
import type { TraceRow } from './trace.ts';

/** Sizes in the order of popularity: 1B to 30B models with their caches; one to five are awake together. */
const sizesGB = [30, 16, 60, 24, 12, 40, 20, 8, 36, 16, 24, 10, 48, 18, 30, 14];

/** What an engine works on one request: prefill at 8,000 tokens/s, then 15 ms a token, as an 8B model on such a GPU does. */
const prefillTokensPerMs = 8;
const msPerToken = 15;
export const workMsOf = (contextTokens: number, generatedTokens: number): number =>
  contextTokens / prefillTokensPerMs + generatedTokens * msPerToken;

const modelsOf = (count: number): BenchModel[] =>
  Array.from({ length: count }, (_, at) => modelOf(`m${at + 1}`, sizesGB[at % sizesGB.length]! * GB));

/** The index drawn with a weight each. */
function draw(random: Random, weights: number[]): number {
  let left = random.next() * weights.reduce((sum, one) => sum + one, 0);
  for (const [at, weight] of weights.entries()) {
    left -= weight;
    if (left < 0) return at;
  }
  return weights.length - 1;
}

/** Zipf: the k-th model is asked 1/k as often as the first. */
export const zipfWeights = (count: number): number[] =>
  Array.from({ length: count }, (_, at) => 1 / (at + 1));

/** The trace's requests, each dealt to a model by chance. */
export function zipfTrace(rows: TraceRow[], count: number, seed: number): Scenario {
  const random = randomFor(seed, `zipf ${count}`);
  const weights = zipfWeights(count);
  const arrivals = rows.map(({ atMs, contextTokens, generatedTokens }) => ({
    atMs,
    model: draw(random, weights),
    workMs: workMsOf(contextTokens, generatedTokens),
  }));
  return scenarioOf(`trace, ${count} models`, modelsOf(count), arrivals);
}

/** Work like the trace's, drawn from its rows. */
const workLike = (rows: TraceRow[], random: Random): number => {
  const { contextTokens, generatedTokens } = random.pick(rows);
  return workMsOf(contextTokens, generatedTokens);
};

const burstsOnMs = 20_000;
const burstsOffMs = 100_000;
const burstsGapMs = 4_000;
/** So many that plain LRU loses a quarter of the time to switching with the times as they are. */
export const burstsModels = 20;

/** Each model by itself: bursts of 20 s with a request each 4 s, pauses of 100 s, exponential all three. They stay so long. */
export function bursts(rows: TraceRow[], count: number, total: number): Scenario {
  const random = randomFor(total, 'bursts');
  const perModel = Math.ceil(total / count);
  const arrivals: Arrival[] = [];
  for (let model = 0; model < count; model++) {
    let atMs = random.exponential(burstsOffMs);
    for (let made = 0; made < perModel; ) {
      const offMs = atMs + random.exponential(burstsOnMs);
      for (atMs += random.exponential(burstsGapMs); atMs < offMs && made < perModel; made++) {
        arrivals.push({ atMs, model, workMs: workLike(rows, random) });
        atMs += random.exponential(burstsGapMs);
      }
      atMs = offMs + random.exponential(burstsOffMs);
    }
  }
  return { ...scenarioOf(`bursts, ${count} models`, modelsOf(count), arrivals), keepsTimes: true };
}

const dayMs = 3_600_000;
const nightShare = 0.05;

/** Zipf-weighted models whose days (an hour here) peak one after the other; at night a twentieth of the peak is left. */
export function diurnal(rows: TraceRow[], count: number, total: number): Scenario {
  const random = randomFor(total, 'diurnal');
  const weights = zipfWeights(count);
  const meanGapMs = dayMs / 4_000;
  const arrivals: Arrival[] = [];
  for (let atMs = 0; arrivals.length < total; ) {
    atMs += random.exponential(meanGapMs);
    const model = draw(random, weights);
    const phase = 2 * Math.PI * (atMs / dayMs - model / count);
    const rate = nightShare + ((1 - nightShare) * (1 + Math.cos(phase))) / 2;
    if (random.chance(rate)) arrivals.push({ atMs, model, workMs: workLike(rows, random) });
  }
  return scenarioOf(`diurnal, ${count} models`, modelsOf(count), arrivals);
}

/** A small case for the exact optimum: 2 to 4 models, each too large for another beside it, 8 to 14 requests. */
export function smallCase(seed: number): Scenario {
  const random = randomFor(seed, 'small');
  const models = Array.from({ length: random.int(2, 4) }, (_, at) =>
    modelOf(`m${at + 1}`, random.int(42, 70) * GB),
  );
  const meanGapMs = random.between(1_000, 8_000);
  const arrivals: Arrival[] = [];
  let atMs = 0;
  for (let left = random.int(8, 14); left > 0; left--) {
    atMs += random.exponential(meanGapMs);
    arrivals.push({ atMs, model: random.int(0, models.length - 1), workMs: random.between(300, 8_000) });
  }
  return scenarioOf(`small case ${seed}`, models, arrivals);
}
