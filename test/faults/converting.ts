/** The Job of one Model's files, as Kubernetes would run it: the real converter, again after each end that was not its success. */
import { utimesSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { end, type Program, start } from '../../hack/one-node/programs.ts';
import type { ModelName } from './plan.ts';
import type { Timeline } from './timeline.ts';
import { listenToConverter } from './words.ts';

/** As converter/act/lock.ts has it: a lock that was not touched for so long is a dead one's, ms. */
const lockStaleMs = 30_000;
/** A Job beyond this is stuck, ms: three kills, each with its lock's 30 s, and 1.2 GB fetched and converted each time, on busy cores. */
const jobMsMax = 300_000;
/** Kills that one Job may meet, and one more start. */
const startsMax = 6;

export interface JobOptions {
  model: ModelName;
  modelsDir: string;
  endpoint: string;
  timeline: Timeline;
  /** From a kill to the next start, ms. */
  restartMs: number;
  /** Else a killed one's lock is made as old as if it had been waited for. */
  isLockWaitedFor: boolean;
  /** After each kill, before the next start. */
  afterKill(): Promise<void>;
}

export interface Job {
  /** kill -9. @returns false when it does not run */
  kill(): boolean;
  /** Resolves with what it said when it has succeeded. @throws Error with its last words when it failed by itself */
  done: Promise<string>;
  /** Starts no more, and ends what runs. */
  close(): Promise<void>;
}

const startConverter = ({ model, modelsDir, endpoint }: JobOptions): Program =>
  start('node', ['converter/main.ts', 'convert'], {
    MODEL_NAME: `org/${model}`,
    MODELS_DIR: modelsDir,
    HF_ENDPOINT: endpoint,
    TERMINATION_LOG: '/dev/null',
  });

function ageLock({ modelsDir, model }: JobOptions): void {
  const old = new Date(Date.now() - lockStaleMs - 1_000);
  try {
    utimesSync(join(modelsDir, '.incoming', `org--${model}.lock`), old, old);
  } catch {
    // it held none
  }
}

export function runJob(options: JobOptions): Job {
  const { model, timeline } = options;
  let running: Program | null = null;
  let isClosed = false;

  const run = async (): Promise<string> => {
    for (let starts = 1; starts <= startsMax && !isClosed; starts++) {
      const converter = startConverter(options);
      running = converter;
      timeline.see(`job ${model}`, `start ${starts}, pid ${converter.child.pid}`);
      listenToConverter(converter, timeline, model);
      const code = await converter.ended;
      running = null;
      if (code === 0) return converter.output();
      if (converter.child.signalCode !== 'SIGKILL')
        throw new Error(`${model}'s converter ended with ${code}: ${converter.output().slice(-1_000)}`);
      await options.afterKill();
      await delay(options.restartMs);
      if (!options.isLockWaitedFor) ageLock(options);
    }
    throw new Error(`${model}'s Job has not succeeded after ${startsMax} starts`);
  };

  const late = async (): Promise<never> => {
    await delay(jobMsMax, undefined, { ref: false });
    throw new Error(`${model}'s Job had no end in ${jobMsMax} ms`);
  };

  return {
    kill: () => running?.child.kill('SIGKILL') ?? false,
    done: Promise.race([run(), late()]),
    async close() {
      isClosed = true;
      if (running) await end(running, 'SIGKILL');
    },
  };
}
