/** Virtual time: what is due next, in order of time and then of entry. */

export interface Appointment {
  atMs: number;
  order: number;
  run: (() => void) | null;
}

export class Clock {
  nowMs = 0;
  #heap: Appointment[] = [];
  #order = 0;

  /** @returns what `cancel` takes */
  after(delayMs: number, run: () => void): Appointment {
    return this.at(this.nowMs + Math.max(0, delayMs), run);
  }

  at(atMs: number, run: () => void): Appointment {
    const appointment = { atMs: Math.max(this.nowMs, atMs), order: this.#order++, run };
    this.#heap.push(appointment);
    this.#up(this.#heap.length - 1);
    return appointment;
  }

  cancel(appointment: Appointment | null): void {
    if (appointment) appointment.run = null;
  }

  /** Runs all that is due until then, or until `stop` says so. */
  runUntil(untilMs: number, stop: () => boolean): void {
    while (this.#heap.length > 0 && this.#heap[0]!.atMs <= untilMs && !stop()) {
      const { atMs, run } = this.#pop();
      if (run === null) continue;
      this.nowMs = atMs;
      run();
    }
    if (!stop()) this.nowMs = Math.max(this.nowMs, untilMs);
  }

  #before(a: number, b: number): boolean {
    const first = this.#heap[a]!;
    const second = this.#heap[b]!;
    return first.atMs < second.atMs || (first.atMs === second.atMs && first.order < second.order);
  }

  #swap(a: number, b: number): void {
    const kept = this.#heap[a]!;
    this.#heap[a] = this.#heap[b]!;
    this.#heap[b] = kept;
  }

  #up(from: number): void {
    let at = from;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!this.#before(at, parent)) return;
      this.#swap(at, parent);
      at = parent;
    }
  }

  #pop(): Appointment {
    const top = this.#heap[0]!;
    const last = this.#heap.pop()!;
    if (this.#heap.length === 0) return top;
    this.#heap[0] = last;
    for (let at = 0; ; ) {
      const left = 2 * at + 1;
      let least = at;
      if (left < this.#heap.length && this.#before(left, least)) least = left;
      if (left + 1 < this.#heap.length && this.#before(left + 1, least)) least = left + 1;
      if (least === at) return top;
      this.#swap(at, least);
      at = least;
    }
  }
}
