/** The reader threads: started when something is to be staged, ended when nothing was for a while. */
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { errorText } from '#platform/log.ts';
import { counter, type ReaderAnswer, type ReaderFault, type ReaderJob, shareOf } from './reader-words.ts';

/**
 * Reads in flight at once: what disks are measured with. A reader is on a CPU for about half its time (to check and to write into
 * the pool), so there are no more of them than CPUs.
 */
export const readersMax = 4;
const readersMin = 2;
/** Each has a heap of its own, and needs next to none, MB. */
const heapMbMax = 32;
/** Ended when idle for this long, ms: they hold some 15 MB each. */
const idleMs = 30_000;
/** No chunk for this long means that the disk hangs, ms. */
const stallMsMax = 60_000;
/** A reader that is told to stop does so after the chunk it has, ms. */
const stopMsMax = 15_000;

export interface Readers {
  /** One job at a time. @returns what went wrong first; null when nothing did, a stop included */
  run(job: ReaderJob): Promise<ReaderFault | null>;
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

/** What one thread says to one job; one that dies says so too. */
function answerOf(thread: Worker, job: ReaderJob): Promise<ReaderFault | null> {
  return new Promise((resolve) => {
    const died = (what: string): void => {
      Atomics.store(shareOf(job.shared).counters, counter.stop, 1);
      settle({ kind: 'read', chunk: -1, code: 'READER', message: `a reader thread ended: ${what}` });
    };
    const onMessage = ({ fault }: ReaderAnswer): void => settle(fault);
    const onError = (error: unknown): void => died(errorText(error));
    const onExit = (code: number): void => died(`exit code ${code}`);
    const settle = (fault: ReaderFault | null): void => {
      thread.off('message', onMessage).off('error', onError).off('exit', onExit);
      resolve(fault);
    };
    thread.on('message', onMessage).on('error', onError).on('exit', onExit);
    thread.postMessage(job);
  });
}

/** Resolves when the job stands still for too long. */
function stalled(job: ReaderJob, ended: Promise<unknown>): Promise<ReaderFault> {
  return new Promise((resolve) => {
    const { counters } = shareOf(job.shared);
    let mark = -1;
    let sinceMs = performance.now();
    const timer = setInterval(() => {
      const now = performance.now();
      const limit = Atomics.load(counters, counter.stop) === 0 ? stallMsMax : stopMsMax;
      if (Atomics.load(counters, counter.mark) !== mark) {
        mark = Atomics.load(counters, counter.mark);
        sinceMs = now;
      } else if (now - sinceMs > limit) {
        clearInterval(timer);
        Atomics.store(counters, counter.stop, 1);
        resolve({
          kind: 'read',
          chunk: mark,
          code: 'STALLED',
          message: `no byte came for ${limit / 1000} s`,
        });
      }
    }, 1_000);
    timer.unref();
    void ended.finally(() => clearInterval(timer));
  });
}

/** @param thread what a reader runs */
export function createReaders(thread = threadUrl()): Readers {
  const count = Math.min(readersMax, Math.max(readersMin, availableParallelism()));
  let threads: Worker[] = [];
  let idle: NodeJS.Timeout | undefined;

  const close = (): void => {
    clearTimeout(idle);
    // They let go of their buffers themselves: a terminated thread would leave them mapped.
    for (const thread of threads) thread.postMessage('end');
    threads = [];
  };

  return {
    async run(job) {
      clearTimeout(idle);
      if (threads.length === 0) threads = Array.from({ length: count }, () => startThread(thread));
      const answers = Promise.all(threads.map((thread) => answerOf(thread, job)));
      const stall = await Promise.race([answers.then(() => null), stalled(job, answers)]);
      if (stall) {
        // Whoever hangs in the kernel hangs; the next job gets threads of its own.
        for (const thread of threads) void thread.terminate();
        threads = [];
        return stall;
      }
      const faults = (await answers).filter((fault) => fault !== null);
      if (faults.some(({ code }) => code === 'READER')) close();
      else {
        idle = setTimeout(close, idleMs);
        idle.unref();
      }
      return faults.find(({ code }) => code !== 'READER') ?? faults[0] ?? null;
    },
    close,
  };
}
