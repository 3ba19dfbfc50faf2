import { defineConfig } from 'vitest/config';

/** The simulated hardware and engine as processes, held to what the real ones were seen to do. */
export default defineConfig({
  test: {
    include: ['test/contract/**/*.test.ts'],
    pool: 'threads',
    testTimeout: 20_000,
  },
});
