/** The rounds of hack/bench wake, and what they come to. */

export type Turn = 'wake' | 'memcpy';

/** One of sleep, wake and, beside a wake that copies, a memcpy; ms. The bytes are the same, and each copy has had its own sleep. */
export interface Round {
  first: Turn;
  sleepMs: number;
  sleepHttpMs: number;
  wakeMs: number;
  wakeHttpMs: number;
  wakeCpuMs: number;
  memcpyMs: number | null;
  memcpyCpuMs: number | null;
}

/** Who goes first changes with each round: what the one leaves in caches and free pages, the other has as often. */
export const turnsOf = (number: number): [Turn, Turn] =>
  number % 2 === 1 ? ['memcpy', 'wake'] : ['wake', 'memcpy'];

const median = (values: number[]): number => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;

/** The first round of each is not counted. The last line is for machines; a ratio above 1 says that a wake is faster than the memcpy. */
export function resultLines(
  copied: readonly Round[],
  mapped: readonly Round[],
  weightsBytes: number,
): string[] {
  const of = (rows: readonly Round[], key: Exclude<keyof Round, 'first'>) =>
    median(rows.slice(1).map((row) => row[key]!));
  const byClock = of(copied, 'memcpyMs') / of(copied, 'wakeMs');
  const byCpu = of(copied, 'memcpyCpuMs') / of(copied, 'wakeCpuMs');
  const speed = weightsBytes / 1e6 / of(copied, 'wakeMs');
  const result = [
    `wake_vs_memcpy=${byClock.toFixed(3)}`,
    `sleep_ms=${of(copied, 'sleepMs').toFixed(1)}`,
    `map_wake_ms=${of(mapped, 'wakeHttpMs').toFixed(1)}`,
  ];
  return [
    `first sleep ${copied[0]!.sleepMs.toFixed(1)} ms; a wake copies ${speed.toFixed(2)} GB/s; by CPU time, on which others' work tells less, wake_vs_memcpy_cpu=${byCpu.toFixed(3)}`,
    `result: ${result.join(' ')}`,
  ];
}
