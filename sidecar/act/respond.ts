/** Answers made here, from memory. */

import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import { preflightHeaders } from '../decide/cors.ts';
import { serverTiming } from '../decide/headers.ts';
import {
  catalogue,
  type Refusal,
  type RefusalCode,
  refusalBody,
  refusalEvent,
  refusalHeaders,
} from '../decide/refusals.ts';
import type { Exchange } from '../exchange.ts';

/** How long the rest of a refused body may still come in and be dropped before the connection is cut. */
const lingerMs = 10_000;

/** The headers of every answer, flat. */
export const commonHeaders = (exchange: Exchange): string[] => [
  ...exchange.baseHeaders,
  'server-timing',
  serverTiming(exchange.queueMs, exchange.wakeMs),
];

/** A body that nobody reads is dropped by Node, but not for ever. */
function boundRest(exchange: Exchange): string[] {
  const { req } = exchange;
  if (req.complete) return [];
  // Whether this client still sends its body nobody can know: the connection cannot be used again.
  if (req.headers.expect !== undefined) return ['connection', 'close'];
  const timer = setTimeout(() => req.destroy(), lingerMs);
  req.once('close', () => clearTimeout(timer));
  req.resume();
  return [];
}

/** @param headers flat, beside content-type and content-length */
export function respond(
  exchange: Exchange,
  { status, type, body, headers = [] }: { status: number; type: string; body: string; headers?: string[] },
): void {
  const { res } = exchange;
  if (res.headersSent || res.destroyed) return;
  const bytes = Buffer.from(body, 'utf8');
  res.writeHead(status, [
    ...commonHeaders(exchange),
    'content-type',
    type,
    'content-length',
    String(bytes.length),
    ...headers,
    ...boundRest(exchange),
  ]);
  res.end(bytes);
}

export const respondJson = (exchange: Exchange, status: number, document: unknown): void =>
  respond(exchange, { status, type: 'application/json', body: JSON.stringify(document) });

/** The answer to OPTIONS: what the route takes, and to a preflight what its origin may. */
export function respondOptions(exchange: Exchange, allow: string, origins: readonly string[]): void {
  const { req, res } = exchange;
  const asked = { origin: req.headers.origin, headers: req.headers['access-control-request-headers'] };
  res.writeHead(204, [
    ...commonHeaders(exchange),
    'allow',
    allow,
    ...preflightHeaders(asked, allow, origins),
    ...boundRest(exchange),
  ]);
  res.end();
}

/** An error of ours in the shape its client expects; as an event where the stream has begun with comments only. */
export function refuse(exchange: Exchange, refusal: Refusal): void {
  const { res, shape, requestId } = exchange;
  const body = refusalBody(refusal, shape, requestId);
  if (res.headersSent) {
    if (!res.writableEnded && !res.destroyed) res.end(refusalEvent(body, shape));
    return;
  }
  const { status } = catalogue[refusal.code];
  respond(exchange, { status, type: 'application/json', body, headers: refusalHeaders(refusal) });
}

/**
 * The last word on a connection whose bytes are no request.
 * @param exchange the request under way on it: while it is still coming in it is the broken one; afterwards the bytes
 * belong to a next one, and nothing may be mixed into its answer
 */
export function refuseSocket(socket: Socket, code: RefusalCode, exchange: Exchange | null): void {
  const isNext = exchange?.req.complete === true;
  const mute = exchange !== null && (exchange.res.headersSent || isNext);
  if (mute || !socket.writable) {
    socket.destroy();
    return;
  }
  const { status } = catalogue[code];
  const body = refusalBody({ code }, 'openai', '');
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\nx-greenthread-refused: ${code}\r\nserver-timing: ${serverTiming(0, 0)}\r\nconnection: close\r\n\r\n${body}`,
    () => socket.destroy(),
  );
}
