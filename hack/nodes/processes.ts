/** Processes that outlive the command that started them: a pid alone may be somebody else's by now. */
import { readFileSync } from 'node:fs';
import { until } from './progress.ts';

export interface ProcessIdentity {
  pid: number;
  /** Field 22 of /proc/PID/stat, clock ticks since boot: together with the pid it names one process. */
  startTicks: string;
}

/** @returns null when there is no such process */
export function identify(pid: number): ProcessIdentity | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name in parentheses may hold spaces: count from behind it. Field 3 is the state.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    if (fields[0] === 'Z' || fields[0] === 'X') return null;
    return { pid, startTicks: fields[19]! };
  } catch {
    return null;
  }
}

export function isAlive(process: ProcessIdentity): boolean {
  return identify(process.pid)?.startTicks === process.startTicks;
}

/** Ends one process with SIGKILL and waits until it is gone; does nothing when it is gone already. */
export async function kill(identity: ProcessIdentity): Promise<void> {
  if (!isAlive(identity)) return;
  try {
    process.kill(identity.pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
  await until(`the end of process ${identity.pid}`, 30_000, () => !isAlive(identity));
}

/** The only child of a process. @returns null while there is none */
export function childOf(pid: number): number | null {
  try {
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim();
    return children === '' ? null : Number(children.split(' ')[0]);
  } catch {
    return null;
  }
}
