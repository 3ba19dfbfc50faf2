import { defineConfig } from 'vitest/config';

/** Programs started as processes, and work that waits for a disk: slower than a unit test, and no cluster or node needed. */
export default defineConfig({
  test: {
    include: ['test/unit/**/*-{process,disk}.test.ts'],
    testTimeout: 60_000,
  },
});
