/** A few seeds as tests, for mutants alone: many more run with `./hack/test sim`. */
import { describe, expect, it } from 'vitest';
import { runSeed } from './run.ts';

const seedsRun = 24;

describe('the simulated node', () => {
  it.each(Array.from({ length: seedsRun }, (_, at) => at + 1))('breaks no rule in seed %i', (seed) => {
    expect(runSeed(seed).violation).toBeNull();
  });
});
