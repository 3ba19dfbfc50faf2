/** Sends one request to an HTTP server and its answer back to the client, byte for byte as it comes. */
import type { Dispatcher } from 'undici';
import { towardsClient } from '../decide/headers.ts';
import { refusalEvent } from '../decide/refusals.ts';
import type { Exchange } from '../exchange.ts';
import type { Held, HoldBack } from './hold-back.ts';
import { cut } from './part.ts';
import { commonHeaders } from './respond.ts';

/** Of an error answer that must be told as an event of a stream already begun, bytes. */
const errorBytesMax = 64 * 1024;

/** How a relay ended without an answer, nothing of it having reached the client. */
export type Failure =
  /** No connection: the request was never seen. */
  | 'unsent'
  /** The connection ended after the request was sent. */
  | 'died'
  /** What came back is no complete HTTP response. */
  | 'bad'
  /** An answer that `declines` asked us not to pass on. */
  | 'declined';

export interface RelayCalls {
  /** A connection took the request. */
  sent(): void;
  /** The answer is out whole; or it was cut, and so was the client's connection. */
  finished(complete: boolean): void;
  failed(how: Failure, error: Error): void;
}

export interface RelayTarget {
  dispatcher: Dispatcher;
  headers: string[];
  /** The exchange's; an iterable where its length is among `headers`. */
  body: Buffer | Iterable<Buffer> | null;
  /** Where answers may have to wait. */
  holdBack?: HoldBack;
  declines?: (status: number, headers: Record<string, string | string[] | undefined>) => boolean;
}

const declined = new Error('declined');
const cancelled = new Error('the client left');
const nonsense = new Error('what came after the wake was held back, and the engine is restarted');
const unframed = new Error(
  'the answer says neither its length nor that it is chunked: its end could not be told from a cut',
);

type Headers = Record<string, string | string[] | undefined>;

const isFramed = (status: number, headers: Headers): boolean =>
  status === 204 ||
  status === 304 ||
  headers['content-length'] !== undefined ||
  String(headers['transfer-encoding'] ?? '')
    .toLowerCase()
    .includes('chunked');

/** One relay; undici calls the on… methods. */
class Relay implements Dispatcher.DispatchHandler, Held {
  readonly #exchange: Exchange;
  readonly #target: RelayTarget;
  readonly #calls: RelayCalls;
  #controller: Dispatcher.DispatchController | null = null;
  #over = false;
  #started = false;
  #wrote = false;
  /** The error answer that becomes an event, where the stream has begun. */
  #error: Buffer[] | null = null;
  #errorBytes = 0;
  /** What is held back, in order; nothing more is read meanwhile. */
  #kept: (() => void)[] = [];
  #waitsForDrain = false;

  constructor(exchange: Exchange, target: RelayTarget, calls: RelayCalls) {
    this.#exchange = exchange;
    this.#target = target;
    this.#calls = calls;
  }

