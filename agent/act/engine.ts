/**
 * One pod's vLLM through its dev routes: asked, put to sleep, woken. An answer is never the proof: memory is free when the
 * GPU says so, awake is what /is_sleeping says after the wake.
 */
import type { EngineState, ProbeOutcome } from '../decide/arbiter/words.ts';
import type { CanaryAnswer } from '../decide/canary.ts';
import { askMsMax, resetMsMax, sleepCallMsMax, wakeCallMsMax } from '../decide/engine-times.ts';
import { askCanary } from './canary.ts';
import { type EngineAnswer, EngineError, type EngineSocket } from './engine-socket.ts';

/** Longest piece of an engine's own words in a message, characters. */
const excerptCharactersMax = 300;

export interface Outcome {
  ok: boolean;
  /** A sentence: what went wrong, or what to know. */
  message: string;
}

export interface Engine {
  ask(): Promise<EngineState>;
  /**
   * Level 1 keeps the weights in host memory, 2 drops them. What runs is frozen, not cut; where the engine refuses it goes on.
   * @param bytes of it awake on a GPU, for the time it may take
   */
  sleep(level: 1 | 2, bytes: number): Promise<Outcome>;
  /** @param bytes to bring back on a GPU, for the time it may take @param onSent when the wake call is on its way */
  wake(bytes: number, onSent: () => void): Promise<Outcome>;
  /** The canary's question. @param kind which it took before; null: each is tried */
  probe(kind: CanaryAnswer['kind'] | null): Promise<ProbeOutcome>;
  close(): void;
}

const excerpt = ({ status, text }: EngineAnswer): string =>
  `${status} ${text.slice(0, excerptCharactersMax).replaceAll(/\s+/g, ' ')}`.trim();

/** What the gauge proves of where the weights are; `unproven`: there is none, or its engines are not of one mind. */
export type GaugeWord = 'in-place' | 'kept' | 'dropped' | 'unproven';

/**
 * What vLLM's own gauge says of the last sleep that came to its end and was not woken from. `in-place`: none; a scheduler that
 * is paused all the same has given nothing back. After a wake of the weights alone it still says what it said before.
 */
export function gaugeWord(metrics: string): GaugeWord {
  const values = (state: string): number[] =>
    [...metrics.matchAll(/^vllm:engine_sleep_state\{([^}]*)\} (\S+)$/gm)]
      .filter(([, labels]) => labels!.includes(`sleep_state="${state}"`))
      .map(([, , value]) => Number(value));
  const kept = values('weights_offloaded');
  const dropped = values('discard_all');
  if (kept.length === 0 || dropped.length === 0) return 'unproven';
  const all = (list: number[], value: number): boolean => list.every((one) => one === value);
  if (all(kept, 0) && all(dropped, 0)) return 'in-place';
  if (all(kept, 1) && all(dropped, 0)) return 'kept';
  return all(kept, 0) && all(dropped, 1) ? 'dropped' : 'unproven';
}

/** A step of an operation failed: the text is the outcome's message. */
class StepFailed extends Error {}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

const isTimeout = (error: unknown): boolean => error instanceof EngineError && error.kind === 'timeout';

