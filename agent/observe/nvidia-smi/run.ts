/**
 * Runs nvidia-smi. It hangs on a sick board, now and then beyond the reach of SIGKILL (the driver holds it in the kernel),
 * so every call has a hard deadline after which it is killed and, if it does not even die, left behind.
 *
 * Starting a process takes 4 to 15 ms, in which somebody may wait for a switch. A call that is made again and again is
 * therefore kept ready: a shell that waits for a line and then becomes nvidia-smi, whichever PATH leads to by then. What it
 * prints was read after the line.
 */
import { Socket } from 'node:net';
import { execa, type ResultPromise } from 'execa';

/** Deadline of a full query, ms: on a big chassis whose GPUs nothing holds it takes up to 10 s. */
export const queryTimeoutMs = 10_000;
/** Deadline of the quick CSV queries, ms: they take 10 to 100. */
export const quickTimeoutMs = 5_000;
/** How long a killed call may take to die before nobody waits for it any more, ms. */
const deathMsMax = 500;
/** Different calls that would not die; with so many of them none is started until one ends. */
const undeadMax = 64;
/** Longest output read of one stream, characters: 16 GPUs in full take about 800 KB. */
export const outputCharactersMax = 4 * 1024 * 1024;
/** Calls kept ready: the two quick queries, of all GPUs and of those that answer. The oldest gives way. */
const readyMax = 4;
/** The next one is made ready so long after a call: not while others act on what it said, ms. */
const readyAfterMs = 100;
/** `$0` and the rest are the call. Ends without it when this process has gone, however it went. */
const whenTold = 'read -r told && exec "$0" "$@"';

/** What one call came to. */
export interface SmiOutput {
  outcome: 'exited' | 'timed-out' | 'not-found' | 'not-permitted' | 'too-long' | 'killed';
  /** Null unless it exited. */
  exitCode: number | null;
  stdout: string;
  stderr: string;
}

/**
 * Runs nvidia-smi with these arguments; never throws. The deadline counts from the call, ready or not.
 * @param again the same call will be made again: it is kept ready from then on
 */
export type RunSmi = (args: readonly string[], timeoutMs: number, again?: boolean) => Promise<SmiOutput>;

const without = (outcome: SmiOutput['outcome']): SmiOutput => ({
  outcome,
  exitCode: null,
  stdout: '',
  stderr: '',
});

/** A process of ours: nvidia-smi, or the shell that waits to become it. */
interface Started {
  child: ResultPromise<{ reject: false; stdin: 'pipe' | 'ignore' }>;
  ended: Promise<SmiOutput>;
  /** Kills it: its deadline is over. */
  late(): void;
}

type Deadly = 'SIGKILL' | 'SIGTERM';

function start(
  file: string,
  args: readonly string[],
  { killSignal, stdin }: { killSignal: Deadly; stdin: 'pipe' | 'ignore' },
): Started {
  const deadline = new AbortController();
  const child = execa(file, args, {
    // Not execa's timeout: it would count the time that one spends waiting to be told.
    cancelSignal: deadline.signal,
    killSignal,
    forceKillAfterDelay: false,
    maxBuffer: outputCharactersMax,
    reject: false,
    stdin,
    env: { LC_ALL: 'C' },
  });
  const ended = child.then((result): SmiOutput => {
    const { stdout, stderr, exitCode = null } = result;
    return { outcome: outcomeOf(result), exitCode, stdout, stderr };
  });
  return { child, ended, late: () => deadline.abort() };
}

/** Calls that wait to be told. Nothing that is made ready keeps this process alive, and none outlives it. */
function readyCalls(begin: (args: readonly string[]) => Started) {
  const waiting = new Map<string, Started>();

  return {
    /** @returns the call that waited for this, told to go on; undefined where none did */
    take(call: string): Started | undefined {
      const found = waiting.get(call);
      waiting.delete(call);
      found?.child.stdin?.end('\n');
      return found;
    },
    make(call: string, args: readonly string[]): void {
      if (waiting.has(call)) return;
      const [oldest] = waiting;
      if (oldest && waiting.size >= readyMax) {
        waiting.delete(oldest[0]);
        oldest[1].child.stdin?.end();
      }
      const next = begin(args);
      waiting.set(call, next);
      next.child.nodeChildProcess.unref();
      // Where no process could be started they are no sockets.
      for (const pipe of next.child.stdio) if (pipe instanceof Socket) pipe.unref();
      void next.ended.finally(() => waiting.get(call) === next && waiting.delete(call));
    },
  };
}

/**
 * @param command the program, found on PATH
 * @param killSignal what ends a call at its deadline
 * @returns a function that runs it. A call that outlived its SIGKILL is left behind; while it lives, the same call is not
 *   made again but counts as timed out at once, so that those who ask for other GPUs go on
 */
export function createRunSmi(command = 'nvidia-smi', killSignal: Deadly = 'SIGKILL'): RunSmi {
  const undead = new Set<string>();
  const ready = readyCalls((args) =>
    start('sh', ['-c', whenTold, command, ...args], { killSignal, stdin: 'pipe' }),
  );

  /** Killed at its deadline, and given up when it does not die of that. */
  async function inTime(
    call: string,
    { child, ended, late }: Started,
    timeoutMs: number,
  ): Promise<SmiOutput> {
    const kill = setTimeout(late, timeoutMs);
    const given: PromiseWithResolvers<SmiOutput> = Promise.withResolvers();
    const giveUp = setTimeout(() => {
      undead.add(call);
      void ended.finally(() => undead.delete(call));
      // Lets this process end although the call has not.
      child.nodeChildProcess.unref();
      for (const stream of [child.stdin, child.stdout, child.stderr]) stream?.destroy();
      given.resolve(without('timed-out'));
    }, timeoutMs + deathMsMax);
    void ended.then(given.resolve);
    return given.promise.finally(() => {
      clearTimeout(kill);
      clearTimeout(giveUp);
    });
  }

  return async (args, timeoutMs, again = false) => {
    const call = args.join(' ');
    if (undead.has(call) || undead.size >= undeadMax) return without('timed-out');
    const startedAtMs = performance.now();
    const plainly = (): Started => start(command, args, { killSignal, stdin: 'ignore' });
    const prepared = ready.take(call);
    let output = await inTime(call, prepared ?? plainly(), timeoutMs);
    // It may have been killed while it waited to be told.
    const leftMs = startedAtMs + timeoutMs - performance.now();
    if (prepared && output.outcome === 'killed' && leftMs > 0) output = await inTime(call, plainly(), leftMs);
    if (again && output.outcome === 'exited') setTimeout(() => ready.make(call, args), readyAfterMs).unref();
    return output;
  };
}

function outcomeOf(result: {
  isCanceled: boolean;
  isMaxBuffer: boolean;
  exitCode?: number;
  code?: string;
}): SmiOutput['outcome'] {
  if (result.isCanceled) return 'timed-out';
  if (result.isMaxBuffer) return 'too-long';
  if (result.code === 'ENOENT' || result.exitCode === 127) return 'not-found';
  if (result.code === 'EACCES' || result.exitCode === 126) return 'not-permitted';
  return result.exitCode === undefined ? 'killed' : 'exited';
}
