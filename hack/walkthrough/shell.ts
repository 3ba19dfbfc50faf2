/** Commands as a person would type them: printed with a prompt, run by bash, their output shown as it comes. */
import { execa } from 'execa';

export interface Typed {
  stdout: string;
  exitCode: number;
}

const bold = process.stdout.isTTY ? (text: string) => `\u001b[1m${text}\u001b[0m` : (text: string) => text;

export const title = (text: string): void => console.log(`\n${bold(`── ${text}`)}\n`);
export const remark = (text: string): void => console.log(`# ${text}`);

/** Longest a typed command may take, ms; what waits longer is a condition and polls. */
const commandMsMax = 120_000;

/**
 * Types a command.
 * @param options.env on top of this process's
 * @param options.quiet runs it without showing it
 * @param options.shown what a person would type, where the command has more to it so that it ends by itself
 */
export async function type(
  command: string,
  options: { env?: Record<string, string>; quiet?: boolean; shown?: string } = {},
): Promise<Typed> {
  const { env = {}, quiet = false, shown = command } = options;
  if (!quiet) console.log(bold(`$ ${shown}`));
  const { stdout, exitCode } = await execa('bash', ['-c', command], {
    env,
    reject: false,
    timeout: commandMsMax,
    stdin: 'ignore',
    stdout: quiet ? 'pipe' : ['pipe', 'inherit'],
    stderr: quiet ? 'pipe' : ['pipe', 'inherit'],
  });
  return { stdout: stdout ?? '', exitCode: exitCode ?? 1 };
}

/** What went other than promised: the walk-through ends with 1 when there is any. */
export const failures: string[] = [];

/** A promise of the walk-through, checked. */
export function check(what: string, holds: boolean, found = ''): void {
  console.log(`${holds ? '✓' : '✗'} ${what}${holds || found === '' ? '' : `, but: ${found.slice(0, 500)}`}`);
  if (!holds) failures.push(what);
}

/** How often a condition is looked at unless told otherwise, ms. */
const pollMsDefault = 200;

/**
 * Polls until a condition holds.
 * @param pollMs between two looks
 * @returns what `probe` answered last; null when the time was up
 */
export async function until<T>(
  what: string,
  msMax: number,
  probe: () => Promise<T | null>,
  pollMs = pollMsDefault,
): Promise<T | null> {
  const began = Date.now();
  for (;;) {
    const answer = await probe();
    if (answer !== null) return answer;
    if (Date.now() - began > msMax) {
      check(what, false, `not within ${Math.round(msMax / 1000)} s`);
      return null;
    }
    await new Promise((resolve) => setTimeout(resolve, pollMs));
  }
}