/** @param socket of the engine */
export function createEngine(socket: EngineSocket): Engine {
  /** The level of the last sleep that this agent asked for and that was answered; null: the engine's gauge is asked. */
  let sleptAt: 1 | 2 | null = null;

  /** Idempotent calls only: a connection that ended is tried once more, on a fresh one, within the same time. */
  async function call(
    method: 'GET' | 'POST',
    path: string,
    options: Parameters<EngineSocket['request']>[2],
  ): Promise<EngineAnswer> {
    const untilMs = performance.now() + options.timeoutMs;
    try {
      return await socket.request(method, path, options);
    } catch (error) {
      const leftMs = Math.ceil(untilMs - performance.now());
      if (!(error instanceof EngineError && error.kind === 'closed' && leftMs > 0)) throw error;
      return socket.request(method, path, { ...options, timeoutMs: leftMs });
    }
  }

  async function isSleeping(): Promise<boolean> {
    const answer = await call('GET', '/is_sleeping', { timeoutMs: askMsMax });
    const asleep =
      answer.status === 200 ? (JSON.parse(answer.text) as { is_sleeping?: unknown }).is_sleeping : undefined;
    if (typeof asleep !== 'boolean') throw new StepFailed(`/is_sleeping answered ${excerpt(answer)}`);
    return asleep;
  }

  async function readGauge(): Promise<GaugeWord> {
    const { status, text } = await call('GET', '/metrics', { timeoutMs: askMsMax });
    return status === 200 ? gaugeWord(text) : 'unproven';
  }

  /** /is_sleeping says yes from the pause on, before anything is given back, and after a sleep that failed. */
  async function readState(): Promise<EngineState> {
    if (!(await isSleeping())) return 'awake';
    return (await readGauge()) === 'in-place' ? 'paused' : 'asleep';
  }

  const ask = (): Promise<EngineState> => readState().catch(() => 'unreachable');

  /** One POST that must answer 200. */
  async function step(path: string, options: Parameters<EngineSocket['request']>[2]): Promise<void> {
    const answer = await call('POST', path, options);
    if (answer.status !== 200) throw new StepFailed(`POST ${path} answered ${excerpt(answer)}`);
  }

  const readWeights = (timeoutMs: number): Promise<void> =>
    step('/collective_rpc', { timeoutMs, body: { method: 'reload_weights' } });

  /**
   * An engine that refused its sleep has given nothing back, but its scheduler stays paused and what ran stays frozen: a wake
   * makes it go on. What level 2 may have dropped all the same is read before anything runs.
   */
  async function goOn(level: 1 | 2, refusal: string, timeoutMs: number): Promise<Outcome> {
    try {
      if (level === 2) await readWeights(timeoutMs);
      await step('/wake_up', { timeoutMs });
      sleptAt = null;
      return { ok: false, message: refusal };
    } catch (error) {
      return { ok: false, message: `${refusal}; nor does it go on: ${messageOf(error)}` };
    }
  }

  /** After a timeout it may have slept all the same; /is_sleeping alone would not prove that. */
  async function sleptLate(level: 1 | 2): Promise<boolean> {
    const word = await readGauge().catch(() => 'unproven');
    return word === (level === 1 ? 'kept' : 'dropped');
  }

  /** What a wake's step threw; after a timeout the engine is asked, since it may have woken all the same. */
  async function wakeFailure(error: unknown): Promise<Outcome> {
    const message = messageOf(error);
    if (!isTimeout(error)) return { ok: false, message };
    const state = await ask();
    return { ok: state === 'awake', message: `${message}; asked then, it was ${state}` };
  }

  /**
   * How the weights come back. Without the level in memory the gauge is read; what it cannot prove is taken as lost: reading
   * weights that are there costs time, serving without them is nonsense.
   */
  async function wayBack(): Promise<GaugeWord> {
    if (sleptAt === 1) return 'kept';
    const word = await readGauge();
    return sleptAt === 2 && word !== 'in-place' ? 'dropped' : word;
  }

  /** vLLM leaves dropped weights unread at a wake, and would then answer nonsense with 200: they are read before it may run. */
  async function bringBack(timeoutMs: number, onSent: () => void): Promise<void> {
    const way = await wayBack();
    switch (way) {
      case 'kept':
        return step('/wake_up', { timeoutMs, onSent });
      case 'in-place':
        onSent();
        if (!(await isSleeping())) return;
        // Any partial wake of it would let it run at once.
        await readWeights(timeoutMs);
        return step('/wake_up', { timeoutMs });
      case 'dropped':
      case 'unproven':
        await step('/wake_up?tags=weights', { timeoutMs, onSent });
        await readWeights(timeoutMs);
        return step('/wake_up?tags=kv_cache', { timeoutMs });
      default: {
        const never: never = way;
        throw new Error(`no such way: ${never}`);
      }
    }
  }

  return {
    ask,
    async sleep(level, bytes) {
      // A second sleep frees nothing, but makes the gauge say its own level: weights dropped before would pass for kept.
      if ((await ask()) === 'asleep') return { ok: true, message: 'it slept already' };
      // One that gets no answer may have happened all the same.
      sleptAt = level === 2 ? 2 : null;
      try {
        await step(`/sleep?level=${level}&mode=keep`, { timeoutMs: sleepCallMsMax(bytes) });
        sleptAt = level;
        return { ok: true, message: '' };
      } catch (error) {
        const message = messageOf(error);
        if (error instanceof StepFailed) return goOn(level, message, wakeCallMsMax(bytes));
        if (!isTimeout(error) || !(await sleptLate(level))) return { ok: false, message };
        sleptAt = level;
        return { ok: true, message: `${message}; its gauge says that it sleeps` };
      }
    },
    async wake(bytes, onSent) {
      let note = '';
      try {
        await bringBack(wakeCallMsMax(bytes), onSent);
        // Blocks that a scheduler touched while the weights were gone would poison later answers.
        await step('/reset_prefix_cache', { timeoutMs: resetMsMax }).catch((error: Error) => {
          note = `the prefix cache was not reset: ${error.message}`;
        });
        if (await isSleeping())
          return { ok: false, message: 'the engine still sleeps after its wake answered 200' };
        sleptAt = null;
        return { ok: true, message: note };
      } catch (error) {
        return wakeFailure(error);
      }
    },
    probe: (kind) => askCanary(socket, kind),
    close: () => socket.close(),
  };
}
