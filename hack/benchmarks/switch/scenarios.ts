/** What two models on one slot are put through; every scenario starts with its first model asleep or freshly woken. */
import { setTimeout as delay } from 'node:timers/promises';
import type { StreamClients, Streamed } from '../../clients/chat-stream.ts';
import { type ModelName, models, type Slot, switchFloorMs, tokensFor } from './slot.ts';

const callMs = 200;
const calls = 20;
const clients = 4;
const idleSwitches = 6;
/** Between two scenarios, and before an idle switch: long enough for everybody to notice that nobody asks. */
const quietMs = 500;
const streamMs = 10_000;
const steadyMs = 15_000;
/** The waiter comes so long after the other model's first token. */
const waiterAfterMs = 1_000;
/** A call to the model that streams, so long after the waiter. */
const lateAfterMs = 500;

/** What must hold whatever the machine does. */
export interface Kept {
  answers: number;
  whole: number;
  faults: string[];
}

export interface Waited {
  /** To the first token, ms. */
  waitMs: number;
  /** The longest that is promised, ms; null: nothing is. */
  boundMs: number | null;
}

export interface AlternatingResult {
  totalMs: number;
  switches: number;
  waitsMs: number[];
}
export interface BehindStreamResult extends Waited {
  streamEndMs: number;
  lateMs: number;
}
export interface SteadyResult extends Waited {
  /** Answers of the steady load. */
  served: number;
}

export interface Round {
  alternating: AlternatingResult;
  /** First token of each call to the model that sleeps while nobody asks the other, ms. */
  idleMs: number[];
  behindStream: BehindStreamResult;
  steady: SteadyResult;
  kept: Kept;
}

/** A slot's clients for one round, with a book of what came back. */
class Visit {
  readonly kept: Kept = { answers: 0, whole: 0, faults: [] };
  readonly #slot: Slot;
  readonly #clients: StreamClients;

  constructor(slot: Slot, streams: StreamClients) {
    this.#slot = slot;
    this.#clients = streams;
  }

  send(model: ModelName, ms = callMs): { answer: Promise<Streamed>; first: Promise<void> } {
    const { answer, first } = this.#clients.send({
      url: this.#slot.url(model),
      model: `org/${model}`,
      tokens: tokensFor(ms),
    });
    return { first, answer: answer.then((each) => this.#count(model, each)) };
  }

  ask = (model: ModelName, ms?: number): Promise<Streamed> => this.send(model, ms).answer;

  #count(model: ModelName, answer: Streamed): Streamed {
    this.kept.answers++;
    if (answer.whole) this.kept.whole++;
    else this.kept.faults.push(`${this.#slot.name}: ${model}: ${answer.status} ${answer.fault}`);
    return answer;
  }

  /** Only this model is awake, nobody asks, and its turn began now. */
  async wake(model: ModelName): Promise<void> {
    await this.ask(model === 'a' ? 'b' : 'a');
    await delay(quietMs);
    await this.ask(model);
    await delay(quietMs);
  }
}

const firstMs = ({ firstMs: first, endMs }: Streamed): number => first ?? endMs;

/** A B A B … from clients that take the next call as soon as theirs is answered. */
async function alternating(slot: Slot, visit: Visit): Promise<AlternatingResult> {
  await visit.wake('a');
  const before = slot.served().length;
  const began = performance.now();
  const waitsMs: number[] = [];
  let next = 0;
  const client = async (): Promise<void> => {
    while (next < calls) waitsMs.push(firstMs(await visit.ask(models[next++ % 2]!)));
  };
  await Promise.all(Array.from({ length: clients }, client));
  const totalMs = performance.now() - began;
  // The turn of the call before is the last one of `before`: A goes on with it.
  return { totalMs, switches: slot.served().length - before, waitsMs };
}

async function idleSwitching(visit: Visit): Promise<number[]> {
  await visit.wake('a');
  const found: number[] = [];
  for (let n = 0; n < idleSwitches; n++) {
    found.push(firstMs(await visit.ask(n % 2 === 0 ? 'b' : 'a')));
    await delay(quietMs);
  }
  return found;
}

/** max(maxWaitTime, rest of the turn) + drainTimeout + one switch. */
function boundMs({ bounds }: Slot, intoTurnMs: number, switchMs: number): number | null {
  if (!bounds) return null;
  const turnMs = Math.max(bounds.minRuntimeMs, 4 * switchMs);
  return Math.max(bounds.maxWaitTimeMs, turnMs - intoTurnMs) + bounds.drainTimeoutMs + switchMs;
}

/** B is asleep and A's turn begins with a stream; a second later somebody asks B, then somebody A. */
async function behindStream(slot: Slot, visit: Visit, switchMs: number): Promise<BehindStreamResult> {
  await visit.wake('b');
  const stream = visit.send('a', streamMs);
  await stream.first;
  await delay(waiterAfterMs);
  const waiter = visit.ask('b');
  await delay(lateAfterMs);
  const late = visit.ask('a');
  const waitMs = firstMs(await waiter);
  const lateMs = firstMs(await late);
  const streamEndMs = (await stream.answer).endMs;
  await delay(quietMs);
  return { waitMs, boundMs: boundMs(slot, waiterAfterMs, switchMs), streamEndMs, lateMs };
}

/** The same under clients that ask A all the time. */
async function underSteadyLoad(slot: Slot, visit: Visit, switchMs: number): Promise<SteadyResult> {
  await visit.wake('b');
  let served = 0;
  const first = visit.send('a');
  await first.first;
  const endAt = performance.now() + steadyMs;
  const client = async (): Promise<void> => {
    while (performance.now() < endAt) {
      await visit.ask('a');
      served++;
    }
  };
  const load = Array.from({ length: clients }, client);
  await delay(waiterAfterMs);
  const waitMs = firstMs(await visit.ask('b'));
  await Promise.all([...load, first.answer]);
  await delay(quietMs);
  return { waitMs, boundMs: boundMs(slot, waiterAfterMs, switchMs), served };
}

/** All four, one after the other. */
export async function visitSlot(slot: Slot, streams: StreamClients): Promise<Round> {
  const visit = new Visit(slot, streams);
  const idleMs = await idleSwitching(visit);
  const switchMs = Math.max(switchFloorMs, ...idleMs);
  return {
    alternating: await alternating(slot, visit),
    idleMs,
    behindStream: await behindStream(slot, visit, switchMs),
    steady: await underSteadyLoad(slot, visit, switchMs),
    kept: visit.kept,
  };
}
