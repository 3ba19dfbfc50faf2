/**
 * What an engine must do, whoever it is: one list for the simulated vLLM and for the real one. Each line was seen on vLLM 0.32.0;
 * where the two differ the simulator is changed.
 */
import { beforeAll, describe } from 'vitest';
import { admin } from './conformance-admin.ts';
import { refusals } from './conformance-refusals.ts';
import { refusingSleep } from './conformance-refused-sleep.ts';
import { serving } from './conformance-serving.ts';
import { sleeping } from './conformance-sleep.ts';
import type { Subject } from './conformance-subject.ts';

/** @param start is called once, before the first test */
export function conformance(what: string, start: () => Promise<Subject>): void {
  describe(what, () => {
    let subject: Subject;
    beforeAll(async () => {
      subject = await start();
    });
    const given = (): Subject => subject;
    refusingSleep(given);
    admin(given);
    refusals(given);
    serving(given);
    sleeping(given);
  });
}
