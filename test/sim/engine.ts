/**
 * One engine process of the simulated node: it holds memory on its GPUs, boots, sleeps, wakes and serves as vLLM does, and
 * fails as vLLM does. Memory is taken from the GPU's real bytes, never from anybody's books.
 */
import type { EngineState } from '../../agent/decide/arbiter/words.ts';
import type { Appointment, Clock } from './clock.ts';
import type { ModelPlan, OneShotFault } from './schedule.ts';

/** `paused`: a sleep was refused. It holds all its memory, runs nothing, and goes on by a wake. */
export type EngineCondition =
  | 'booting'
  | 'awake'
  | 'sleeping'
  | 'paused'
  | 'asleep'
  | 'waking'
  | 'stuck'
  | 'dead';

/** What the engine needs of its surroundings. */
export interface Ground {
  clock: Clock;
  /** Sets its bytes on all its GPUs; false: a GPU has not so much free. */
  hold(engine: SimEngine, bytes: number): boolean;
  /** It ended by itself. */
  died(engine: SimEngine, tail: string): void;
  ready(engine: SimEngine): void;
  finished(engine: SimEngine, request: number): void;
  /** It goes on, or its client has left: frozen since then. */
  thawed?(engine: SimEngine, request: number, sinceMs: number): void;
  note(text: string): void;
}

interface Running {
  leftMs: number;
  since: number;
  end: Appointment | null;
}

export interface Answer {
  ok: boolean;
  message: string;
}

/** Late growth stays within the head room that the arbiter keeps. */
const growthBytesMax = 240 * 2 ** 20;

const lostText = 'out of memory';
/** From the answer to a sleep until the driver has its memory back, at most. */
const givenBackLateMsMax = 1_000;
/** A wake of one that is paused moves no memory, ms. */
const resumeMs = 3;

export class SimEngine {
  readonly pod: string;
  readonly model: ModelPlan;
  condition: EngineCondition = 'booting';
  bytes = 0;
  /** Late growth on top of its awake bytes. */
  grownBytes = 0;
  leakedBytes = 0;
  /** It talks nonsense since a wake. */
  garbled = false;
  /** Something was injected: what is lost with it is not the arbiter's doing. */
  struck = false;
  running = new Map<number, Running>();
  faults: OneShotFault[];
  /** Which agent's life started the transition under way. */
  movedBy = -1;
  /** What the agent knew of strangers when it commanded the last start. */
  knownStrangers: number[] | null = null;
  /** What runs has stood still since then. */
  #frozenMs: number | null = null;
  #deathWatch: (() => void)[] = [];
  #ground: Ground;
  #move: Appointment | null = null;
  #askers: (() => void)[] = [];

  constructor(pod: string, model: ModelPlan, ground: Ground, faults: OneShotFault[]) {
    this.pod = pod;
    this.model = model;
    this.#ground = ground;
    this.faults = faults;
  }

  get awakeBytes(): number {
    return this.model.awakeBytes + this.grownBytes;
  }

