/**
 * XIDs: the driver's error codes in the kernel log. What they mean for a GPU comes from NVIDIA's XID catalog
 * (docs.nvidia.com/deploy/xid-errors, the immediate action of each code).
 */

/** How often a board has reported one code since the machine started. */
export interface XidReading {
  /** As the driver prints it, without the function: `0000:05:00`. */
  busId: string;
  xid: number;
  count: number;
}

/** Boards and codes remembered at most; a machine has up to 16 boards and reports a few codes. */
export const xidReadingsMax = 1_024;

/** Reset the GPU or have it checked: hang, memory or link damage, lost from the bus. */
const fatal = new Set([46, 48, 54, 62, 64, 79, 95, 110, 119, 120, 136, 140, 143, 155, 156, 158, 171, 172]);
/** The GPU limps: a contained memory error, a context switch that timed out, NVLink. */
const limping = new Set([74, 94, 109, 144, 145, 146, 147, 148, 149, 150]);
/** The highest code that the catalog names. */
const catalogued = 175;

/** The codes of one board that count against it, worst first. An unknown one never condemns a board by itself. */
export function weighXids(readings: readonly XidReading[]): { fatal: number[]; limping: number[] } {
  const codes = [...new Set(readings.map(({ xid }) => xid))].sort((a, b) => a - b);
  return {
    fatal: codes.filter((xid) => fatal.has(xid)),
    limping: codes.filter((xid) => limping.has(xid) || xid > catalogued),
  };
}

/** `NVRM: Xid (PCI:0000:05:00): 79, pid=…`, and the older form without `PCI:`. */
const xidPattern = /NVRM: Xid \((?:PCI:)?([0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2})(?:\.\d)?\): (\d{1,5})\b/i;
/** A board that left the bus without a code, in one line or several. */
const fallenPattern = /NVRM: .*GPU ([0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2})\.\d[\s\S]*fallen off the bus/i;
/** The code of such a board. */
const fallenXid = 79;

/**
 * The code in one record of the kernel log.
 * @returns null when it holds none; `coded` is false where the board left the bus and the line names no code
 */
export function xidOf(message: string): { busId: string; xid: number; coded: boolean } | null {
  const told = xidPattern.exec(message);
  if (told) return { busId: told[1]!, xid: Number(told[2]), coded: true };
  const fallen = fallenPattern.exec(message);
  return fallen ? { busId: fallen[1]!, xid: fallenXid, coded: false } : null;
}

/** Adds one record to what was counted; a board that left the bus counts once, however many lines say so. */
export function countXid(readings: readonly XidReading[], message: string): readonly XidReading[] {
  const found = xidOf(message);
  if (!found) return readings;
  const { busId, xid, coded } = found;
  const before = readings.find((reading) => reading.busId === busId && reading.xid === xid);
  if (before) {
    if (!coded) return readings;
    return readings.map((reading) =>
      reading === before ? { ...reading, count: reading.count + 1 } : reading,
    );
  }
  return readings.length < xidReadingsMax ? [...readings, { busId, xid, count: 1 }] : readings;
}
