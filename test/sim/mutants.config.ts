import { defineConfig } from 'vitest/config';

/** Beside each part of agent/decide, what sees its mutants: those of constants are judged by all tests that are chosen. */
const judges = {
  arbiter: ['test/unit/agent/arbiter/**/*.test.ts', 'test/sim/seeds.test.ts'],
  node: [
    'test/unit/agent/discovery/{gpu-metrics,gpu-resources,health,node-gpus,publish-gpus,xid}.test.ts',
    'test/unit/agent/staging/{boots,images,plan,room,texts}.test.ts',
    'test/unit/agent/{canary,runtime/decide}.test.ts',
  ],
};

const { MUTANTS_OF: part } = process.env;

/**
 * What judges mutants of agent/decide (`npx stryker run`): its unit tests, and a few seeds of the simulator.
 * MUTANTS_OF=arbiter: what reaches agent/decide/arbiter alone; MUTANTS_OF=node: the rest, in a fifth of the time.
 */
export default defineConfig({
  test: {
    include: part === 'arbiter' || part === 'node' ? judges[part] : Object.values(judges).flat(),
    pool: 'threads',
    isolate: false,
    testTimeout: 10_000,
  },
});
