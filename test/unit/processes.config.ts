import { defineConfig } from 'vitest/config';

/** Programs started as processes, one at a time: slower than a unit test, and no cluster or node needed. */
export default defineConfig({
  test: {
    include: ['test/unit/**/*-process.test.ts'],
    testTimeout: 60_000,
  },
});
