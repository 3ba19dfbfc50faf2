import { defineConfig } from 'vitest/config';

/** One node without Kubernetes: the real programs around simulated GPUs and engines, one test file after the other. */
export default defineConfig({
  test: {
    include: ['test/node/**/*.test.ts'],
    fileParallelism: false,
    testTimeout: 600_000,
    hookTimeout: 120_000,
  },
});
