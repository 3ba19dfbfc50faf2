/** One scenario: its load fixed by plain LRU, every policy run on it, the peers with their best parameters. */
import { defaultSettings, type Settings } from '#proto/settings.ts';
import { waitBoundMs } from './bound.ts';
import { type Figures, figuresOf } from './figures.ts';
import { leastWaitMs } from './lower-bound.ts';
import { PeerNode, type Policy } from './node.ts';
import { leastLongestWaitMs, leastSwitchMs } from './optimum.ts';
import { OurNode } from './ours.ts';
import { type FcfsParameters, fcfs, type LruParameters, lru, reference } from './peers.ts';
import { type Outcome, type Scenario, stretched, withFreeSwitches } from './scenario.ts';

/** The load: plain LRU loses this share of the time to switching, as near as may be. */
export const lostShareAimed = 0.25;
export const lostShareTolerance = 0.05;
/** The load is searched between these stretches of the time between requests, to this precision of the share. */
const stretchMax = 512;
const stretchMin = 1 / 64;
const lostSharePrecision = 0.004;
const bisectionsMax = 12;

/** A run is cut when it takes three times its arrivals' time and an hour more: whoever still waits then is starved. */
const runMsMax = (scenario: Scenario): number => 3 * (scenario.arrivals.at(-1)?.atMs ?? 0) + 3_600_000;

export interface Grid {
  residencesMs: number[];
  patiencesMs: number[];
  minRuntimesMs: number[];
  maxWaitsMs: number[];
  drainsMs: number[];
}

const second = 1_000;

/** An hour: it never drains a busy one. */
const neverMs = 3_600 * second;

export const fullGrid: Grid = {
  residencesMs: [0, 0.5, 1, 2, 4, 8, 16].map((seconds) => seconds * second),
  patiencesMs: [...[0, 1, 2, 5, 10, 20].map((seconds) => seconds * second), neverMs],
  minRuntimesMs: [0, 10].map((seconds) => seconds * second),
  maxWaitsMs: [0, 5].map((seconds) => seconds * second),
  drainsMs: [0, 2, 4, 30].map((seconds) => seconds * second),
};

export const smallGrid: Grid = {
  residencesMs: [0, 2 * second],
  patiencesMs: [0, 5 * second, neverMs],
  minRuntimesMs: [10 * second],
  maxWaitsMs: [5 * second],
  drainsMs: [2 * second, 30 * second],
};

export interface Row {
  policy: string;
  parameters: string;
  figures: Figures;
  waitsMs: Float64Array;
}

/** Ours, with what its settings promise. */
export interface OurRow extends Row {
  boundMs: number;
}

export interface Report {
  scenario: Scenario;
  stretch: number;
  rows: {
    ours: OurRow;
    tuned: OurRow;
    lru: Row;
    lruPlain: Row;
    fcfs: Row;
    alone: Row;
    strict: Row;
    reference: Row;
  };
  /** LRU on the same load if sleeps and wakes took no time. */
  free: Row;
  /** Ours as it is by default, the same: more than any foresight could hide. */
  oursFree: Row;
  /** Below this no policy's p99 can be. */
  leastP99Ms: number;
  /** The longest wait over its bound, the worst of all settings that were tried. */
  longestToBound: number;
}

export const runPeer = (scenario: Scenario, policy: Policy): Outcome =>
  new PeerNode(scenario, policy).run(runMsMax(scenario));
export const runOurs = (scenario: Scenario, settings: Settings): Outcome =>
  new OurNode(scenario, settings).run(runMsMax(scenario));

const plainLru: LruParameters = { residenceMs: 0, patienceMs: 0 };

/**
 * The stretch of the scenario's times at which plain LRU loses a quarter of the time to switching: the lightest such load.
 * Where no load makes it lose so much, the one that makes it lose most. 1 where the times are to be kept.
 */
export function fixLoad(scenario: Scenario): number {
  if (scenario.keepsTimes) return 1;
  const lost = (stretch: number): number => {
    const outcome = runPeer(stretched(scenario, stretch), lru(plainLru));
    return outcome.lostMs / outcome.endMs;
  };
  let light = stretchMax;
  let heavy = stretchMax;
  let most = { stretch: stretchMax, share: 0 };
  for (let share = 0; share < lostShareAimed; ) {
    light = heavy;
    heavy = light / 2;
    if (heavy < stretchMin) return most.stretch;
    share = lost(heavy);
    if (share > most.share) most = { stretch: heavy, share };
  }
  for (let round = 0; round < bisectionsMax; round++) {
    const middle = Math.sqrt(light * heavy);
    const share = lost(middle);
    if (Math.abs(share - lostShareAimed) <= lostSharePrecision) return middle;
    if (share < lostShareAimed) light = middle;
    else heavy = middle;
  }
  return heavy;
}

const secondsText = (ms: number): string => (ms >= neverMs ? '∞' : `${Math.round(ms / 10) / 100} s`);

function rowOf(scenario: Scenario, policy: string, parameters: string, outcome: Outcome): Row {
  return { policy, parameters, figures: figuresOf(scenario, outcome), waitsMs: outcome.waitsMs };
}

/** The row with the least p99; of equals the least median. */
function best<R extends Row>(rows: R[]): R {
  let found: R | null = null;
  for (const row of rows) {
    const { p99Ms, p50Ms } = row.figures;
    const before = found?.figures;
    if (!before || p99Ms < before.p99Ms || (p99Ms === before.p99Ms && p50Ms < before.p50Ms)) found = row;
  }
  return found!;
}

