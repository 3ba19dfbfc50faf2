import { defineConfig } from 'vitest/config';

/** The suites on the real cluster: one after the other, because they share its GPUs. */
export default defineConfig({
  test: {
    include: ['test/cluster/**/*.test.ts'],
    globalSetup: ['test/cluster/harness/setup.ts'],
    fileParallelism: false,
    testTimeout: 240_000,
    hookTimeout: 300_000,
    // One more try, shown as such: a machine that stood still for a minute is no fault of the code.
    retry: 1,
  },
});
