/**
 * What was seen of one life, as words with their time: read by whoever waits for a point in it, and by people when it failed. A
 * word is `<what> <model>`, such as `wake red`.
 */

export interface Seen {
  atMs: number;
  word: string;
  more: string;
}

/** Lines that a person is shown of a life that failed. */
const linesShownMax = 400;

export class Timeline {
  readonly #began = performance.now();
  readonly #seen: Seen[] = [];
  readonly #listeners = new Map<string, ((seen: Seen) => void)[]>();

  /** ms since the life began. */
  nowMs(): number {
    return performance.now() - this.#began;
  }

  /** @param atMs when it was, where that is not now */
  see(word: string, more = '', atMs: number = this.nowMs()): void {
    const seen = { atMs, word, more };
    this.#seen.push(seen);
    for (const tell of this.#listeners.get(word) ?? []) tell(seen);
  }

  on(word: string, tell: (seen: Seen) => void): void {
    this.#listeners.set(word, [...(this.#listeners.get(word) ?? []), tell]);
  }

  /** When a word was seen, ms. */
  times(word: string): number[] {
    return this.#seen.filter((seen) => seen.word === word).map(({ atMs }) => atMs);
  }

  last(word: string): Seen | undefined {
    return this.#seen.findLast((seen) => seen.word === word);
  }

  text(): string {
    return this.#seen
      .slice(-linesShownMax)
      .map(({ atMs, word, more }) => `${(atMs / 1_000).toFixed(3).padStart(9)} s  ${word} ${more}`.trimEnd())
      .join('\n');
  }
}
