import { defineConfig } from 'vitest/config';

/** The real vLLM on CPU: one file after the other, each with few boots, because a boot takes minutes of CPU time. */
export default defineConfig({
  test: {
    include: ['test/vllm/**/*.test.ts'],
    pool: 'threads',
    fileParallelism: false,
    testTimeout: 120_000,
    hookTimeout: 600_000,
  },
});
