/**
 * Which states of a proof cannot be kept in time any more: what the open requests still need of the GPU until one of their
 * deadlines is more than there is. Whatever fits the GPU together weighs at most 1 (`weightings`), so no slot serves or wakes more
 * than that. The sooner a late one is certain, the fewer later requests are looked at for it.
 */
import type { GridRequest } from './proof-grid.ts';
import { out, type States } from './proof-states.ts';

/** More than what doubles lose in these sums. */
const rounding = 1e-6;

export class Demand {
  readonly #weights: number[][];
  readonly #wakeSlots: Uint8Array;
  /** By column in use: of the open request, or of none (model -1). */
  #models: number[] = [];
  #spares: number[] = [];
  #deadlines: number[] = [];
  #pairs: [column: number, other: number][] = [];
  /** Of the state that is looked at: its open requests, and what each model needs. */
  readonly #open: number[] = [];
  readonly #slacks: number[] = [];
  readonly #needed: Int32Array;
  /** The models that need any, and the slots of each with its wake. */
  readonly #asked: Uint8Array;
  readonly #askedSlots: Int32Array;
  #next = 0;

  constructor(weights: number[][], wakeSlots: Uint8Array) {
    this.#weights = weights;
    this.#wakeSlots = wakeSlots;
    this.#needed = new Int32Array(wakeSlots.length);
    this.#asked = new Uint8Array(wakeSlots.length);
    this.#askedSlots = new Int32Array(wakeSlots.length);
  }

  /** What is open in the columns in use, and the slot that comes next. */
  look(columns: (GridRequest | null)[], used: number, next: number): void {
    const open = columns.slice(0, used);
    this.#next = next;
    this.#models = open.map((request) => request?.model ?? -1);
    this.#spares = open.map((request) => request?.spare ?? 0);
    this.#deadlines = open.map((request) => (request ? request.from + request.need + request.spare : 0));
    this.#pairs = this.#models.flatMap((model, column) =>
      this.#models
        .slice(0, column)
        .flatMap((other, at): [number, number][] => (model >= 0 && other === model ? [[column, at]] : [])),
    );
  }

  /**
   * Counts as served what is served whenever another request of its model is: one that can spare no more and needs no less.
   * For two late ones this may count one.
   */
  imply({ bytes, waitsAt }: States, at: number): void {
    for (const [column, other] of this.#pairs) {
      const one = at + waitsAt + column;
      const two = at + waitsAt + other;
      if (bytes[one] === 0 || bytes[two] === 0) continue;
      const slack = this.#spares[column]! - bytes[one]!;
      const slackOther = this.#spares[other]! - bytes[two]!;
      // What is needed is what the deadline leaves beyond the slack.
      const need = this.#deadlines[column]! - slack;
      const needOther = this.#deadlines[other]! - slackOther;
      if (slackOther <= slack && needOther >= need) bytes[one] = 0;
      else if (slack <= slackOther && need >= needOther) bytes[two] = 0;
    }
  }

  /** Whether at least one open request of this state will be late, whatever is done. */
  isHopeless({ bytes, waitsAt }: States, at: number): boolean {
    let count = 0;
    for (let column = 0; column < this.#models.length; column++) {
      const wait = bytes[at + waitsAt + column]!;
      if (wait === 0 || this.#models[column]! < 0) continue;
      this.#open[count] = column;
      this.#slacks[count++] = this.#spares[column]! - wait + 1;
    }
    if (count < 2) return false;
    for (let last = 0; last < count; last++) {
      const until = this.#deadlines[this.#open[last]!]!;
      this.#gather(count, until);
      if (this.#exceeds(bytes, at, until - this.#next)) return true;
    }
    return false;
  }

  /** Slots that each model must serve until then: of a request all but what it can spare, and what may come after. */
  #gather(count: number, until: number): void {
    this.#needed.fill(0);
    for (let index = 0; index < count; index++) {
      const column = this.#open[index]!;
      const need = Math.min(this.#deadlines[column]!, until) - this.#next - this.#slacks[index]!;
      const model = this.#models[column]!;
      if (need > this.#needed[model]!) this.#needed[model] = need;
    }
  }

  #exceeds(bytes: Uint8Array, at: number, slots: number): boolean {
    const asked = this.#asked;
    const askedSlots = this.#askedSlots;
    let count = 0;
    let all = 0;
    for (let model = 0; model < this.#needed.length; model++) {
      const needed = this.#needed[model]!;
      if (needed === 0) continue;
      const hold = bytes[at + 1 + model]!;
      const more = needed + (hold === out ? this.#wakeSlots[model]! : hold);
      asked[count] = model;
      askedSlots[count++] = more;
      all += more;
    }
    // No weight is above 1.
    if (all <= slots) return false;
    for (const weights of this.#weights) {
      let sum = 0;
      for (let index = 0; index < count; index++) sum += weights[asked[index]!]! * askedSlots[index]!;
      if (sum > slots + rounding) return true;
    }
    return false;
  }
}
