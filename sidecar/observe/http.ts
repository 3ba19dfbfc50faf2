/** The front door's HTTP server: reads a request as far as we may, and says what it is. Answers nothing itself. */
import { randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Settings } from '#proto/settings.ts';
import { givenKey, isAdmitted, type KeyHash } from '../decide/api-key.ts';
import type { BodyRoom } from '../decide/body-room.ts';
import { corsHeaders } from '../decide/cors.ts';
import type { Own } from '../decide/environment.ts';
import { keptRequestId } from '../decide/headers.ts';
import { boundaryOf, readForm, readJson } from '../decide/model-name.ts';
import type { Refusal, RefusalCode } from '../decide/refusals.ts';
import { destination, eventStreamPaths, isOpen, isOpenPage, type Page } from '../decide/routes.ts';
import type { Exchange } from '../exchange.ts';
import { type Account, announcedBytes, readBody } from './body.ts';

/** What one connection may cost. */
export const httpLimits = {
  /** Of one request's header lines. */
  headerBytesMax: 32 * 1024,
  /** To send the headers, and to send the whole request: 32 MiB over a slow line. */
  headersTimeoutMs: 30_000,
  requestTimeoutMs: 600_000,
  /** How often those two are looked at. */
  checkEveryMs: 10_000,
  /** Idle connections live longer than balancers keep theirs (60 s), so that none of them writes into a closed one. */
  keepAliveTimeoutMs: 75_000,
  connectionsMax: 8_192,
  /** Probes that find a vanished client of a long stream or wait. */
  tcpKeepAliveAfterMs: 60_000,
};
/** Largest body that is kept for another try after an engine died, bytes (docs/front-door.md). */
export const keptBodyBytesMax = 1024 * 1024;

export type HttpEvent =
  /** Its head is here. */
  | { type: 'began'; exchange: Exchange }
  /** Whole, checked, for the engine. */
  | { type: 'arrived'; exchange: Exchange }
  | { type: 'page'; exchange: Exchange; page: Page; id: string }
  | { type: 'options'; exchange: Exchange; allow: string }
  | { type: 'refused'; exchange: Exchange; refusal: Refusal }
  /** The answer is out, or the client left before it was. */
  | { type: 'closed'; exchange: Exchange; complete: boolean }
  /** Bytes that were no request: there is a socket to answer on, and no more. */
  | { type: 'broken'; socket: Socket; code: RefusalCode; exchange: Exchange | null };

export interface FrontDoorFacts {
  own: Own;
  settings: () => Settings;
  keys: () => readonly KeyHash[] | null;
  /** For bodies that are coming in. */
  bodyRoom: () => BodyRoom;
}

function exchangeOf(
  id: number,
  req: IncomingMessage,
  res: ServerResponse,
  origins: readonly string[],
): Exchange {
  const requestId = keptRequestId(req.headers['x-request-id']) ?? randomUUID();
  return {
    id,
    req,
    res,
    requestId,
    baseHeaders: ['x-request-id', requestId, ...corsHeaders(req.headers.origin, origins)],
    shape: 'openai',
    inference: false,
    path: '',
    query: '',
    body: null,
    stream: false,
    mayRetry: req.headers['x-greenthread-retry'] === '1',
    hopped: req.headers['x-greenthread-hop'] !== undefined,
    answered: false,
    queueMs: 0,
    wakeMs: 0,
  };
}

/** Why the body is not for this model; null when it is. Sets what else was read of it. */
function checkBody(exchange: Exchange, names: readonly string[]): Refusal | null {
  const contentType = exchange.req.headers['content-type'] ?? '';
  const boundary = boundaryOf(contentType);
  const named = boundary === null ? readJson(exchange.body!) : readForm(exchange.body!, boundary);
  if (named === null) return { code: 'body_malformed' };
  exchange.stream = named.stream && eventStreamPaths.has(exchange.path);
  if (named.model === null || (named.model !== undefined && names.includes(named.model))) return null;
  const given =
    named.model === undefined
      ? 'The field is not one text.'
      : `It says ${JSON.stringify(named.model.slice(0, 100))}.`;
  return { code: 'model_not_found', detail: `${given} Here: ${names.join(', ')}.`, param: 'model' };
}

