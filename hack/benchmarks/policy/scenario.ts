/** What a policy is run on: one GPU, models with their costs, requests with their times. All times ms, sizes bytes. */

export const GB = 1e9;

/** The costs of a switch as the experiment fixes them. */
const sleepMsFixed = 100;
const wakeMsFixed = 300;
const hostBytesPerMs = 20 * GB * 1e-3;

/** What a sleeper keeps on the GPU: a CUDA context and what vLLM does not give back. */
export const residueBytes = 0.5 * GB;

export interface BenchModel {
  name: string;
  /** On the GPU while awake. */
  bytes: number;
  /** 0.3 s and its bytes at 20 GB/s. */
  wakeMs: number;
}

/** One request: its engine works `workMs` on it, beside others, however many there are. */
export interface Arrival {
  atMs: number;
  /** Index into the scenario's models. */
  model: number;
  workMs: number;
}

export interface Scenario {
  name: string;
  gpuBytes: number;
  models: BenchModel[];
  sleepMs: number;
  /** In order of time. */
  arrivals: Arrival[];
  /** Its times are what it is about: its load is not fixed by stretching them. */
  keepsTimes?: boolean;
}

/** What one policy made of one scenario. */
export interface Outcome {
  /** For each arrival: all the time from its arrival to its end in which no engine worked on it. */
  waitsMs: Float64Array;
  /** The longest single wait: from arrival or freeze until the model served. */
  longestWaitMs: number;
  wakes: number;
  sleeps: number;
  /** What the sleeps and wakes took together. */
  switchMs: number;
  /** Time in which at least one sleep or wake was under way on the GPU. */
  lostMs: number;
  /** The end of the last request. */
  endMs: number;
}

export const modelOf = (name: string, bytes: number): BenchModel => ({
  name,
  bytes,
  wakeMs: wakeMsFixed + bytes / hostBytesPerMs,
});

/** A scenario on the experiment's GPU and at its costs; requests in any order. */
export const scenarioOf = (name: string, models: BenchModel[], arrivals: Arrival[]): Scenario => ({
  name,
  gpuBytes: 80 * GB,
  models,
  sleepMs: sleepMsFixed,
  arrivals: arrivals.sort((a, b) => a.atMs - b.atMs),
});

/** The same with sleeps and wakes that take no time: what all switching together costs. */
export const withFreeSwitches = (scenario: Scenario): Scenario => ({
  ...scenario,
  sleepMs: 0,
  models: scenario.models.map((model) => ({ ...model, wakeMs: 0 })),
});

/** The same with shorter or longer requests. */
export const withWork = (scenario: Scenario, factor: number): Scenario => ({
  ...scenario,
  arrivals: scenario.arrivals.map((arrival) => ({ ...arrival, workMs: arrival.workMs * factor })),
});

/** The same requests with all times between them multiplied. */
export function stretched(scenario: Scenario, factor: number): Scenario {
  return {
    ...scenario,
    arrivals: scenario.arrivals.map((arrival) => ({ ...arrival, atMs: arrival.atMs * factor })),
  };
}

/** Time that at least one of several overlapping things takes. */
export class UnionTime {
  #open = 0;
  #sinceMs = 0;
  totalMs = 0;

  begin(nowMs: number): void {
    if (this.#open++ === 0) this.#sinceMs = nowMs;
  }

  end(nowMs: number): void {
    if (--this.#open === 0) this.totalMs += nowMs - this.#sinceMs;
  }
}
