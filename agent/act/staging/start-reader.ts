/** The reader thread: started when something is to be staged, ended when nothing was for a while. */
import { Worker } from 'node:worker_threads';
import { errorText } from '#platform/log.ts';
import { counter, countersOf, type ReaderFault, type ReaderJob, type ReaderWord } from './reader-words.ts';

/** It has a heap of its own, and needs next to none, MB. */
const heapMbMax = 32;
/** Ended when idle for this long, ms: it holds some 50 MB. */
const idleMs = 30_000;

export interface ReaderLimits {
  /** No chunk for this long means that the disk hangs, ms. */
  stallMs: number;
  /** A reader that is told to stop does so after the chunks that are on their way, ms. */
  stopMs: number;
  lookEveryMs: number;
}

const usualLimits: ReaderLimits = { stallMs: 60_000, stopMs: 15_000, lookEveryMs: 1_000 };

export interface Reader {
  /** Waits a while for what an earlier job has on its way. @returns the fault when that does not come: no job can begin */
  hangs(): Promise<ReaderFault | null>;
  /** One job at a time. @returns what went wrong; null when nothing did, a stop included */
  run(job: ReaderJob): Promise<ReaderFault | null>;
  /** Resolves when the last job's files are used no more: after STALLED once the disk has answered, else at once. */
  released(): Promise<void>;
  close(): void;
}

/** Run from its sources, or bundled into one folder (images/programs.ts). */
const threadUrl = (): URL =>
  new URL(import.meta.url.endsWith('.ts') ? './reader.ts' : './staging-reader.js', import.meta.url);

function startThread(url: URL): Worker {
  const thread = new Worker(url, {
    resourceLimits: { maxOldGenerationSizeMb: heapMbMax, maxYoungGenerationSizeMb: 2 },
  });
  thread.unref();
  return thread;
}

interface Course {
  /** What the thread says to the job; one that dies says so too. */
  answer: Promise<ReaderFault | null>;
  /** Nothing of the job is on its way any more; `lost`: the thread has died. */
  rest: Promise<'rest' | 'lost'>;
}

function begin(thread: Worker, job: ReaderJob): Course {
  const answer = Promise.withResolvers<ReaderFault | null>();
  const rest = Promise.withResolvers<'rest' | 'lost'>();
  const end = (how: 'rest' | 'lost'): void => {
    thread.off('message', onWord).off('error', onError).off('exit', onExit);
    rest.resolve(how);
  };
  const died = (what: string): void => {
    answer.resolve({
      kind: 'read',
      chunk: -1,
      code: 'READER',
      message: `the reader thread ended: ${what}`,
    });
    end('lost');
  };
  const onWord = (word: ReaderWord): void => (word === 'rest' ? end('rest') : answer.resolve(word.fault));
  const onError = (error: unknown): void => died(errorText(error));
  const onExit = (code: number): void => died(`exit code ${code}`);
  thread.on('message', onWord).on('error', onError).on('exit', onExit);
  thread.postMessage(job);
  return { answer: answer.promise, rest: rest.promise };
}

const stall = (chunk: number, message: string): ReaderFault => ({
  kind: 'read',
  chunk,
  code: 'STALLED',
  message,
});

/** Resolves when the job stands still for too long; it is then told to stop. */
function stalled(job: ReaderJob, ended: Promise<unknown>, limits: ReaderLimits): Promise<ReaderFault> {
  return new Promise((resolve) => {
    const counters = countersOf(job.shared);
    let mark = -1;
    let sinceMs = performance.now();
    const timer = setInterval(() => {
      const now = performance.now();
      const limit = Atomics.load(counters, counter.stop) === 0 ? limits.stallMs : limits.stopMs;
      if (Atomics.load(counters, counter.mark) !== mark) {
        mark = Atomics.load(counters, counter.mark);
        sinceMs = now;
      } else if (now - sinceMs > limit) {
        clearInterval(timer);
        Atomics.store(counters, counter.stop, 1);
        resolve(stall(mark, `no byte came for ${limit / 1000} s`));
      }
    }, limits.lookEveryMs);
    timer.unref();
    void ended.finally(() => clearInterval(timer));
  });
}

/**
 * One thread, however often the disk hangs: the kernel writes into its buffer until what hangs has ended, so it is neither
 * ended nor given up, and until then no other job begins.
 * @param url what the thread runs
 */
export function createReader(url = threadUrl(), limits: ReaderLimits = usualLimits): Reader {
  let thread: Worker | null = null;
  let idle: NodeJS.Timeout | undefined;
  let last: Course = { answer: Promise.resolve(null), rest: Promise.resolve('rest') };

  const close = (): void => {
    clearTimeout(idle);
    // It lets go of its buffer itself: a terminated thread would leave that mapped.
    thread?.postMessage('end');
    thread = null;
  };

  async function hangs(): Promise<ReaderFault | null> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<ReaderFault>((resolve) => {
      const fault = stall(-1, 'what was read before has not come yet');
      timer = setTimeout(() => resolve(fault), limits.stopMs);
      timer.unref();
    });
    return Promise.race([last.rest.then(() => null), late]).finally(() => clearTimeout(timer));
  }

  return {
    hangs,
    released: async () => void (await last.answer),
    async run(job) {
      const fault = await hangs();
      if (fault) return fault;
      clearTimeout(idle);
      thread ??= startThread(url);
      const mine = thread;
      last = begin(mine, job);
      void last.rest.then((how) => {
        if (thread !== mine) return;
        if (how === 'lost') thread = null;
        else idle = setTimeout(close, idleMs).unref();
      });
      return Promise.race([last.answer, stalled(job, last.answer, limits)]);
    },
    close,
  };
}
