/** A process of its own that lives one life after the other, as its parent asks: what one life computes delays no other's kills. */
import { unlinkSync } from 'node:fs';
import type { Usual } from './killing.ts';
import { abandon, type LifeResult, live } from './life.ts';
import { calmPlan, type Kind, planFor } from './plan.ts';
import { settingFor } from './setting.ts';
import type { Setting } from './world.ts';

export interface LaneJob {
  kind: Kind;
  /** null: the life without kills. */
  seed: number | null;
  folder: string;
  usual: Usual | null;
  reference: Record<string, number[]>;
  logFile: string;
}
export type LaneAnswer = { result: LifeResult; reference: Record<string, number[]> };

const settings = new Map<Kind, Promise<Setting>>();

async function work({ kind, seed, folder, usual, reference, logFile }: LaneJob): Promise<LaneAnswer> {
  const setting = settings.get(kind) ?? settingFor(kind, folder);
  settings.set(kind, setting);
  const plan = seed === null ? calmPlan(kind) : planFor(seed, kind);
  const result = await live({ plan, setting: await setting, usual, reference, logFile });
  if (result.problems.length === 0)
    try {
      unlinkSync(logFile);
    } catch {
      // nothing was written
    }
  return { result, reference };
}

process.on('message', (job: LaneJob) => {
  work(job).then(
    (answer) => process.send!(answer),
    (error: unknown) => {
      console.error(error);
      process.exit(1);
    },
  );
});
/** Whoever started this has ended or was interrupted: no program of the life may outlive it. */
const leave = (): void => void abandon().finally(() => process.exit(1));
process.once('disconnect', leave);
process.once('SIGTERM', leave);
process.on('SIGINT', () => {}); // a terminal sends it to all: the parent's end is heard above
