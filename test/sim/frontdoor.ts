/** The sidecar of one simulated pod: the real gate, with clients that come, wait, are served and leave. */
import type { State } from '#proto/link.ts';
import {
  demandOf,
  type Gate,
  type GateEffect,
  type GateEvent,
  newGate,
  nextTickMs,
  step,
} from '../../sidecar/decide/gate.ts';
import type { Appointment, Clock } from './clock.ts';
import type { SimEngine } from './engine.ts';

export type Outcome = 'served' | 'refused' | 'left' | 'engine-died' | 'handed-on' | 'sidecar-lost';

export interface Client {
  id: number;
  model: string;
  workMs: number;
  arrivedMs: number;
  outcome: Outcome | null;
  refusal: string;
  /** When it first went to an engine. */
  passedMs: number | null;
}

type Untimed<E> = E extends unknown ? Omit<E, 'atMs'> : never;

export interface Hall {
  clock: Clock;
  engine(): SimEngine | null;
  /** Something for the agent; dropped when nobody listens. */
  send(
    message: { demand: true } | { barrier: { epoch: number; inFlight: number } } | { ending: boolean },
  ): void;
  /** It goes to an engine for the first time. */
  passed?(client: Client): void;
  ended(client: Client, outcome: Outcome): void;
}

const limits = { maxQueued: 512, maxQueuedBytes: 64 * 2 ** 20, maxWaitMs: 600_000 };
/** A demand that changes nothing that matters is sent at most this often. */
const demandEveryMs = 250;

export class FrontDoor {
  gate: Gate;
  clients = new Map<number, Client>();
  #hall: Hall;
  #tick: Appointment | null = null;
  #tickMs: number | null = null;
  #saidMs = 0;
  #said = { inFlight: 0, queued: 0 };
  #sayLater: Appointment | null = null;

  constructor(hall: Hall) {
    this.#hall = hall;
    this.gate = newGate(limits, hall.clock.nowMs);
  }

  arrive(client: Client): void {
    this.clients.set(client.id, client);
    this.#step({ type: 'arrived', id: client.id, bytes: 1_000, hopped: false });
  }

  leave(id: number): void {
    const client = this.clients.get(id);
    if (!client) return;
    this.#hall.engine()?.drop(id);
    this.#end(client, 'left');
    this.#step({ type: 'left', id });
  }

  finished(id: number, outcome: Outcome): void {
    const client = this.clients.get(id);
    if (!client) return;
    this.#end(client, outcome);
    this.#step({ type: 'finished', id });
  }

  told(state: State): void {
    this.#step({ type: 'told', state });
  }

  barrier(epoch: number): void {
    this.#step({ type: 'barrier', epoch });
  }

  end(): void {
    this.#step({ type: 'end', settleMs: 0 });
  }

  link(up: boolean): void {
    this.#step({ type: 'link', up });
  }

  demand() {
    return demandOf(this.gate, this.#hall.clock.nowMs);
  }

  /** The process ends: whatever it held is lost with it. */
  lose(): void {
    this.#hall.clock.cancel(this.#tick);
    this.#hall.clock.cancel(this.#sayLater);
    for (const client of [...this.clients.values()]) {
      this.#hall.engine()?.drop(client.id);
      this.#end(client, 'sidecar-lost');
    }
  }

  #end(client: Client, outcome: Outcome): void {
    this.clients.delete(client.id);
    this.#hall.ended(client, outcome);
  }

  #step(event: Untimed<GateEvent>): void {
    const { clock } = this.#hall;
    for (const effect of step(this.gate, { ...event, atMs: clock.nowMs } as GateEvent)) this.#do(effect);
    this.#say();
    const next = nextTickMs(this.gate);
    if (next === this.#tickMs) return;
    clock.cancel(this.#tick);
    this.#tickMs = next;
    this.#tick =
      next === null
        ? null
        : clock.at(next, () => {
            this.#tickMs = null;
            this.#step({ type: 'tick' });
          });
  }

  #do(effect: GateEffect): void {
    const { clock } = this.#hall;
    switch (effect.do) {
      case 'pass':
        clock.after(0.2, () => this.#pass(effect.id));
        return;
      case 'refuse': {
        const client = this.clients.get(effect.id);
        if (client) client.refusal = effect.refusal.code;
        if (client) this.#end(client, 'refused');
        return;
      }
      case 'handOn':
        clock.after(20, () => this.finished(effect.id, 'handed-on'));
        return;
      case 'barrierUp':
        this.#hall.send({ barrier: { epoch: effect.epoch, inFlight: effect.inFlight } });
        return;
      case 'ending':
        this.#hall.send({ ending: effect.drained });
        return;
      case 'hold':
        return;
      default:
        effect satisfies never;
    }
  }

  #pass(id: number): void {
    const client = this.clients.get(id);
    if (!client) return;
    const engine = this.#hall.engine();
    if (!engine || engine.condition === 'dead' || engine.condition === 'booting') {
      this.#step({ type: 'unsent', id });
      return;
    }
    if (client.passedMs === null) {
      client.passedMs = this.#hall.clock.nowMs;
      this.#hall.passed?.(client);
    }
    engine.take(id, client.workMs);
    this.#step({ type: 'sent', id });
  }

  #say(): void {
    const { inFlight, queued } = this.demand();
    const matters = inFlight > 0 !== this.#said.inFlight > 0 || queued > 0 !== this.#said.queued > 0;
    const moved = inFlight !== this.#said.inFlight || queued !== this.#said.queued;
    const { clock } = this.#hall;
    if (matters) this.#sayNow();
    else if (moved) {
      this.#sayLater ??= clock.at(this.#saidMs + demandEveryMs, () => {
        this.#sayLater = null;
        this.#sayNow();
      });
    }
  }

  #sayNow(): void {
    const { inFlight, queued } = this.demand();
    this.#said = { inFlight, queued };
    this.#saidMs = this.#hall.clock.nowMs;
    this.#hall.send({ demand: true });
  }
}
