/** Host memory from the kernel's own texts: /proc/meminfo (proc(5)) and a control group's files (cgroups(7), version 2). */

/** A field of /proc/meminfo or memory.stat, bytes; null when it is not there. */
function field(text: string, name: string): number | null {
  const match = new RegExp(`^${name}:?\\s+(\\d+)( kB)?$`, 'm').exec(text);
  return match ? Number(match[1]) * (match[2] ? 1024 : 1) : null;
}

/** @returns null for a text without the two fields */
export function readMeminfo(text: string): { totalBytes: number; availableBytes: number } | null {
  const totalBytes = field(text, 'MemTotal');
  const availableBytes = field(text, 'MemAvailable');
  return totalBytes === null || availableBytes === null ? null : { totalBytes, availableBytes };
}

/**
 * What a control group may still take, bytes: its file cache gives way, its tmpfs pages do not.
 * @param texts memory.max, memory.current, memory.stat
 * @returns null without a limit
 */
export function ownBytesOf(texts: { max: string; current: string; stat: string }): number | null {
  const max = texts.max.trim();
  if (!/^\d+$/.test(max)) return null;
  const cache = (field(texts.stat, 'inactive_file') ?? 0) + (field(texts.stat, 'active_file') ?? 0);
  const current = Number(texts.current.trim());
  return Math.max(0, Number(max) - Math.max(0, (Number.isFinite(current) ? current : 0) - cache));
}
