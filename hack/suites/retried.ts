/** A vitest reporter: why a test that passed when tried again had failed before, so that no retry hides a fault. */
import type { TestCase } from 'vitest/node';

/** Longest part of an error that is shown, characters. */
const errorCharactersMax = 2_000;

export default class Retried {
  onTestCaseResult(test: TestCase): void {
    const { state, errors } = test.result();
    if (state !== 'passed' || !errors?.length) return;
    console.error(`\nRETRIED: ${test.fullName}`);
    for (const { message, stack, diff } of errors)
      console.error(`${message}\n${diff ?? ''}\n${stack ?? ''}`.slice(0, errorCharactersMax));
  }
}
