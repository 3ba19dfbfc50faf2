/** The one staging under way. */

import { join } from 'node:path';
import { errorText, type Log } from '#platform/log.ts';
import { makeStaged, stagedFolder } from './act/staging/pool-folder.ts';
import { abandonStaged, type StagingOutcome, type StagingRun, startStaging } from './act/staging/stage.ts';
import { createReader } from './act/staging/start-reader.ts';
import { parseWeights } from './decide/staging/weights-name.ts';
import type { ToStage } from './decide/staging/words.ts';
import { DamagedForm, readHead } from './observe/pool/weights-form.ts';

export interface Stager {
  /** The key that is being staged. */
  running(): string | null;
  /** Its place in the pool is there when this returns. @throws Error when none can be made */
  begin(what: ToStage): void;
  /** Where it is; what was read stays. */
  stop(): void;
  /** Stops, and resolves when nothing is written any more. */
  close(): Promise<void>;
}

export interface Ended {
  what: ToStage;
  outcome: StagingOutcome;
  tookMs: number;
}

interface Running {
  what: ToStage;
  run: StagingRun | null;
  stopped: boolean;
  ended: Promise<void>;
}

export function createStager(parts: {
  poolDir: string;
  modelsDir: string;
  onEnded(ended: Ended): void;
  nowMs(): number;
  log: Log;
}): Stager {
  const { poolDir, modelsDir, nowMs, log } = parts;
  const reader = createReader();
  let running: Running | null = null;

  async function stage(mine: Running): Promise<StagingOutcome> {
    const { weights, key } = mine.what;
    const folder = stagedFolder(poolDir, key);
    try {
      const manifest = await readHead(modelsDir, parseWeights(weights)!);
      if (mine.stopped) return { type: 'stopped', filledBytes: 0, readBytes: 0 };
      mine.run = startStaging({
        formFolder: join(modelsDir, weights),
        stagedFolder: folder,
        manifest,
        reader,
      });
      return await mine.run.ended;
    } catch (error) {
      await abandonStaged(folder);
      const kind = error instanceof DamagedForm ? 'hash' : 'read';
      return { type: 'failed', kind, message: errorText(error) };
    }
  }

  async function follow(mine: Running): Promise<void> {
    const startedAtMs = nowMs();
    const outcome = await stage(mine);
    running = null;
    parts.onEnded({ what: mine.what, outcome, tookMs: nowMs() - startedAtMs });
  }

  const stop = (): void => {
    if (!running) return;
    running.stopped = true;
    running.run?.stop();
  };

  return {
    running: () => running?.what.key ?? null,
    begin(what) {
      makeStaged(poolDir, what.key, what.bytes);
      const mine: Running = { what, run: null, stopped: false, ended: Promise.resolve() };
      running = mine;
      log.info('staging begins', { weights: what.weights, bytes: what.bytes });
      mine.ended = follow(mine);
    },
    stop,
    async close() {
      stop();
      await running?.ended;
      reader.close();
    },
  };
}
