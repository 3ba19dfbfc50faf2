/** The reader thread: started when something is to be staged, ended when nothing was for a while. */
import { Worker } from 'node:worker_threads';
import { errorText } from '#platform/log.ts';
import { counter, countersOf, type ReaderAnswer, type ReaderFault, type ReaderJob } from './reader-words.ts';

/** It has a heap of its own, and needs next to none, MB. */
const heapMbMax = 32;
/** Ended when idle for this long, ms: it holds some 50 MB. */
const idleMs = 30_000;
/** No chunk for this long means that the disk hangs, ms. */
const stallMsMax = 60_000;
/** A reader that is told to stop does so after the chunks that are on their way, ms. */
const stopMsMax = 15_000;

export interface Reader {
  /** One job at a time. @returns what went wrong; null when nothing did, a stop included */
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

/** What the thread says to one job; one that dies says so too. */
function answerOf(thread: Worker, job: ReaderJob): Promise<ReaderFault | null> {
  return new Promise((resolve) => {
    const died = (what: string): void =>
      settle({ kind: 'read', chunk: -1, code: 'READER', message: `the reader thread ended: ${what}` });
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
    const counters = countersOf(job.shared);
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

/** @param url what the thread runs */
export function createReader(url = threadUrl()): Reader {
  let thread: Worker | null = null;
  let idle: NodeJS.Timeout | undefined;

  const close = (): void => {
    clearTimeout(idle);
    // It lets go of its buffer itself: a terminated thread would leave that mapped.
    thread?.postMessage('end');
    thread = null;
  };

  return {
    async run(job) {
      clearTimeout(idle);
      thread ??= startThread(url);
      const answer = answerOf(thread, job);
      const fault = await Promise.race([answer, stalled(job, answer)]);
      if (fault?.code === 'STALLED') {
        // What hangs in the kernel hangs; the next job gets a thread of its own.
        void thread.terminate();
        thread = null;
      } else if (fault?.code === 'READER') thread = null;
      else {
        idle = setTimeout(close, idleMs);
        idle.unref();
      }
      return fault;
    },
    close,
  };
}