  /** The client left: the upstream connection is ended, which is how vLLM learns of it. */
  cancel(): void {
    this.#over = true;
    this.#forgetKept();
    this.#controller?.abort(cancelled);
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller;
    if (this.#over) controller.abort(cancelled);
    else this.#calls.sent();
  }

  onRequestUpgrade(): void {}

  letGo(): void {
    // What comes in by this is behind what was kept.
    for (let run = this.#kept.shift(); run && !this.#over; run = this.#kept.shift()) run();
    if (!this.#over && !this.#waitsForDrain) this.#controller?.resume();
  }

  drop(): void {
    if (this.#over) return;
    this.#controller?.abort(nonsense);
    // undici tells of an abort itself, unless the answer was whole.
    this.onResponseError(null, nonsense);
  }

  /** Now, or once what the engine says is let go. @param controller paused meanwhile; null: nothing more will come */
  #inTurn(controller: Dispatcher.DispatchController | null, run: () => void): void {
    const { holdBack } = this.#target;
    if (this.#over) return;
    if (!holdBack?.on && this.#kept.length === 0) {
      run();
      return;
    }
    controller?.pause();
    this.#kept.push(run);
    if (this.#kept.length === 1) holdBack?.keep(this);
  }

  #forgetKept(): void {
    this.#kept = [];
    this.#target.holdBack?.forget(this);
  }

  onResponseStart(controller: Dispatcher.DispatchController, status: number, headers: Headers) {
    if (status < 200) return;
    this.#inTurn(controller, () => this.#begin(controller, status, headers));
  }

  #faultOf(status: number, headers: Headers): Error | null {
    if (!isFramed(status, headers)) return unframed;
    return this.#target.declines?.(status, headers) ? declined : null;
  }

  #begin(controller: Dispatcher.DispatchController, status: number, headers: Headers): void {
    const fault = this.#faultOf(status, headers);
    if (fault) {
      controller.abort(fault);
      return;
    }
    const { res } = this.#exchange;
    this.#started = true;
    this.#exchange.answered = true;
    if (res.headersSent) {
      const isStream = String(headers['content-type'] ?? '').startsWith('text/event-stream');
      if (status !== 200 || !isStream) this.#error = [];
      return;
    }
    res.writeHead(status, commonHeaders(this.#exchange).concat(towardsClient(headers)));
    // Bytes that came with the headers go out with them; otherwise the client hears of the stream now.
    process.nextTick(() => {
      if (!this.#over && !this.#wrote) res.flushHeaders();
    });
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    // A copy where it waits: undici reads on into what lies behind it.
    const { holdBack } = this.#target;
    const bytes = holdBack?.on ? Buffer.from(chunk) : chunk;
    this.#inTurn(controller, () => this.#pass(controller, bytes));
  }

  #pass(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    if (this.#error) {
      this.#errorBytes += chunk.length;
      if (this.#errorBytes <= errorBytesMax) this.#error.push(Buffer.from(chunk));
      return;
    }
    const { res } = this.#exchange;
    this.#wrote = true;
    if (res.write(chunk)) return;
    controller.pause();
    this.#waitsForDrain = true;
    res.once('drain', () => {
      this.#waitsForDrain = false;
      if (!this.#over && this.#kept.length === 0) controller.resume();
    });
  }

  onResponseEnd(): void {
    this.#inTurn(null, () => this.#end());
  }

  #end(): void {
    this.#over = true;
    const { res, shape } = this.#exchange;
    if (this.#error) res.end(refusalEvent(oneLine(Buffer.concat(this.#error).toString('utf8')), shape));
    else res.end();
    this.#calls.finished(true);
  }

  onResponseError(_controller: unknown, error: Error): void {
    if (this.#over) return;
    this.#over = true;
    this.#forgetKept();
    if (this.#started) {
      cut(this.#exchange);
      this.#calls.finished(false);
    } else this.#calls.failed(this.#failure(error), error);
  }

  #failure(error: Error): Failure {
    if (error === declined) return 'declined';
    // undici refuses to write what it holds for no HTTP: trying again would not help.
    if ('code' in error && error.code === 'UND_ERR_INVALID_ARG') return 'bad';
    if (this.#controller === null) return 'unsent';
    return error === unframed || error.name === 'HTTPParserError' ? 'bad' : 'died';
  }
}

/** JSON as one line of an event; what is not JSON becomes a JSON text. */
function oneLine(text: string): string {
  try {
    return JSON.stringify(JSON.parse(text));
  } catch {
    return JSON.stringify({ error: { message: text, type: 'server_error', param: null, code: null } });
  }
}

/** @returns cancels it: the upstream connection is ended and nothing is called any more */
export function relay(exchange: Exchange, target: RelayTarget, calls: RelayCalls): () => void {
  const handler = new Relay(exchange, target, calls);
  target.dispatcher.dispatch(
    {
      method: 'POST',
      path: exchange.path + exchange.query,
      headers: target.headers,
      // undici takes iterables too; its types do not say so.
      body: target.body as Buffer | null,
    },
    handler,
  );
  return () => handler.cancel();
}
