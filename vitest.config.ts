import { configDefaults, defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/unit/**/*.test.ts', 'test/tidy/**/*.test.ts'],
    exclude: [...configDefaults.exclude, '**/*-{process,disk}.test.ts'],
    pool: 'threads',
    // One set of modules for all files of a worker: loading them anew for each takes more time than the tests.
    isolate: false,
    // Some tests wait: one more than two cores keep busy.
    maxWorkers: 3,
    testTimeout: 10_000,
  },
});
