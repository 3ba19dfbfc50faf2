/**
 * How many requests every policy must make wait longer than a given time: one that knows all requests beforehand, freezes
 * streams when it likes and loses nothing by it included. A search forward in time over all that such a policy can do,
 * slot by slot (`proof-grid.ts`); wherever it is simplified, the policy gets more than it could have:
 *
 * - at first every model is awake, and those awake without open requests need not fit beside one another;
 * - a late request is never served: its work is saved;
 * - a state with `levels` more late than the best one becomes the best that there is (all awake, all served), and so does
 *   one that cannot help it (`proof-demand.ts`);
 * - when there are too many states, those that hold the same models are put together, the better of each byte.
 */
import { Demand } from './proof-demand.ts';
import type { Grid, GridRequest } from './proof-grid.ts';
import { byteMax, out, States } from './proof-states.ts';

export interface ProofLimits {
  /** States within so many late of the best one are told apart. */
  levels: number;
  /** More states than this are put together. */
  statesMax: number;
  /** Stops when so many are late. */
  lateEnough: number;
  /** Stops after this computing time, ms. */
  timeMs: number;
}

export interface Proof {
  /** At least so many of those looked at are late. */
  late: number;
  /** Requests looked at. */
  requests: number;
  /** Times that states were put together. */
  merges: number;
  /** The most states at once. */
  states: number;
}

/** As many requests are open at once; one that comes beyond is left out, in the policy's favour. */
const columnsMax = 120;
/** Waits that differ in so many bits are put together at most: all. */
const coarseMax = 8;
const never = Number.MAX_SAFE_INTEGER;

/** What this process has computed, ms: on a busy machine less than the clock says. */
export function computedMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1_000;
}

/** What a policy may do in one slot: keep or wake `active`, keep the idle ones of `idle`; all else goes. */
interface Action {
  active: number;
  idle: number;
}

class Search {
  readonly #grid: Grid;
  readonly #limits: ProofLimits;
  readonly #arrivals: number[][];
  readonly #pointers: Int32Array;
  readonly #columns: (GridRequest | null)[] = new Array(columnsMax).fill(null);
  readonly #ends = new Int32Array(columnsMax);
  readonly #columnModels = new Uint8Array(columnsMax);
  readonly #actions = new Map<number, Action[]>();
  readonly #demand: Demand;
  #used = 0;
  #open = 0;
  #now = 0;
  #next = 0;
  #soon = 0;
  #states: States;
  #coming: States;
  #proof: Proof = { late: 0, requests: 0, merges: 0, states: 0 };

