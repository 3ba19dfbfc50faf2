/** The suites of ./hack/test by name: what each shows, whether the gate runs it, and how. */
import { type Result, step, sum, vitest } from './run.ts';

export interface Suite {
  what: string;
  gate: boolean;
  run: (flags: string[]) => Promise<Result>;
}

export const suites: Record<string, Suite> = {
  unit: {
    what: 'types, lint and format, the rules as tests, unit tests',
    gate: true,
    run: async () =>
      sum(
        await step('types', 'tsc', []),
        await step('lint and format', 'biome', ['check', '--error-on-warnings']),
        await step('generated files', 'node', ['hack/generate/main.ts', '--check']),
        await vitest('unit', ['--config', 'vitest.config.ts']),
      ),
  },
};
