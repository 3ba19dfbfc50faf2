import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/unit/**/*.test.ts', 'test/tidy/**/*.test.ts'],
    pool: 'threads',
    testTimeout: 10_000,
  },
});
