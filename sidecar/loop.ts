/** The sidecar's loop: takes events one at a time, steps the gate, carries out the effects. */

import type { Log } from '#platform/log.ts';
import { type Demand, type FromAgent, type Hello, linkProtocol } from '#proto/link.ts';
import { parseSettings, type Settings } from '#proto/settings.ts';
import type { Engine } from './act/forward.ts';
import { forward } from './act/forward.ts';
import type { Sibling } from './act/hand-on.ts';
import { HoldBack } from './act/hold-back.ts';
import { keepAlive } from './act/keep-alive.ts';
import { part } from './act/part.ts';
import type { RelayCalls } from './act/relay.ts';
import { refuse, refuseSocket, respondOptions } from './act/respond.ts';
import { type BodyRoom, bodyRoom } from './decide/body-room.ts';
import { demandDueMs } from './decide/demand.ts';
import type { Environment } from './decide/environment.ts';
import {
  demandOf,
  type Gate,
  type GateEffect,
  type GateEvent,
  newGate,
  nextTickMs,
  queuedCount,
  step,
} from './decide/gate.ts';
import type { Refusal } from './decide/refusals.ts';
import type { Exchange } from './exchange.ts';
import { clientLeftStatus, createMetrics, type Metrics } from './metrics.ts';
import type { HttpEvent } from './observe/http.ts';
import type { Link, LinkEvent } from './observe/link.ts';
import { createPages, type Pages } from './pages.ts';

export interface LoopParts {
  environment: Environment;
  engine: Engine;
  sibling: Sibling;
  log: Log;
  /** Milliseconds of a clock that never jumps. */
  now: () => number;
  keepKeys: boolean;
}

/** A request between its arrival and its end. */
interface Running {
  exchange: Exchange;
  /** Ends what carries it now: the engine's or the sibling's connection. */
  cancel: (() => void) | null;
  stopComments: (() => void) | null;
}

/**
 * A pod that ends goes on taking connections for so long, and hands them on: its address leaves EndpointSlices at once, but
 * kube-proxy and ingress controllers follow seconds later (Kubernetes, "Pod lifecycle: pod termination flow").
 */
const endpointsSettleMsMax = 5_000;
/** Of a short grace at most this part goes into waiting for that. */
const settlePartOfGrace = 0.25;

/** Pause before a Demand that could not be sent is tried again; a new stream's Hello says it sooner. */
const sayAgainMs = 250;

const limitsOf = ({ frontDoor: { maxQueued, maxQueuedBytes, maxWaitMs } }: Settings) => ({
  maxQueued,
  maxQueuedBytes,
  maxWaitMs,
});

export class Loop {
  readonly #parts: LoopParts;
  readonly #gate: Gate;
  readonly #metrics: Metrics;
  readonly #pages: Pages;
  /** All that have begun, those whose body is still coming in too. */
  readonly #open = new Set<Exchange>();
  readonly #running = new Map<number, Running>();
  readonly #events: GateEvent[] = [];
  #stepping = false;
  #settings: Settings;
  #settingsText: string;
  readonly #holdBack = new HoldBack();
  /** What the agent had us keep. */
  #canary = '';
  #link: Link | null = null;
  #said: { demand: Demand; atMs: number };
  #timer: NodeJS.Timeout | undefined;
  #timerAtMs = Number.POSITIVE_INFINITY;
  /** When the kubelet kills, as the agent told with End, or as the environment says; null: the pod is not ending. */
  #killAtMs: number | null = null;
  /** The last word was said to all. */
  #cut = false;
  #onDrained: () => void = () => {};

  constructor(parts: LoopParts) {
    const { environment, now } = parts;
    this.#parts = parts;
    this.#settings = environment.settings;
    this.#settingsText = environment.settingsText;
    this.#gate = newGate(limitsOf(this.#settings), now());
    this.#metrics = createMetrics({ gate: this.#gate, gpuUuids: environment.own.gpuUuids, now });
    this.#pages = createPages({ environment, gate: this.#gate, metrics: this.#metrics, now });
    this.#said = { demand: demandOf(this.#gate, now()), atMs: now() };
  }

