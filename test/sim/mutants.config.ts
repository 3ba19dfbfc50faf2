import { defineConfig } from 'vitest/config';

/** What judges mutants of agent/decide (`npx stryker run`): its unit tests, and a few seeds of the simulator. */
export default defineConfig({
  test: {
    include: [
      'test/unit/agent/arbiter/**/*.test.ts',
      'test/unit/agent/discovery/{gpu-metrics,gpu-resources,health,node-gpus,publish-gpus,xid}.test.ts',
      'test/unit/agent/staging/{plan,texts}.test.ts',
      'test/unit/agent/runtime/decide.test.ts',
      'test/sim/seeds.test.ts',
    ],
    pool: 'threads',
    isolate: false,
    testTimeout: 10_000,
  },
});
