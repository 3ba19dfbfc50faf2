/**
 * States of a proof, a row of bytes each: [late, a hold per model, a wait per open request]. Smaller is better for a policy in
 * every byte, so a state that is no smaller anywhere than another is left out: whatever follows it, the other can do too.
 * With g fewer late, a state may also be larger in the waits of g requests: it can let these be late.
 *
 * All bytes are below 128, so four are compared at once: (b | 128) − a keeps its highest bit where a ≤ b.
 */

/** No byte is larger. As a hold: the model has no memory; else the hold is the slots until it serves. */
export const byteMax = 127;
export const out = byteMax;
const highest = 0x80808080 | 0;
const wordBytes = 4;
/** More than any wait: a late request outweighs one wait in the order of states. */
const lateWeight = 128;
const hashPrime = 16_777_619;
const hashBasis = 2_166_136_261;
const rowsFirst = 1_024;

const words = (bytes: number): number => Math.ceil(bytes / wordBytes);

export class States {
  readonly models: number;
  /** Where the first wait is. */
  readonly waitsAt: number;
  readonly stride: number;
  bytes: Uint8Array;
  count = 0;
  #words: Int32Array;
  #index = new Int32Array(4 * rowsFirst);

  /** @param columns as many requests may be open at once */
  constructor(models: number, columns: number) {
    this.models = models;
    this.waitsAt = words(1 + models) * wordBytes;
    this.stride = this.waitsAt + words(columns) * wordBytes;
    this.bytes = new Uint8Array(rowsFirst * this.stride);
    this.#words = new Int32Array(this.bytes.buffer);
  }

  clear(): void {
    this.count = 0;
    this.#index.fill(0);
  }

  /** Offset of the row behind the last: filled by the caller, then kept by `add`. */
  fresh(): number {
    const at = this.count * this.stride;
    if (at + this.stride > this.bytes.length) {
      const grown = new Uint8Array(this.bytes.length * 2);
      grown.set(this.bytes);
      this.bytes = grown;
      this.#words = new Int32Array(grown.buffer);
    }
    return at;
  }

  /** Fills the fresh row with the first `end` bytes of another's. @returns its offset */
  draft(from: States, row: number, end: number): number {
    const at = this.fresh();
    const to = at / wordBytes;
    const source = (row * this.stride) / wordBytes;
    const own = this.#words;
    const other = from.#words;
    for (let word = words(end) - 1; word >= 0; word--) own[to + word] = other[source + word]!;
    return at;
  }

  /** Keeps the fresh row; of equal rows that with fewer late. @param end bytes of a row in use */
  add(end: number): void {
    if (this.count * 2 >= this.#index.length) this.#grow(end);
    const at = this.count * this.stride;
    const slot = this.#find(at, end);
    const found = this.#index[slot]!;
    if (found === 0) this.#index[slot] = ++this.count;
    else {
      const before = (found - 1) * this.stride;
      if (this.bytes[at]! < this.bytes[before]!) this.bytes[before] = this.bytes[at]!;
    }
  }

  /** Where in the index a row is that equals this one but for its late, or would be. */
  #find(at: number, end: number): number {
    const { bytes, stride } = this;
    let hash = hashBasis;
    for (let byte = 1; byte < end; byte++) hash = Math.imul(hash ^ bytes[at + byte]!, hashPrime);
    hash ^= hash >>> 15;
    const mask = this.#index.length - 1;
    for (let slot = hash & mask; ; slot = (slot + 1) & mask) {
      const found = this.#index[slot]!;
      if (found === 0) return slot;
      const other = (found - 1) * stride;
      let byte = 1;
      while (byte < end && bytes[at + byte] === bytes[other + byte]) byte++;
      if (byte >= end) return slot;
    }
  }

  #grow(end: number): void {
    this.#index = new Int32Array(this.#index.length * 2);
    for (let row = 0; row < this.count; row++) this.#index[this.#find(row * this.stride, end)] = row + 1;
  }

  /** The least late of any row. */
  least(): number {
    let least = byteMax;
    for (let row = 0; row < this.count; row++) least = Math.min(least, this.bytes[row * this.stride]!);
    return least;
  }

  /** The best rows into `into`: those that no other is as good as. */
  best(into: States, end: number): void {
    const { stride, count } = this;
    into.clear();
    const sums = new Float64Array(count);
    // A row that is as good comes first: its bytes sum to less. The row's number is what is left over.
    for (let row = 0; row < count; row++) sums[row] = this.#sum(row, end) * count + row;
    sums.sort();
    const kept = new Int32Array(count);
    let keptCount = 0;
    for (const sum of sums) {
      const row = sum % count;
      const found = this.#betterOf(kept, keptCount, row, end);
      if (found < 0) {
        kept[keptCount++] = row * stride;
        into.draft(this, row, end);
        into.count++;
      } else if (found > 0) {
        // One that was better than this is likely to be better than the next, which is alike.
        const better = kept[found]!;
        kept[found] = kept[found >> 1]!;
        kept[found >> 1] = better;
      }
    }
  }

  /** @returns which of the kept rows (their offsets) is as good as this row; -1: none */
  #betterOf(kept: Int32Array, keptCount: number, row: number, end: number): number {
    const own = this.#words;
    const { bytes, stride } = this;
    const holdWords = this.waitsAt / wordBytes;
    const endWords = words(end);
    const at = (row * stride) / wordBytes;
    const late = bytes[row * stride]!;
    for (let index = 0; index < keptCount; index++) {
      const offset = kept[index]!;
      const other = offset / wordBytes;
      let word = 0;
      while (word < holdWords && (((own[at + word]! | highest) - own[other + word]!) & highest) === highest)
        word++;
      if (word < holdWords) continue;
      let gap = late - bytes[offset]!;
      for (; word < endWords && gap >= 0; word++) {
        let worse = ~((own[at + word]! | highest) - own[other + word]!) & highest;
        for (; worse !== 0; worse &= worse - 1) gap--;
      }
      if (gap >= 0) return index;
    }
    return -1;
  }

  #sum(row: number, end: number): number {
    const at = row * this.stride;
    let sum = this.bytes[at]! * lateWeight;
    for (let byte = at + 1; byte < at + end; byte++) sum += this.bytes[byte]!;
    return sum;
  }

  /**
   * Puts together into `into` the rows of equal late, equal sets of held, waking and absent models, and waits that are alike
   * but for the last `coarse` bits: the smallest of each byte, which no policy minds.
   */
  merge(into: States, end: number, coarse: number): void {
    const { bytes, stride, count } = this;
    into.clear();
    const groups = new Map<string, number>();
    for (let row = 0; row < count; row++) {
      const key = this.#likeness(row, end, coarse);
      const known = groups.get(key);
      if (known === undefined) {
        groups.set(key, into.draft(this, row, end));
        into.count++;
        continue;
      }
      for (let byte = 1; byte < end; byte++)
        into.bytes[known + byte] = Math.min(into.bytes[known + byte]!, bytes[row * stride + byte]!);
    }
  }

  #likeness(row: number, end: number, coarse: number): string {
    const at = row * this.stride;
    const values = [this.bytes[at]!];
    for (let byte = 1; byte < end; byte++) {
      const value = this.bytes[at + byte]!;
      if (byte > this.models) values.push((value + (1 << coarse) - 1) >> coarse);
      else values.push(value === out ? out : Math.min(1, value));
    }
    return String.fromCharCode(...values);
  }
}
