/**
 * One pod's vLLM through its dev routes: asked, put to sleep, woken. An answer is never the proof: memory is free when the
 * GPU says so, awake is what /is_sleeping says after the wake.
 */
import type { EngineState, ProbeOutcome } from '../decide/arbiter/words.ts';
import type { CanaryAnswer } from '../decide/canary.ts';
import { askCanary } from './canary.ts';
import { type EngineAnswer, EngineError, type EngineSocket } from './engine-socket.ts';

/** Small questions, ms: a busy engine's event loop may take a second. */
const askTimeoutMs = 3_000;
/** vLLM's level 1 copies all weights to host memory: 10.6 s were measured for 8B, ms. */
const sleepTimeoutMs = 120_000;
/** A wake's least time, and the slowest copy that is still believed to go on, ms and bytes a second. */
const wakeTimeoutMsMin = 60_000;
const wakeBytesPerSecondMin = 256 * 1024 * 1024;
/** /reset_prefix_cache took 5 ms, ms. */
const resetTimeoutMs = 10_000;
/** Longest piece of an engine's own words in a message, characters. */
const excerptCharactersMax = 300;

export interface Outcome {
  ok: boolean;
  /** A sentence: what went wrong, or what to know. */
  message: string;
}

export interface Engine {
  ask(): Promise<EngineState>;
  /** Level 1 keeps the weights in host memory, 2 drops them. What runs is frozen, not cut. */
  sleep(level: 1 | 2): Promise<Outcome>;
  /** @param bytes to bring back, for the time it may take @param onSent when the wake call is on its way */
  wake(bytes: number | null, onSent: () => void): Promise<Outcome>;
  /** The canary's question. @param kind which it took before; null: each is tried */
  probe(kind: CanaryAnswer['kind'] | null): Promise<ProbeOutcome>;
  close(): void;
}

const excerpt = ({ status, text }: EngineAnswer): string =>
  `${status} ${text.slice(0, excerptCharactersMax).replaceAll(/\s+/g, ' ')}`.trim();

const wakeTimeoutMs = (bytes: number | null): number =>
  Math.max(wakeTimeoutMsMin, Math.ceil(((bytes ?? 0) / wakeBytesPerSecondMin) * 1_000));

/**
 * Whether vLLM's own gauge proves that every engine sleeps at level 1, its weights in host memory. After each wake, one of
 * the weights alone included, the gauge says awake: then nothing is proven.
 */
export function weightsKept(metrics: string): boolean {
  const values = (state: string): number[] =>
    [...metrics.matchAll(/^vllm:engine_sleep_state\{([^}]*)\} (\S+)$/gm)]
      .filter(([, labels]) => labels!.includes(`sleep_state="${state}"`))
      .map(([, , value]) => Number(value));
  const kept = values('weights_offloaded');
  return (
    kept.length > 0 &&
    kept.every((value) => value === 1) &&
    values('discard_all').every((value) => value === 0)
  );
}

/** A step of an operation failed: the text is the outcome's message. */
class StepFailed extends Error {}

/** @param socket of the engine */
export function createEngine(socket: EngineSocket): Engine {
  /** The level of the last sleep that this agent asked for and that was answered; null: the engine's gauge is asked. */
  let sleptAt: 1 | 2 | null = null;

  /** Idempotent calls only: a connection that ended is tried once more, on a fresh one. */
  async function call(
    method: 'GET' | 'POST',
    path: string,
    options: Parameters<EngineSocket['request']>[2],
  ): Promise<EngineAnswer> {
    try {
      return await socket.request(method, path, options);
    } catch (error) {
      if (!(error instanceof EngineError && error.kind === 'closed')) throw error;
      return socket.request(method, path, options);
    }
  }

  async function isSleeping(): Promise<boolean> {
    const answer = await call('GET', '/is_sleeping', { timeoutMs: askTimeoutMs });
    const asleep =
      answer.status === 200 ? (JSON.parse(answer.text) as { is_sleeping?: unknown }).is_sleeping : undefined;
    if (typeof asleep !== 'boolean') throw new StepFailed(`/is_sleeping answered ${excerpt(answer)}`);
    return asleep;
  }

  const ask = (): Promise<EngineState> =>
    isSleeping().then(
      (asleep) => (asleep ? 'asleep' : 'awake'),
      () => 'unreachable',
    );

  /** One POST that must answer 200. */
  async function step(path: string, options: Parameters<EngineSocket['request']>[2]): Promise<void> {
    const answer = await call('POST', path, options);
    if (answer.status !== 200) throw new StepFailed(`POST ${path} answered ${excerpt(answer)}`);
  }

  /** What a step threw; after a timeout the engine is asked, since it may have done it all the same. */
  async function failure(error: unknown, wanted: EngineState): Promise<Outcome> {
    const message = error instanceof Error ? error.message : String(error);
    if (!(error instanceof EngineError && error.kind === 'timeout')) return { ok: false, message };
    const state = await ask();
    return { ok: state === wanted, message: `${message}; asked then, it was ${state}` };
  }

  /**
   * Without the level in memory the engine's own gauge is read. What it cannot prove is taken as lost: reading weights that
   * are there costs time, serving without them is nonsense.
   */
  async function mustReload(): Promise<boolean> {
    if (sleptAt !== null) return sleptAt === 2;
    const { status, text } = await call('GET', '/metrics', { timeoutMs: askTimeoutMs });
    return status !== 200 || !weightsKept(text);
  }

  /** vLLM leaves dropped weights unread at a wake, and would then answer nonsense with 200: they are read in between. */
  async function wakeAndReload(timeoutMs: number, onSent: () => void): Promise<void> {
    await step('/wake_up?tags=weights', { timeoutMs, onSent });
    await step('/collective_rpc', { timeoutMs, body: { method: 'reload_weights' } });
    await step('/wake_up?tags=kv_cache', { timeoutMs });
  }

  return {
    ask,
    async sleep(level) {
      // A second sleep frees nothing, but makes the gauge say its own level: weights dropped before would pass for kept.
      if ((await ask()) === 'asleep') return { ok: true, message: 'it slept already' };
      // One that gets no answer may have happened all the same.
      sleptAt = level === 2 ? 2 : null;
      try {
        await step(`/sleep?level=${level}&mode=keep`, { timeoutMs: sleepTimeoutMs });
        sleptAt = level;
        return { ok: true, message: '' };
      } catch (error) {
        const outcome = await failure(error, 'asleep');
        if (outcome.ok) sleptAt = level;
        return outcome;
      }
    },
    async wake(bytes, onSent) {
      const timeoutMs = wakeTimeoutMs(bytes);
      let note = '';
      try {
        if (await mustReload()) await wakeAndReload(timeoutMs, onSent);
        else await step('/wake_up', { timeoutMs, onSent });
        // Blocks that a scheduler touched while the weights were gone would poison later answers.
        await step('/reset_prefix_cache', { timeoutMs: resetTimeoutMs }).catch((error: Error) => {
          note = `the prefix cache was not reset: ${error.message}`;
        });
        if (await isSleeping())
          return { ok: false, message: 'the engine still sleeps after its wake answered 200' };
        sleptAt = null;
        return { ok: true, message: note };
      } catch (error) {
        return failure(error, 'awake');
      }
    },
    probe: (kind) => askCanary(socket, kind),
    close: () => socket.close(),
  };
}