  settings = (): Settings => this.#settings;
  bodyRoom = (): BodyRoom => bodyRoom(this.#gate, this.#settings.frontDoor.maxBodyBytes);
  attach(link: Link) {
    this.#link = link;
  }

  /** The facts that hold now, for a new stream to the agent. */
  hello = (): Hello => {
    const { own } = this.#parts.environment;
    const { told } = this.#gate;
    return {
      protocol: linkProtocol,
      release: own.release,
      podUid: own.podUid,
      pod: own.pod,
      namespace: own.namespace,
      model: own.model,
      replica: own.replica,
      gpuUuids: own.gpuUuids,
      settings: this.#settingsText,
      state: told.state,
      epoch: told.epoch,
      bootReady: told.bootReady,
      demand: demandOf(this.#gate, this.#parts.now()),
      canary: this.#canary,
    };
  };

  onHttp = (event: HttpEvent) => {
    switch (event.type) {
      case 'began':
        this.#open.add(event.exchange);
        return;
      case 'arrived':
        return this.#arrive(event.exchange);
      case 'page':
        return this.#pages.answer(event.exchange, event.page, event.id);
      case 'options':
        return respondOptions(event.exchange, event.allow, this.#settings.frontDoor.corsOrigins);
      case 'refused':
        return refuse(event.exchange, event.refusal);
      case 'closed':
        return this.#close(event.exchange, event.complete);
      case 'broken':
        return refuseSocket(event.socket, event.code, event.exchange);
      default:
        event satisfies never;
    }
  };

  onLink = (event: LinkEvent) => {
    const atMs = this.#parts.now();
    if (event.type === 'message') return this.#hear(event.message, atMs);
    this.#parts.log.info(event.up ? 'the agent answers' : 'the agent is gone', { reason: event.reason });
    if (!event.up) this.#holdBack.unlinked(this.#gate.told);
    this.#step({ type: 'link', up: event.up, atMs });
    if (event.up) this.#repeat();
  };

  /** The pod is being ended: nothing new goes to the engine, and clients are told to connect anew next time. */
  end(): void {
    this.#killAtMs ??= this.#parts.now() + this.#parts.environment.graceMs;
    const graceMs = this.#killAtMs - this.#parts.now();
    for (const { exchange } of this.#running.values()) exchange.res.shouldKeepAlive = false;
    this.#step({
      type: 'end',
      settleMs: Math.min(endpointsSettleMsMax, graceMs * settlePartOfGrace),
      atMs: this.#parts.now(),
    });
  }

  /** Milliseconds left until the kubelet kills; null: the pod is not ending. */
  graceLeftMs(): number | null {
    return this.#killAtMs === null ? null : this.#killAtMs - this.#parts.now();
  }

  /** Calls back once nothing of any client is left here; at once if that is so. */
  whenDrained(callback: () => void): void {
    this.#onDrained = callback;
    this.#tellDrained();
  }

  /**
   * Ends all that is still here, at the end of the grace: what has begun is cut, everyone else is told.
   * @returns once the sockets may be closed
   */
  async cutAll(): Promise<void> {
    this.#cut = true;
    for (const running of this.#running.values()) {
      running.stopComments?.();
      running.cancel?.();
    }
    this.#running.clear();
    await part([...this.#open]);
    clearTimeout(this.#timer);
  }

  #tellDrained(): void {
    if (this.#gate.ending?.drained && this.#running.size === 0) this.#onDrained();
  }

  #arrive(exchange: Exchange): void {
    if (exchange.res.destroyed || exchange.res.writableEnded) return;
    if (this.#cut) {
      refuse(exchange, { code: 'pod_ending' });
      return;
    }
    if (this.#gate.ending) exchange.res.shouldKeepAlive = false;
    this.#running.set(exchange.id, { exchange, cancel: null, stopComments: null });
    this.#step({
      type: 'arrived',
      id: exchange.id,
      bytes: exchange.body!.length,
      hopped: exchange.hopped,
      atMs: this.#parts.now(),
    });
  }

  #close(exchange: Exchange, complete: boolean): void {
    this.#open.delete(exchange);
    if (exchange.inference) {
      const began = complete || exchange.res.headersSent;
      this.#metrics.answered(began ? exchange.res.statusCode : clientLeftStatus);
    }
    const running = this.#running.get(exchange.id);
    if (!running) return;
    this.#running.delete(exchange.id);
    running.stopComments?.();
    running.cancel?.();
    exchange.body = null;
    this.#step({ type: 'left', id: exchange.id, atMs: this.#parts.now() });
    this.#tellDrained();
  }

  #hear(message: FromAgent, atMs: number): void {
    const { log } = this.#parts;
    if (message.welcome) {
      const { protocol, release, holdsBack = false } = message.welcome;
      this.#holdBack.ask(holdsBack, this.#gate.told);
      if (protocol !== linkProtocol) log.warn('the agent speaks another protocol', { protocol, release });
    } else if (message.state) {
      this.#step({ type: 'told', state: message.state, atMs });
      this.#pages.told();
    } else if (message.barrier) this.#step({ type: 'barrier', epoch: message.barrier.epoch, atMs });
    else if (message.keep) this.#canary = message.keep.canary;
    else if (message.settings) this.#apply(message.settings.settings, atMs);
    else if (message.end) {
      log.info('the pod is being ended', { graceMs: message.end.graceMs });
      if (message.end.graceMs > 0) this.#killAtMs = atMs + message.end.graceMs;
      this.end();
    }
  }

  #apply(text: string, atMs: number): void {
    const settings = parseSettings(text);
    if (!settings) {
      this.#parts.log.warn('the agent sent settings that are no JSON object: those before stay in force');
      return;
    }
    this.#settings = settings;
    this.#settingsText = text;
    this.#step({ type: 'limits', limits: limitsOf(settings), atMs });
  }