  #takeFault(...kinds: OneShotFault[]): OneShotFault | null {
    const at = this.faults.findIndex((fault) => kinds.includes(fault));
    if (at === -1) return null;
    this.struck = true;
    return this.faults.splice(at, 1)[0]!;
  }

  /** Memory comes in two steps while it loads; then it answers /health. */
  boot(): void {
    const { clock } = this.#ground;
    const fault = this.#takeFault('boot-fails', 'boot-hangs');
    if (!this.#hold(this.awakeBytes / 2)) return;
    this.#move = clock.after(this.model.bootMs / 2, () => {
      if (!this.#hold(this.awakeBytes)) return;
      if (fault === 'boot-hangs') {
        this.condition = 'stuck';
        return;
      }
      this.#move = clock.after(this.model.bootMs / 2, () => {
        if (fault === 'boot-fails') this.die('RuntimeError: Engine core initialization failed');
        else {
          this.condition = 'awake';
          this.#ground.ready(this);
        }
      });
    });
  }

  #hold(bytes: number): boolean {
    if (this.#ground.hold(this, bytes)) return true;
    this.die(`torch.OutOfMemoryError: CUDA ${lostText}`);
    return false;
  }

  /** Its answer comes with the transition's end, as vLLM's core answers one thing at a time. */
  ask(answer: (state: EngineState) => void): void {
    const say = (): void => {
      const { condition } = this;
      answer(
        condition === 'awake' || condition === 'asleep' || condition === 'paused' ? condition : 'unreachable',
      );
    };
    if (this.condition === 'sleeping' || this.condition === 'waking') this.#askers.push(say);
    else say();
  }

  #settle(condition: EngineCondition): void {
    this.condition = condition;
    this.movedBy = -1;
    for (const say of this.#askers.splice(0)) say();
  }

  sleep(by: number, done: (answer: Answer) => void): void {
    const { clock } = this.#ground;
    const fault = this.#takeFault('sleep-keeps', 'sleep-fails', 'sleep-hangs');
    this.condition = 'sleeping';
    this.movedBy = by;
    this.#pause();
    this.#frozenMs = clock.nowMs;
    if (fault === 'sleep-hangs') {
      this.#move = clock.after(this.model.sleepMs, () => this.#settle('stuck'));
      return;
    }
    const lateMs = Math.min(givenBackLateMsMax, this.model.sleepMs * 0.1);
    this.#move = clock.after(this.model.sleepMs - lateMs, () => {
      if (fault === 'sleep-fails' || this.refuses) {
        this.#settle('paused');
        done({ ok: false, message: 'POST /sleep answered 500' });
        return;
      }
      const kept = fault === 'sleep-keeps' ? this.bytes * 0.7 : this.model.residueBytes + this.leakedBytes;
      // The answer comes a little before the driver has taken the memory back.
      this.#settle('asleep');
      done({ ok: true, message: '' });
      this.#move = clock.after(lateMs, () => this.#ground.hold(this, kept));
    });
  }

  /** Sleeps, now. */
  get refuses(): boolean {
    const { fromMs, toMs } = this.model.refusesSleep ?? { fromMs: 0, toMs: 0 };
    const { nowMs } = this.#ground.clock;
    return nowMs >= fromMs && nowMs < toMs;
  }

  /** Nothing was given back: it goes on as it is. */
  #goOn(done: (answer: Answer) => void): void {
    const { clock } = this.#ground;
    const fails = this.#takeFault('wake-fails') !== null;
    clock.cancel(this.#move);
    this.#move = clock.after(resumeMs, () => {
      if (!fails) {
        this.#settle('awake');
        this.#resume();
      }
      done({ ok: !fails, message: fails ? 'POST /wake_up answered 500' : '' });
    });
  }

  wake(by: number, done: (answer: Answer) => void): void {
    if (this.condition === 'paused') {
      this.#goOn(done);
      return;
    }
    const { clock } = this.#ground;
    const fault = this.#takeFault('wake-fails', 'wake-leaks', 'wake-hangs', 'wake-garbles');
    clock.cancel(this.#move);
    this.condition = 'waking';
    this.movedBy = by;
    const fail = (message: string): void => {
      this.#settle('asleep');
      done({ ok: false, message });
    };
    const before = this.bytes;
    this.#move = clock.after(this.model.wakeMs * 0.1, () => {
      if (!this.#ground.hold(this, this.awakeBytes)) return fail(lostText);
      if (fault === 'wake-hangs') {
        this.#settle('stuck');
        return;
      }
      this.#move = clock.after(this.model.wakeMs * 0.9, () => {
        if (fault === 'wake-garbles') this.garbled = true;
        else if (fault !== null) {
          this.leakedBytes = fault === 'wake-leaks' ? (this.awakeBytes - before) * 0.6 : 0;
          this.#ground.hold(this, before + this.leakedBytes);
          fail('POST /wake_up answered 500');
          return;
        }
        this.#settle('awake');
        this.#resume();
        done({ ok: true, message: '' });
      });
    });
  }

  /** A request, accepted also while it sleeps, as vLLM does. */
  take(request: number, workMs: number): void {
    this.running.set(request, { leftMs: workMs, since: this.#ground.clock.nowMs, end: null });
    if (this.condition === 'awake') this.#resumeOne(request);
  }

  drop(request: number): void {
    if (this.#frozenMs !== null && this.running.has(request))
      this.#ground.thawed?.(this, request, this.#frozenMs);
    this.#ground.clock.cancel(this.running.get(request)?.end ?? null);
    this.running.delete(request);
  }

  #resumeOne(request: number): void {
    const run = this.running.get(request)!;
    run.since = this.#ground.clock.nowMs;
    run.end = this.#ground.clock.after(run.leftMs, () => {
      this.running.delete(request);
      this.#ground.finished(this, request);
    });
  }

  #resume(): void {
    for (const request of this.running.keys()) {
      if (this.#frozenMs !== null) this.#ground.thawed?.(this, request, this.#frozenMs);
      this.#resumeOne(request);
    }
    this.#frozenMs = null;
  }

  #pause(): void {
    const { clock } = this.#ground;
    for (const run of this.running.values()) {
      if (!run.end) continue;
      clock.cancel(run.end);
      run.end = null;
      run.leftMs = Math.max(0, run.leftMs - (clock.nowMs - run.since));
    }
  }

  /** It takes a little more while awake. */
  grow(bytes: number): void {
    if (this.condition !== 'awake' || this.grownBytes + bytes > growthBytesMax) return;
    if (this.#ground.hold(this, this.bytes + bytes)) this.grownBytes += bytes;
    else this.die(`torch.OutOfMemoryError: CUDA ${lostText}`);
  }

  /** Its open HTTP calls end with it. */
  onDeath(run: () => void): void {
    this.#deathWatch = [run];
  }

  /** @param tail its last words; empty: it was told to end */
  die(tail: string): void {
    if (this.condition === 'dead') return;
    if (tail !== '') this.struck = true;
    this.#ground.clock.cancel(this.#move);
    this.#pause();
    this.#settle('dead');
    this.#ground.died(this, tail);
    for (const run of this.#deathWatch.splice(0)) run();
  }
}
