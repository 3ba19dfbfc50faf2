/** To the engine, over its Unix socket. */
import Pool from 'undici/lib/dispatcher/pool.js';
import { towardsEngine } from '../decide/headers.ts';
import type { Exchange } from '../exchange.ts';
import type { HoldBack } from './hold-back.ts';
import { type RelayCalls, relay } from './relay.ts';

/** More than requests can be in flight; the queue is ours, not undici's. */
const connectionsMax = 65_536;
/** uvicorn closes idle connections after 5 s: ours are closed before, so that none is written into while it closes. */
const keepAliveMs = 2_000;
const connectTimeoutMs = 5_000;

/** Smaller bodies cost less memory than the second write that a stream takes, bytes. */
const streamedBytesMin = 64 * 1024;

export type Engine = Pool;

/** @param socketPath of engine.sock; it need not exist yet */
export const openEngine = (socketPath: string): Engine =>
  new Pool('http://localhost', {
    socketPath,
    connections: connectionsMax,
    // A frozen stream may be silent for as long as others need the GPU.
    headersTimeout: 0,
    bodyTimeout: 0,
    connectTimeout: connectTimeoutMs,
    keepAliveTimeout: keepAliveMs,
    keepAliveMaxTimeout: keepAliveMs,
    maxHeaderSize: 64 * 1024,
    pipelining: 1,
  });

/**
 * undici keeps a request's body until the answer ends, minutes after it was sent. This gives the body once and keeps
 * nothing, so that its memory is free as soon as the engine has it. No generator: V8 keeps what one was called with.
 */
function once(body: Buffer): Iterable<Buffer> {
  let rest: Buffer | null = body;
  const next = (): IteratorResult<Buffer> => {
    if (rest === null) return { done: true, value: undefined };
    const value = rest;
    rest = null;
    return { done: false, value };
  };
  return { [Symbol.iterator]: () => ({ next }) };
}

export interface EngineSide {
  engine: Engine;
  /** false where this front door asks for API keys itself: they go no further. */
  keepKeys: boolean;
  holdBack: HoldBack;
}

export function forward(exchange: Exchange, side: EngineSide, calls: RelayCalls): () => void {
  const { engine, keepKeys, holdBack } = side;
  const headers = towardsEngine(exchange.req.rawHeaders, exchange.requestId, keepKeys);
  const { body, mayRetry } = exchange;
  if (body === null || mayRetry || body.length < streamedBytesMin) {
    return relay(exchange, { dispatcher: engine, headers, body, holdBack }, calls);
  }
  headers.push('content-length', String(body.length));
  return relay(exchange, { dispatcher: engine, headers, body: once(body), holdBack }, calls);
}
