/**
 * States of a proof, a row of bytes each: [late, a hold per model, a wait per open request]. Smaller is better for a policy in
 * every byte, so a state that is no smaller anywhere than another is left out: whatever follows it, the other can do too.
 * With g fewer late, a state may also be larger in the waits of g requests: it can let these be late.
 */

/** The hold of a model that has no memory; of another: the slots until it serves. */
export const out = 255;
/** More than any byte of a wait: a late request outweighs one wait in the order of states. */
const lateWeight = 256;
const hashPrime = 16_777_619;
const hashBasis = 2_166_136_261;

export class States {
  readonly models: number;
  readonly stride: number;
  bytes: Uint8Array;
  count = 0;
  #index: Int32Array;

  /** @param columns as many requests may be open at once */
  constructor(models: number, columns: number) {
    this.models = models;
    this.stride = 1 + models + columns;
    this.bytes = new Uint8Array(1024 * this.stride);
    this.#index = new Int32Array(4096);
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
    }
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
    const { count } = this;
    this.#index = new Int32Array(this.#index.length * 2);
    for (let row = 0; row < count; row++) this.#index[this.#find(row * this.stride, end)] = row + 1;
  }

  least(): number {
    let least = 255;
    for (let row = 0; row < this.count; row++) least = Math.min(least, this.bytes[row * this.stride]!);
    return least;
  }

  /** The best rows into `into`: those that no other is as good as. */
  best(into: States, end: number): void {
    const { bytes, stride, count } = this;
    into.clear();
    const sums = new Float64Array(count);
    const outs = new Int32Array(count);
    const opens = new Int32Array(count);
    for (let row = 0; row < count; row++) {
      // A row that is as good comes first: its bytes sum to less. The row's number is what is left over.
      sums[row] = this.#sum(row, end) * count + row;
      outs[row] = this.#outs(row);
      opens[row] = this.#opens(row, end);
    }
    sums.sort();
    const kept: number[] = [];
    for (const sum of sums) {
      const row = sum % count;
      const late = bytes[row * stride]!;
      const isWorse = kept.some((other) => {
        if (outs[other]! & ~outs[row]!) return false;
        const gap = late - bytes[other * stride]!;
        if (gap < 0 || (gap === 0 && opens[other]! & ~opens[row]!)) return false;
        return this.#isAsGood(other * stride, row * stride, end);
      });
      if (isWorse) continue;
      kept.push(row);
      into.copy(this, row);
    }
  }

  /** One more row, equal to that of another. */
  copy(from: States, row: number): void {
    const at = row * this.stride;
    const to = this.fresh();
    this.bytes.set(from.bytes.subarray(at, at + this.stride), to);
    this.count++;
  }

  #sum(row: number, end: number): number {
    const at = row * this.stride;
    let sum = this.bytes[at]! * lateWeight;
    for (let byte = at + 1; byte < at + end; byte++) sum += this.bytes[byte]!;
    return sum;
  }

  /** The models that hold nothing, as a set. */
  #outs(row: number): number {
    const at = row * this.stride + 1;
    let outs = 0;
    for (let model = 0; model < this.models; model++) if (this.bytes[at + model] === out) outs |= 1 << model;
    return outs;
  }

  /** The first 32 columns with an open request, as a set. */
  #opens(row: number, end: number): number {
    const at = row * this.stride + 1 + this.models;
    const columns = Math.min(32, end - 1 - this.models);
    let opens = 0;
    for (let column = 0; column < columns; column++) if (this.bytes[at + column]! > 0) opens |= 1 << column;
    return opens;
  }

  #isAsGood(one: number, other: number, end: number): boolean {
    const { bytes, models } = this;
    for (let byte = 1; byte <= models; byte++) if (bytes[one + byte]! > bytes[other + byte]!) return false;
    let gap = bytes[other]! - bytes[one]!;
    for (let byte = models + 1; byte < end; byte++)
      if (bytes[one + byte]! > bytes[other + byte]! && --gap < 0) return false;
    return true;
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
        groups.set(key, into.count * stride);
        into.copy(this, row);
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