  constructor(grid: Grid, limits: ProofLimits) {
    this.#grid = grid;
    this.#limits = limits;
    this.#arrivals = Array.from({ length: grid.models }, (_, at) =>
      grid.requests.filter(({ model }) => model === at).map(({ from }) => from),
    );
    this.#pointers = new Int32Array(grid.models);
    this.#demand = new Demand(grid.weights, grid.wakeSlots);
    this.#states = new States(grid.models, columnsMax);
    this.#coming = new States(grid.models, columnsMax);
  }

  run(): Proof {
    const { requests } = this.#grid;
    const { lateEnough, timeMs } = this.#limits;
    const untilMs = computedMs() + timeMs;
    this.#reset();
    this.#now = requests[0]?.from ?? 0;
    while (this.#proof.late < lateEnough && computedMs() < untilMs) {
      this.#leave();
      if (this.#open === 0 && this.#next >= requests.length) break;
      this.#arrive();
      this.#look();
      this.#step();
      this.#settle();
      this.#now++;
      this.#skip();
    }
    return this.#proof;
  }

  /** All awake, nothing open, nothing late. */
  #reset(): void {
    this.#states.clear();
    this.#states.bytes.fill(0, this.#states.fresh(), this.#states.fresh() + this.#states.stride);
    this.#states.count = 1;
  }

  get #end(): number {
    return this.#states.waitsAt + this.#used;
  }

  /** Columns of requests whose windows are over. */
  #leave(): void {
    for (let column = 0; column < this.#used; column++) {
      if (!this.#columns[column] || this.#ends[column]! > this.#now) continue;
      this.#columns[column] = null;
      this.#open--;
    }
    while (this.#used > 0 && !this.#columns[this.#used - 1]) this.#used--;
  }

  #arrive(): void {
    const { requests } = this.#grid;
    for (; this.#next < requests.length && requests[this.#next]!.from <= this.#now; this.#next++) {
      const request = requests[this.#next]!;
      const column = this.#columns.indexOf(null);
      if (request.need <= 0 || column === -1) continue;
      this.#columns[column] = request;
      this.#ends[column] = request.from + request.need + request.spare;
      this.#columnModels[column] = request.model;
      this.#open++;
      this.#begin(column);
    }
    this.#proof.requests = this.#next;
  }

  /** A request opens in every state; what lies behind the columns in use is left over from others, and four go together. */
  #begin(column: number): void {
    const { bytes, stride, count, waitsAt } = this.#states;
    const isNew = column >= this.#used;
    this.#used = Math.max(this.#used, column + 1);
    for (let row = 0; row < count; row++) {
      const at = row * stride + waitsAt + column;
      if (isNew && column % 4 === 0) bytes.fill(0, at, at + 4);
      bytes[at] = 1;
    }
  }

  /** Models whose next request comes so soon that a wake for it may begin: earlier ones gain nothing. */
  #look(): void {
    this.#soon = 0;
    for (const [model, own] of this.#arrivals.entries()) {
      let at = this.#pointers[model]!;
      while (at < own.length && own[at]! <= this.#now) at++;
      this.#pointers[model] = at;
      if (at < own.length && own[at]! - this.#now <= this.#grid.wakeSlots[model]!) this.#soon |= 1 << model;
    }
  }

  #step(): void {
    const { bytes, stride, count, models, waitsAt } = this.#states;
    this.#coming.clear();
    for (let row = 0; row < count; row++) {
      const at = row * stride;
      let open = 0;
      for (let column = 0; column < this.#used; column++)
        if (bytes[at + waitsAt + column]! > 0) open |= 1 << this.#columnModels[column]!;
      let ready = 0;
      let waking = 0;
      for (let model = 0; model < models; model++) {
        const hold = bytes[at + 1 + model]!;
        if (hold === 0) ready |= 1 << model;
        else if (hold !== out) waking |= 1 << model;
      }
      const wanted = ~(ready | waking) & (open | this.#soon);
      const pool = waking | (ready & open) | wanted;
      for (const action of this.#actionsOf(pool, ready & ~open)) this.#act(row, action, wanted);
    }
  }

  /** The largest sets of the pool that fit, and which idle ones fit beside each; a set goes unless more of the pool costs an idle one. */
  #actionsOf(pool: number, idle: number): Action[] {
    const key = pool * (1 << this.#grid.models) + idle;
    const known = this.#actions.get(key);
    if (known) return known;
    const { fits } = this.#grid;
    const beside = (active: number): number => {
      let kept = 0;
      for (let left = idle; left; left &= left - 1) {
        const one = left & -left;
        if (fits[active | one]) kept |= one;
      }
      return kept;
    };
    const isLargest = (active: number, kept: number): boolean => {
      for (let left = pool & ~active; left; left &= left - 1) {
        const more = active | (left & -left);
        if (fits[more] && beside(more) === kept) return false;
      }
      return true;
    };
    const actions: Action[] = [];
    for (let active = pool; ; active = (active - 1) & pool) {
      if (fits[active]) {
        const kept = beside(active);
        if (isLargest(active, kept)) actions.push({ active, idle: kept });
      }
      if (active === 0) break;
    }
    this.#actions.set(key, actions);
    return actions;
  }

  /** One state after one action and one slot. */
  #act(from: number, { active, idle }: Action, wanted: number): void {
    const { models, wakeSlots } = this.#grid;
    const coming = this.#coming;
    const at = coming.draft(this.#states, from, this.#end);
    const { bytes, waitsAt } = coming;
    for (let model = 0; model < models; model++) {
      const one = 1 << model;
      if (active & wanted & one) bytes[at + 1 + model] = wakeSlots[model]!;
      else if (!((active | idle) & one)) bytes[at + 1 + model] = out;
    }
    for (let column = 0; column < this.#used; column++) {
      if (bytes[at + waitsAt + column] !== 0) this.#serve(bytes, at, column);
    }
    for (let model = 0; model < models; model++) {
      const hold = bytes[at + 1 + model]!;
      if (hold !== 0 && hold !== out) bytes[at + 1 + model] = hold - 1;
    }
    coming.add(this.#end);
  }

  /** One request in one slot: served, waiting, or late as soon as it cannot be served in time any more. */
  #serve(bytes: Uint8Array, at: number, column: number): void {
    const { wakeSlots } = this.#grid;
    const byte = at + this.#states.waitsAt + column;
    const { from, need, spare, model } = this.#columns[column]!;
    const waited = bytes[byte]! - 1;
    const hold = bytes[at + 1 + model]!;
    if (hold === 0) {
      if (this.#now + 1 - from - waited >= need) bytes[byte] = 0;
      return;
    }
    const toServe = hold === out ? wakeSlots[model]! : hold - 1;
    if (waited + 1 + toServe > spare) {
      bytes[byte] = 0;
      if (bytes[at]! < byteMax) bytes[at]!++;
    } else bytes[byte]!++;
  }

  /** Late in common go to the sum; the hopeless become one that has all; the best stay. */
  #settle(): void {
    const coming = this.#coming;
    const { stride } = coming;
    const end = this.#end;
    const { levels } = this.#limits;
    const least = coming.least();
    let given = never;
    let kept = 0;
    this.#demand.look(this.#columns, this.#used, this.#now + 1);
    for (let row = 0; row < coming.count; row++) {
      const at = row * stride;
      const late = coming.bytes[at]! - least;
      if (late >= levels) {
        given = Math.min(given, late);
        continue;
      }
      if (late + 1 === levels) {
        if (this.#demand.isHopeless(coming, at)) {
          given = Math.min(given, levels);
          continue;
        }
        this.#demand.imply(coming, at);
      }
      coming.bytes.copyWithin(kept * stride, at, at + stride);
      coming.bytes[kept++ * stride] = late;
    }
    coming.count = kept;
    if (given !== never) {
      const at = coming.fresh();
      coming.bytes.fill(0, at, at + stride);
      coming.bytes[at] = given;
      coming.count++;
    }
    this.#proof.late += least;
    coming.best(this.#states, end);
    this.#proof.states = Math.max(this.#proof.states, this.#states.count);
    if (this.#states.count > this.#limits.statesMax) this.#merge(end);
  }

  /** Puts states together that hold the same and have waited alike, ever coarser until there are few enough. */
  #merge(end: number): void {
    this.#proof.merges++;
    for (let coarse = 1; coarse <= coarseMax && this.#states.count > this.#limits.statesMax / 2; coarse++) {
      this.#states.merge(this.#coming, end, coarse);
      this.#coming.best(this.#states, end);
    }
    if (this.#states.count > this.#limits.statesMax) this.#reset();
  }

  /** Nothing open, one state, nothing waking: on to the first wake that may begin. */
  #skip(): void {
    if (this.#open > 0 || this.#states.count !== 1) return;
    const { bytes, models } = this.#states;
    for (let model = 0; model < models; model++) {
      const hold = bytes[1 + model]!;
      if (hold !== 0 && hold !== out) return;
    }
    let first = never;
    for (const [model, own] of this.#arrivals.entries()) {
      const next = own[this.#pointers[model]!];
      if (next !== undefined) first = Math.min(first, next - this.#grid.wakeSlots[model]!);
    }
    if (first !== never) this.#now = Math.max(this.#now, first);
  }
}

/** @returns how many of the grid's requests no policy can serve in time, at least, and how far it looked */
export const proveLate = (grid: Grid, limits: ProofLimits): Proof => new Search(grid, limits).run();
