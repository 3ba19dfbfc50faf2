/**
 * An engine that can sleep with nothing left on its GPU: first vLLM's own sleep at level 1, which frees weights and KV cache without
 * a copy of the latter, then a CUDA checkpoint of the rest (context, graphs, workspaces) by its launcher; a wake goes the other way.
 * Where there is no checkpoint it sleeps at level 1 all the same, and that is said.
 */
import type { Checkpoints } from './checkpoints.ts';
import type { Engine, Outcome } from './engine.ts';

export interface SuspendOutcome extends Outcome {
  /** Nothing is left on its GPU, as its launcher says. */
  suspended: boolean;
  /** It sleeps as with offload; why, for people. */
  instead?: { reason: 'SuspendNotOffered' | 'SuspendFailed'; message: string };
}

export interface SuspendableEngine extends Engine {
  /** @param bytes as for a sleep */
  suspend(bytes: number): Promise<SuspendOutcome>;
}

const offload = 'it sleeps as with sleep.level offload';

/** @param checkpoints of the same pod */
export function suspendable(engine: Engine, checkpoints: Checkpoints): SuspendableEngine {
  return {
    ...engine,
    async suspend(bytes) {
      const slept = await engine.sleep(1, bytes);
      if (!slept.ok) return { ...slept, suspended: false };
      const { outcome, reason, message } = await checkpoints.suspend();
      switch (outcome) {
        case 'done':
          return { ...slept, suspended: true };
        case 'broken':
          return { ok: false, suspended: false, message };
        case 'not-offered': {
          const text = `sleep.level suspend is not offered here, ${offload}: ${message} (${reason})`;
          return { ...slept, suspended: false, instead: { reason: 'SuspendNotOffered', message: text } };
        }
        case 'failed': {
          const text = `sleep.level suspend failed, ${offload}: ${message} (${reason})`;
          return { ...slept, suspended: false, instead: { reason: 'SuspendFailed', message: text } };
        }
        default: {
          const never: never = outcome;
          throw new Error(`no such outcome: ${never}`);
        }
      }
    },
    async wake(bytes, onSent) {
      if (!checkpoints.mayBeSuspended()) return engine.wake(bytes, onSent);
      onSent();
      const { outcome, message } = await checkpoints.resume();
      if (outcome !== 'done') return { ok: false, message: `its CUDA state did not come back: ${message}` };
      return engine.wake(bytes, () => {});
    },
    close() {
      checkpoints.close();
      engine.close();
    },
  };
}
