/** The suites of ./hack/test by name: what each shows, whether the gate runs it, and how. */
import { counted, type Result, step, sum, vitest } from './run.ts';

export interface Sizes {
  /** Seeds of simulated schedules and of kills at random moments. */
  seeds: number | undefined;
  /** Requests of the tests that send many. */
  requests: number | undefined;
  /** How long the mixed load lasts. */
  minutes: number | undefined;
  /** Of the canary. */
  wakes: number | undefined;
  /** Lives under kills, and how many of them on the real vLLM. */
  runs: number | undefined;
  real: number | undefined;
  /** The first of those lives; alone when there is no number of them. */
  seed: number | undefined;
}

export interface Suite {
  what: string;
  gate: boolean;
  /** @param inGate not asked for by name: at a size that leaves time for the others */
  run: (sizes: Sizes, inGate: boolean) => Promise<Result>;
}

/** Simulated schedules where no size is given: about a minute on two cores. */
const seedsDefault = 5_000;
const seedsQuick = 500;
/** Wakes by which a canary's false alarms are judged. */
const wakesDefault = 1_000;
/** At a second and a half for each wake of the default, ms. */
const canaryMsMax = 30 * 60_000;
/** At half a minute for each life of 200 and five minutes for each of 10 on the real vLLM, ms. */
const faultsMsMax = 150 * 60_000;
/** A size can make any of these long; without one none takes more than this, ms. */
const simMsMax = 60 * 60_000;
/** A first installation and some boots of the real vLLM on two busy cores, ms. */
const vllmMsMax = 60 * 60_000;

/** What of the cluster suite the gate has time for: a whole life, what a client meets, and each kind of fault on a node. */
const gateFiles = [
  'test/cluster/api',
  'test/cluster/lives/whole-life',
  'test/cluster/lives/front-door',
  'test/cluster/faults/agent-killed',
  'test/cluster/faults/hardware',
];
/** What of the cluster suite one node and a few minutes will do for. */
const oneNode = ['test/cluster/api', 'test/cluster/lives/whole-life', 'test/cluster/lives/front-door'];

const sizeVariables = ({ seeds, requests, minutes }: Sizes): Record<string, string> => ({
  ...(seeds !== undefined && { GREENTHREAD_TEST_SEEDS: String(seeds) }),
  ...(requests !== undefined && { GREENTHREAD_TEST_REQUESTS: String(requests) }),
  ...(minutes !== undefined && { GREENTHREAD_TEST_MINUTES: String(minutes) }),
});

/** Side by side: none of them alone keeps two cores busy. */
const unit = async (): Promise<Result> =>
  sum(
    ...(await Promise.all([
      step('types', 'tsc', []),
      step('lint and format', 'biome', ['check', '--error-on-warnings']),
      step('generated files', 'node', ['hack/generate/main.ts', '--check']),
      step('the plug-in: ruff, mypy, pytest', 'hack/vllm/check.sh', []),
      vitest('unit', ['--config', 'vitest.config.ts']),
    ])),
  );

const sim = (seeds: number): Promise<Result> =>
  step('sim', 'node', ['test/sim/main.ts', '--seeds', String(seeds)], simMsMax);

const cluster = (sizes: Sizes, gpus: string, folders: string[]): Promise<Result> =>
  vitest('cluster', ['--config', 'test/cluster/vitest.config.ts', ...folders], {
    ...sizeVariables(sizes),
    GREENTHREAD_TEST_GPUS: gpus,
  });

export const suites: Record<string, Suite> = {
  unit: {
    what: 'types, lint and format, generated files, the rules as tests, unit tests, the plug-in (20 s)',
    gate: true,
    run: unit,
  },
  sim: {
    what: `the arbiter through simulated schedules with faults; --seeds N, ${seedsDefault} by default (about a minute)`,
    gate: true,
    run: ({ seeds = seedsDefault }) => sim(seeds),
  },
  contract: {
    what: 'the simulated hardware and engine as processes, held to the real ones’ recorded behaviour',
    gate: true,
    run: () => vitest('contract', ['--config', 'test/contract/vitest.config.ts']),
  },
  node: {
    what: 'each program as a process, work on a disk, then agent, launchers, sidecars and engines as one node without Kubernetes',
    gate: true,
    run: async () =>
      sum(
        await vitest('processes', ['--config', 'test/unit/processes.config.ts']),
        await vitest('node', ['--config', 'test/node/vitest.config.ts']),
      ),
  },
  cluster: {
    what: 'everything on a real cluster with simulated GPUs, by name all of it (45 minutes); --seeds N, --requests N, --minutes N',
    gate: true,
    run: (sizes, inGate) => cluster(sizes, 'a40:2,t4:1', inGate ? gateFiles : []),
  },
  load: {
    what: 'six Models on two GPUs of a real cluster under mixed streams; --minutes N, 2 by default; 10 for figures',
    gate: false,
    run: (sizes) => cluster(sizes, 'a40:2,t4:1', ['test/cluster/load']),
  },
  vllm: {
    what: 'the real vLLM on CPU: the plug-in’s own tests, as a process beside the simulated one’s contract, and two Models of 1.2 GB on a real cluster (installs 2.7 GB once)',
    gate: false,
    run: async () =>
      sum(
        await step('the plug-in on the real vLLM', 'hack/vllm/check.sh', ['vllm'], vllmMsMax),
        await vitest('vllm', ['--config', 'test/vllm/vitest.config.ts']),
      ),
  },
  canary: {
    what: 'false alarms of a canary on the real vLLM, 1000 wakes; --wakes N',
    gate: false,
    run: ({ wakes = wakesDefault }) =>
      step('canary', 'node', ['test/vllm/canary.ts', '--wakes', String(wakes)], canaryMsMax),
  },
  faults: {
    what: 'kill -9 of agent, converter and engine at random points of two Models’ lives on one node; --runs N (20, 3 minutes), of which --real N (0) on the real vLLM, --seed S',
    gate: false,
    run: ({ runs, real, seed }) => {
      const words = Object.entries({ runs, real, seed }).flatMap(([name, value]) =>
        value === undefined ? [] : [`--${name}`, String(value)],
      );
      return counted('faults', 'node', ['test/faults/main.ts', ...words], faultsMsMax);
    },
  },
  quick: {
    what: `unit, ${seedsQuick} seeds, and one node of the cluster`,
    gate: false,
    run: async (sizes) => sum(await unit(), await sim(seedsQuick), await cluster(sizes, 't4:1', oneNode)),
  },
};
