/** Chance that replays: a small generator (sfc32), and one of its own for each name, so that dropping one thing moves no other. */

export interface Random {
  /** 0 ≤ x < 1 */
  next(): number;
  /** An integer, both ends included. */
  int(low: number, high: number): number;
  between(low: number, high: number): number;
  chance(probability: number): boolean;
  pick<T>(list: readonly T[]): T;
  /** Exponentially distributed with this mean. */
  exponential(mean: number): number;
}

function hash(text: string): number {
  let value = 0x811c9dc5;
  for (let at = 0; at < text.length; at++) {
    value ^= text.charCodeAt(at);
    value = Math.imul(value, 0x01000193);
  }
  return value >>> 0;
}

/** @param name what draws: its draws depend on the seed and the name alone */
export function randomFor(seed: number, name: string): Random {
  let a = seed >>> 0;
  let b = hash(name);
  let c = (seed / 2 ** 32) >>> 0;
  let counter = 1;
  const raw = (): number => {
    const sum = (((a + b) >>> 0) + counter) >>> 0;
    counter = (counter + 1) >>> 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) >>> 0;
    c = (c << 21) | (c >>> 11);
    c = (c + sum) >>> 0;
    return sum;
  };
  for (let round = 0; round < 12; round++) raw();
  const next = (): number => raw() / 2 ** 32;
  const between = (low: number, high: number): number => low + next() * (high - low);
  const int = (low: number, high: number): number => Math.floor(between(low, high + 1));
  return {
    next,
    int,
    between,
    chance: (probability) => next() < probability,
    pick: (list) => list[int(0, list.length - 1)]!,
    exponential: (mean) => -mean * Math.log(1 - next()),
  };
}
