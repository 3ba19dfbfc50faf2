/** Measures the node's memory, and what the agent's own control group leaves it. */
import { readFileSync } from 'node:fs';
import { ownBytesOf, readMeminfo } from '../../decide/staging/memory-texts.ts';
import type { HostMemory } from '../../decide/staging/words.ts';

/** Left to the agent itself below its own limit, bytes: its heap and the buffers of its readers. */
const agentHeadRoomBytes = 256 * 1024 * 1024;

const textOf = (path: string): string | null => {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return null;
  }
};

/** @returns null where /proc/meminfo cannot be read */
export function hostMemory(root = '/'): HostMemory | null {
  const host = readMeminfo(textOf(`${root}proc/meminfo`) ?? '');
  if (!host) return null;
  const group = `${root}sys/fs/cgroup`;
  const max = textOf(`${group}/memory.max`);
  const current = textOf(`${group}/memory.current`);
  // Version 1 and the root group have no such files: no limit of our own is known.
  if (max === null || current === null) return { ...host, ownBytes: null };
  const own = ownBytesOf({ max, current, stat: textOf(`${group}/memory.stat`) ?? '' });
  return { ...host, ownBytes: own === null ? null : Math.max(0, own - agentHeadRoomBytes) };
}