/** Why a request for the engine is refused by its head alone; null when its body may come. */
function checkHead(req: IncomingMessage, maxBodyBytes: number): Refusal | null {
  const announced = announcedBytes(req);
  if (announced !== null && announced > maxBodyBytes) {
    return { code: 'body_too_large', detail: `It is ${announced} bytes, the limit ${maxBodyBytes}.` };
  }
  return null;
}

function takeBody(
  exchange: Exchange,
  facts: FrontDoorFacts,
  account: Account,
  emit: (event: HttpEvent) => void,
) {
  const bodyBytesMax = facts.settings().frontDoor.maxBodyBytes;
  readBody(exchange.req, { bodyBytesMax, account, room: facts.bodyRoom }, (result) => {
    if ('refused' in result) {
      emit({ type: 'refused', exchange, refusal: { code: result.refused } });
      return;
    }
    exchange.body = result.body;
    exchange.mayRetry &&= result.body.length <= keptBodyBytesMax;
    const refusal = checkBody(exchange, facts.own.names);
    emit(refusal ? { type: 'refused', exchange, refusal } : { type: 'arrived', exchange });
  });
}

/** Refusals of Node's HTTP parser. */
const brokenCodes: Record<string, RefusalCode> = {
  HPE_HEADER_OVERFLOW: 'headers_too_large',
  ERR_HTTP_REQUEST_TIMEOUT: 'request_timeout',
};

/** The server, not yet listening. Every request ends in exactly one event between `began` and `closed`. */
export function createFrontDoor(
  facts: FrontDoorFacts,
  emit: (event: HttpEvent) => void,
  limits = httpLimits,
): Server {
  const account: Account = { heldBytes: 0 };
  /** The request under way on each connection. */
  const latest = new WeakMap<Socket, Exchange>();
  let lastId = 0;
  const onRequest = (req: IncomingMessage, res: ServerResponse, expects: boolean) => {
    const { frontDoor, endpoints } = facts.settings();
    const exchange = exchangeOf(++lastId, req, res, frontDoor.corsOrigins);
    latest.set(req.socket, exchange);
    emit({ type: 'began', exchange });
    // A write that meets a client just gone is no error of ours; `close` tells of it.
    res.on('error', () => {});
    res.once('close', () => {
      if (latest.get(req.socket) === exchange) latest.delete(req.socket);
      emit({ type: 'closed', exchange, complete: res.writableFinished });
    });
    const where = destination(req.method ?? '', req.url ?? '', facts.own);
    exchange.shape = where.shape;
    exchange.inference = where.to === 'engine';
    const refuse = (refusal: Refusal): void => emit({ type: 'refused', exchange, refusal });
    if (where.to === 'refusal') return refuse(where.refusal);
    if (where.to === 'options') return emit({ type: 'options', exchange, allow: where.allow });
    const open = where.to === 'page' && isOpenPage(where.page);
    if (!open && !isAdmitted(givenKey(req.headers), facts.keys())) return refuse({ code: 'invalid_api_key' });
    if (where.to === 'page') return emit({ type: 'page', exchange, page: where.page, id: where.id });
    if (!isOpen(where.endpoint, endpoints)) return refuse({ code: 'endpoint_closed' });
    const refusal = checkHead(req, frontDoor.maxBodyBytes);
    if (refusal) return refuse(refusal);
    exchange.path = where.path;
    exchange.query = where.query;
    if (expects) res.writeContinue();
    takeBody(exchange, facts, account, emit);
  };
  const server = createServer(
    {
      maxHeaderSize: limits.headerBytesMax,
      headersTimeout: limits.headersTimeoutMs,
      requestTimeout: limits.requestTimeoutMs,
      connectionsCheckingInterval: limits.checkEveryMs,
      keepAliveTimeout: limits.keepAliveTimeoutMs,
      keepAlive: true,
      keepAliveInitialDelay: limits.tcpKeepAliveAfterMs,
      insecureHTTPParser: false,
    },
    (req, res) => onRequest(req, res, false),
  );
  server.on('checkContinue', (req: IncomingMessage, res: ServerResponse) => onRequest(req, res, true));
  server.on('clientError', (error: NodeJS.ErrnoException, socket: Socket) => {
    const code = brokenCodes[error.code ?? ''] ?? 'malformed_request';
    emit({ type: 'broken', socket, code, exchange: latest.get(socket) ?? null });
  });
  server.maxConnections = limits.connectionsMax;
  server.timeout = 0;
  return server;
}