  /** What a new stream may have missed: a barrier's figure, an end. */
  #repeat(): void {
    const { told, inFlight, ending } = this.#gate;
    if (told.state === 'DEACTIVATING') {
      this.#link?.send({ barrierUp: { epoch: told.epoch, inFlight: inFlight.size } });
    }
    if (ending) this.#link?.send({ ending: { drained: ending.drained } });
  }

  /** Events that effects cause wait until those before are carried out. */
  #step(event: GateEvent): void {
    this.#events.push(event);
    if (this.#stepping) return;
    this.#stepping = true;
    try {
      for (let next = this.#events.shift(); next; next = this.#events.shift()) {
        const before = this.#gate.told;
        const effects = step(this.#gate, next);
        if (this.#gate.told !== before) this.#noteState(before, next.atMs);
        for (const effect of effects) this.#carryOut(effect);
      }
    } finally {
      this.#stepping = false;
    }
    this.#tellDemand();
  }

  #noteState(before: Gate['told'], atMs: number): void {
    const { told, inFlight } = this.#gate;
    this.#holdBack.told(told);
    this.#metrics.told(before, told, atMs, inFlight.size);
    if (told.state === 'DEACTIVATING') this.#metrics.barrier(atMs);
    if (told.state === before.state) return;
    const { epoch, state, reason } = told;
    this.#parts.log.info('state', { epoch, from: before.state, to: state, reason });
  }

  #carryOut(effect: GateEffect) {
    switch (effect.do) {
      case 'pass':
        return this.#pass(effect);
      case 'hold':
        return this.#hold(effect.id);
      case 'refuse':
        return this.#refuse(effect.id, effect.refusal, effect.queueMs);
      case 'handOn':
        return this.#handOn(effect.id, effect.queueMs);
      case 'barrierUp':
        this.#link?.send({ barrierUp: { epoch: effect.epoch, inFlight: effect.inFlight } });
        return;
      case 'ending':
        this.#link?.send({ ending: { drained: effect.drained } });
        if (effect.drained) this.#tellDrained();
        return;
      default:
        effect satisfies never;
    }
  }

  #hold(id: number): void {
    const running = this.#running.get(id);
    if (!running) return;
    this.#metrics.held(queuedCount(this.#gate) > 1);
    const afterMs = this.#settings.frontDoor.sseKeepAliveAfterMs;
    if (afterMs > 0 && running.exchange.stream && running.stopComments === null) {
      running.stopComments = keepAlive(running.exchange, afterMs);
    }
  }

  #pass({ id, queueMs, wakeMs }: { id: number; queueMs: number; wakeMs: number }): void {
    const running = this.#running.get(id);
    if (!running) return;
    const { exchange } = running;
    exchange.queueMs = queueMs;
    exchange.wakeMs = wakeMs;
    this.#stopComments(running);
    const { engine, keepKeys } = this.#parts;
    const side = { engine, keepKeys, holdBack: this.#holdBack };
    running.cancel = forward(exchange, side, this.#calls(running, 'engine'));
  }

  #handOn(id: number, queueMs: number): void {
    const running = this.#running.get(id);
    if (!running) return;
    running.exchange.queueMs = queueMs;
    this.#stopComments(running);
    running.cancel = this.#parts.sibling.handOn(
      running.exchange,
      this.#calls(running, 'sibling'),
      () => this.graceLeftMs() ?? 0,
    );
  }

  #stopComments(running: Running): void {
    running.stopComments?.();
    running.stopComments = null;
  }

  /** What becomes of a request that was sent on. */
  #calls(running: Running, to: 'engine' | 'sibling'): RelayCalls {
    const { exchange } = running;
    const { id } = exchange;
    const now = this.#parts.now;
    return {
      sent: () => {
        if (!exchange.mayRetry && to === 'engine') exchange.body = null;
        if (this.#gate.away) this.#step({ type: 'sent', id, atMs: now() });
      },
      finished: (complete) => {
        running.cancel = null;
        this.#step({ type: complete || to === 'sibling' ? 'finished' : 'cut', id, atMs: now() });
      },
      failed: (how, error) => {
        running.cancel = null;
        // One line when the engine goes away, not one for each request that finds it gone.
        if (how !== 'unsent' || !this.#gate.away)
          this.#parts.log.warn(`the ${to} did not answer`, {
            requestId: exchange.requestId,
            how,
            error: error.message,
          });
        if (to === 'engine' && how === 'unsent') return this.#step({ type: 'unsent', id, atMs: now() });
        if (to === 'engine' && how === 'died' && exchange.mayRetry) {
          exchange.mayRetry = false;
          return this.#step({ type: 'unsent', id, atMs: now() });
        }
        const code = to === 'sibling' ? 'pod_ending' : how === 'bad' ? 'engine_bad_response' : 'engine_died';
        refuse(exchange, { code });
        this.#step({ type: code === 'engine_died' ? 'cut' : 'finished', id, atMs: now() });
      },
    };
  }

  #refuse(id: number, refusal: Refusal, queueMs: number): void {
    const running = this.#running.get(id);
    if (!running) return;
    this.#stopComments(running);
    running.exchange.queueMs = queueMs;
    refuse(running.exchange, refusal);
  }

  /** Says Demand if it is due, and sets the one timer for what is due later. */
  #tellDemand(): void {
    const atMs = this.#parts.now();
    const demand = demandOf(this.#gate, atMs);
    let dueMs = demandDueMs(this.#said, demand, atMs);
    if (dueMs !== null && dueMs <= atMs) {
      const sent = this.#link?.send({ demand }) ?? false;
      if (sent) this.#said = { demand, atMs };
      dueMs = sent ? null : atMs + sayAgainMs;
    }
    this.#setTimer(
      Math.min(dueMs ?? Number.POSITIVE_INFINITY, nextTickMs(this.#gate) ?? Number.POSITIVE_INFINITY),
      atMs,
    );
  }

  /** A timer that is set earlier than needed only finds nothing to do: it is not set anew for each request. */
  #setTimer(dueMs: number, atMs: number): void {
    if (dueMs >= this.#timerAtMs || this.#cut) return;
    clearTimeout(this.#timer);
    this.#timerAtMs = dueMs;
    this.#timer = setTimeout(
      () => {
        this.#timerAtMs = Number.POSITIVE_INFINITY;
        this.#step({ type: 'tick', atMs: this.#parts.now() });
      },
      Math.max(1, Math.ceil(dueMs - atMs)),
    );
  }
}
