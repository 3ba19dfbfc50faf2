/** The benchmarks of ./hack/bench by name: what each shows and how it is run. */
import { convertBench, convertOptions } from './convert/convert.ts';
import { policy, policyOptions } from './policy/policy.ts';
import { staging, stagingOptions } from './staging/staging.ts';
import { switching, switchOptions } from './switch/switch.ts';
import { wake, wakeOptions } from './wake/wake.ts';

export interface Benchmark {
  what: string;
  /** One line for each flag it takes, as `--help` shows them. */
  options: string[];
  /**
   * Prints its tables and, as the last line, `result: key=value key=value …`.
   * @param flags what stands behind the name on the command line
   * @returns the exit status: 0, or 1 when something that must always hold did not
   */
  run: (flags: string[]) => Promise<number>;
}

export const benchmarks: Record<string, Benchmark> = {
  convert: {
    what: 'the gthread form written from fetched files, beside cp and sha256sum of the same',
    options: convertOptions,
    run: convertBench,
  },
  policy: {
    what: 'who sleeps, who wakes: our arbiter against LRU, first come first served, fixed timers and the optimum',
    options: policyOptions,
    run: policy,
  },
  switch: {
    what: 'two models on one slot as real processes beside llmux: switches, waits, streams that give way (root, cargo)',
    options: switchOptions,
    run: switching,
  },
  wake: {
    what: "a real vLLM's sleep and wake with gthread, beside a memcpy of the same bytes (installs vLLM for CPU, 2.7 GB, once)",
    options: wakeOptions,
    run: wake,
  },
  staging: {
    what: 'weights from disk into host memory: the agent beside fio, two streamers and the default loader (root)',
    options: stagingOptions,
    run: staging,
  },
};
