/** From a process to the pod it runs in, by its control group. Needs the host's pid namespace (hostPID). */
import { readFile } from 'node:fs/promises';

/**
 * A pod's UID in a cgroup path, under systemd (`…-pod<uid with _>.slice/`), cgroupfs (`…/pod<uid>/`) or nested ones; static
 * pods have 32 digits without dashes. Anywhere in the path: a private cgroup namespace shows others' as `/../…`.
 */
const podSegment = /pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?(?:\/|:)/g;

/** Longest text looked at of one cgroup file, characters. */
const cgroupCharactersMax = 64 * 1024;

/** The innermost pod of a /proc/<pid>/cgroup text; null for a process outside of pods. */
export function podOfCgroup(text: string): string | null {
  const last = [...text.slice(0, cgroupCharactersMax).matchAll(podSegment)].at(-1);
  return last ? last[1]!.replaceAll('_', '-') : null;
}

/** Whose a process is; `gone` when it has ended meanwhile. */
export type Owner = { podUid: string } | 'outside' | 'gone';

/** @param proc where procfs is mounted */
export async function ownerOf(pid: number, proc = '/proc'): Promise<Owner> {
  try {
    const podUid = podOfCgroup(await readFile(`${proc}/${pid}/cgroup`, 'utf8'));
    return podUid === null ? 'outside' : { podUid };
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    // ESRCH: the process ended between open and read.
    if (code === 'ENOENT' || code === 'ESRCH') return 'gone';
    throw error;
  }
}
