/**
 * Runs nvidia-smi. It hangs on a sick board, now and then beyond the reach of SIGKILL (the driver holds it in the kernel),
 * so every call has a hard deadline after which it is killed and, if it does not even die, left behind.
 */
import { execa } from 'execa';

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

/** What one call came to. */
export interface SmiOutput {
  outcome: 'exited' | 'timed-out' | 'not-found' | 'not-permitted' | 'too-long' | 'killed';
  /** Null unless it exited. */
  exitCode: number | null;
  stdout: string;
  stderr: string;
}

/** Runs nvidia-smi with these arguments; never throws. */
export type RunSmi = (args: readonly string[], timeoutMs: number) => Promise<SmiOutput>;

const without = (outcome: SmiOutput['outcome']): SmiOutput => ({
  outcome,
  exitCode: null,
  stdout: '',
  stderr: '',
});

/**
 * @param command the program, found on PATH
 * @param killSignal what ends a call at its deadline
 * @returns a function that runs it. A call that outlived its SIGKILL is left behind; while it lives, the same call is not
 *   made again but counts as timed out at once, so that those who ask for other GPUs go on
 */
export function createRunSmi(command = 'nvidia-smi', killSignal: 'SIGKILL' | 'SIGTERM' = 'SIGKILL'): RunSmi {
  const undead = new Set<string>();

  return async (args, timeoutMs) => {
    const call = args.join(' ');
    if (undead.has(call) || undead.size >= undeadMax) return without('timed-out');
    const child = execa(command, args, {
      timeout: timeoutMs,
      killSignal,
      forceKillAfterDelay: false,
      maxBuffer: outputCharactersMax,
      reject: false,
      stdin: 'ignore',
      env: { LC_ALL: 'C' },
    });
    const ended = child.then((result): SmiOutput => {
      const { stdout, stderr, exitCode = null } = result;
      return { outcome: outcomeOf(result), exitCode, stdout, stderr };
    });
    const given: PromiseWithResolvers<SmiOutput> = Promise.withResolvers();
    const deadline = setTimeout(() => {
      undead.add(call);
      void ended.finally(() => undead.delete(call));
      // Lets this process end although the call has not.
      child.nodeChildProcess.unref();
      for (const stream of [child.stdout, child.stderr]) stream?.destroy();
      given.resolve(without('timed-out'));
    }, timeoutMs + deathMsMax);
    void ended.then(given.resolve);
    return given.promise.finally(() => clearTimeout(deadline));
  };
}

function outcomeOf(result: {
  timedOut: boolean;
  isMaxBuffer: boolean;
  exitCode?: number;
  code?: string;
}): SmiOutput['outcome'] {
  if (result.timedOut) return 'timed-out';
  if (result.isMaxBuffer) return 'too-long';
  if (result.code === 'ENOENT' || result.exitCode === 127) return 'not-found';
  if (result.code === 'EACCES' || result.exitCode === 126) return 'not-permitted';
  return result.exitCode === undefined ? 'killed' : 'exited';
}
