/**
 * A program's own network and processes: llmux listens on every address, and whatever is started here ends with the
 * benchmark, also when that is killed.
 */
import { execa } from 'execa';

const mark = 'GREENTHREAD_OWN_NETWORK';
/** What an interrupted benchmark has to put away its own, ms. */
const endMsMax = 10_000;

export const isInOwnNetwork = (): boolean => process.env[mark] === '1';

/** Runs this program again with the same arguments in namespaces of its own. @returns its exit status */
export async function runInOwnNetwork(): Promise<number> {
  const namespaces = ['--net', '--pid', '--fork', '--mount-proc', '--kill-child'];
  const script = 'ip link set lo up && exec "$@"';
  const again = [process.execPath, ...process.execArgv, ...process.argv.slice(1)];
  const child = execa('unshare', [...namespaces, 'sh', '-c', script, 'sh', ...again], {
    stdio: 'inherit',
    reject: false,
    env: { [mark]: '1' },
    forceKillAfterDelay: endMsMax,
  });
  // A terminal's Ctrl-C reaches all of them: this one waits until the other has put everything away.
  process.on('SIGINT', () => undefined);
  process.once('SIGTERM', () => child.kill('SIGINT'));
  const { exitCode } = await child;
  return exitCode ?? 1;
}