function* lruGrid({ residencesMs, patiencesMs }: Grid): Generator<LruParameters> {
  for (const residenceMs of residencesMs)
    for (const patienceMs of patiencesMs) yield { residenceMs, patienceMs };
}

function* settingsGrid({ minRuntimesMs, maxWaitsMs, drainsMs }: Grid): Generator<Settings> {
  for (const minRuntimeMs of minRuntimesMs)
    for (const maxWaitTimeMs of maxWaitsMs)
      for (const drainTimeoutMs of drainsMs)
        yield {
          ...defaultSettings,
          fairness: { ...defaultSettings.fairness, minRuntimeMs, maxWaitTimeMs },
          sleep: { ...defaultSettings.sleep, drainTimeoutMs },
        };
}

const lruText = ({ residenceMs, patienceMs }: LruParameters): string =>
  `stays ${secondsText(residenceMs)}, drains busy after ${secondsText(patienceMs)}`;
const fcfsText = ({ residenceMs, strict, alone }: FcfsParameters): string =>
  `stays ${secondsText(residenceMs)}${strict ? ', strict order' : ''}${alone ? ', one awake' : ''}`;
const settingsText = ({ fairness, sleep }: Settings): string =>
  `minRuntime ${secondsText(fairness.minRuntimeMs)}, maxWaitTime ${secondsText(fairness.maxWaitTimeMs)}, drainTimeout ${secondsText(sleep.drainTimeoutMs)}`;

const lruRow = (scenario: Scenario, parameters: LruParameters): Row =>
  rowOf(scenario, 'LRU', lruText(parameters), runPeer(scenario, lru(parameters)));

const bestLru = (scenario: Scenario, grid: Grid): Row =>
  best([...lruGrid(grid)].map((parameters) => lruRow(scenario, parameters)));

/** @param base its times as they are; its load is fixed here */
export function experiment(base: Scenario, grid: Grid): Report {
  const stretch = fixLoad(base);
  const scenario = stretched(base, stretch);
  const oursRow = (settings: Settings, name: string): OurRow => ({
    ...rowOf(scenario, name, settingsText(settings), runOurs(scenario, settings)),
    boundMs: waitBoundMs(scenario, settings),
  });
  const ours = oursRow(defaultSettings, 'ours, defaults');
  const tried = [...settingsGrid(grid)].map((settings) => oursRow(settings, 'ours, best settings'));
  const fcfsRow = (parameters: FcfsParameters): Row =>
    rowOf(scenario, 'first come first served', fcfsText(parameters), runPeer(scenario, fcfs(parameters)));
  const bestFcfs = (kind: Omit<FcfsParameters, 'residenceMs'>): Row =>
    best(grid.residencesMs.map((residenceMs) => fcfsRow({ residenceMs, ...kind })));
  const free = withFreeSwitches(scenario);
  return {
    scenario,
    stretch,
    rows: {
      ours,
      tuned: best(tried),
      lru: bestLru(scenario, grid),
      lruPlain: lruRow(scenario, plainLru),
      fcfs: bestFcfs({ strict: false }),
      alone: bestFcfs({ strict: false, alone: true }),
      strict: bestFcfs({ strict: true }),
      reference: rowOf(scenario, "the reference's timers", '', runPeer(scenario, reference())),
    },
    free: bestLru(free, grid),
    oursFree: rowOf(free, 'ours', settingsText(defaultSettings), runOurs(free, defaultSettings)),
    leastP99Ms: leastWaitMs(scenario, 0.99),
    longestToBound: Math.max(...[ours, ...tried].map((row) => row.figures.longestMs / row.boundMs)),
  };
}

/** One small case beside the exact optimum. */
export interface SmallResult {
  /** Time for sleeps and wakes over the optimum's that keeps everybody's wait as short as the policy did. */
  oursToOptimum: number;
  lruToOptimum: number;
  /** Longest waits over the shortest longest wait that any schedule can reach. */
  leastLongestMs: number;
  /** The same for any policy, one that freezes included; a lower bound. */
  leastAnyMs: number;
  oursLongestMs: number;
  lruLongestMs: number;
  longestToBound: number;
}

const longest = ({ waitsMs }: Outcome): number => waitsMs.reduce((max, wait) => Math.max(max, wait), 0);

function toOptimum(scenario: Scenario, outcome: Outcome): number {
  // A millisecond for rounding: the schedule that was found is one that keeps these waits.
  const least = leastSwitchMs(scenario, longest(outcome) + 1);
  if (least === null)
    throw new Error(`${scenario.name}: the optimum waits longer than a schedule that was found`);
  return outcome.switchMs / least;
}

/** LRU here has the parameters that keep the longest wait of this very case shortest. */
export function smallExperiment(scenario: Scenario, grid: Grid): SmallResult {
  const ours = runOurs(scenario, defaultSettings);
  const outcomes = [...lruGrid(grid)].map((parameters) => runPeer(scenario, lru(parameters)));
  const lruBest = outcomes.reduce((found, one) => (longest(one) < longest(found) ? one : found));
  const shortest = Math.min(longest(ours), longest(lruBest));
  return {
    oursToOptimum: toOptimum(scenario, ours),
    lruToOptimum: toOptimum(scenario, lruBest),
    leastLongestMs: leastLongestWaitMs(scenario, shortest),
    leastAnyMs: leastWaitMs(scenario, 1),
    oursLongestMs: longest(ours),
    lruLongestMs: longest(lruBest),
    longestToBound: ours.longestWaitMs / waitBoundMs(scenario, defaultSettings),
  };
}
