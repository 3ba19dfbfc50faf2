/** Sends one request to an HTTP server and its answer back to the client, byte for byte as it comes. */
import type { Dispatcher } from 'undici';
import { towardsClient } from '../decide/headers.ts';
import { refusalEvent } from '../decide/refusals.ts';
import type { Exchange } from '../exchange.ts';
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
  declines?: (status: number, headers: Record<string, string | string[] | undefined>) => boolean;
}

const declined = new Error('declined');
const cancelled = new Error('the client left');
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
class Relay implements Dispatcher.DispatchHandler {
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

  constructor(exchange: Exchange, target: RelayTarget, calls: RelayCalls) {
    this.#exchange = exchange;
    this.#target = target;
    this.#calls = calls;
  }

  /** The client left: the upstream connection is ended, which is how vLLM learns of it. */
  cancel(): void {
    this.#over = true;
    this.#controller?.abort(cancelled);
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller;
    if (this.#over) controller.abort(cancelled);
    else this.#calls.sent();
  }

  onRequestUpgrade(): void {}

  onResponseStart(controller: Dispatcher.DispatchController, status: number, headers: Headers) {
    if (this.#over || status < 200) return;
    if (!isFramed(status, headers)) return controller.abort(unframed);
    if (this.#target.declines?.(status, headers)) return controller.abort(declined);
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
    if (this.#over) return;
    if (this.#error) {
      this.#errorBytes += chunk.length;
      if (this.#errorBytes <= errorBytesMax) this.#error.push(Buffer.from(chunk));
      return;
    }
    const { res } = this.#exchange;
    this.#wrote = true;
    if (res.write(chunk)) return;
    controller.pause();
    res.once('drain', () => {
      if (!this.#over) controller.resume();
    });
  }

  onResponseEnd(): void {
    if (this.#over) return;
    this.#over = true;
    const { res, shape } = this.#exchange;
    if (this.#error) res.end(refusalEvent(oneLine(Buffer.concat(this.#error).toString('utf8')), shape));
    else res.end();
    this.#calls.finished(true);
  }

  onResponseError(_controller: unknown, error: Error): void {
    if (this.#over) return;
    this.#over = true;
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
