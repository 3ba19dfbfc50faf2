/** Small HTTP requests over a pod's engine.sock: bounded in time and size, and never led to another socket. */
import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { type Dispatcher, Pool } from 'undici';

/** open(2): only a handle to the file itself, not its content (Linux, asm-generic/fcntl.h; Node names it not). */
const O_PATH = 0o10000000;
/** Longest wait for a connection; a full backlog is the only reason to wait, ms. */
const connectTimeoutMs = 2_000;
/** Connections to one engine: a question must not wait behind a sleep that hangs. */
const connectionsMax = 4;
/** An idle connection is closed before uvicorn's own 5 s are over, ms. */
const idleMsMax = 3_000;
/** Longest answer that is read, bytes: the engine's /metrics is the largest. */
const answerBytesMax = 4 * 1024 * 1024;

export interface EngineAnswer {
  status: number;
  text: string;
}

/** Why there was no answer. `closed`: the connection ended before one came, so a fresh one may do better. */
export class EngineError extends Error {
  readonly kind: 'no-socket' | 'closed' | 'timeout' | 'too-large';

  constructor(cause: EngineError['kind'], message: string) {
    super(message);
    this.name = 'EngineError';
    this.kind = cause;
  }
}

export interface EngineSocket {
  /**
   * @param options.onSent called when the request is written to a connection
   * @throws EngineError
   */
  request(
    method: 'GET' | 'POST',
    path: string,
    options: { timeoutMs: number; body?: object; onSent?: () => void },
  ): Promise<EngineAnswer>;
  close(): void;
}

/**
 * Connects to the socket that lies at the path itself. The pod may plant a link there; a handle from O_PATH|O_NOFOLLOW is
 * checked and then dialled through /proc, so that nothing can be swapped in between.
 * @throws EngineError when there is no socket
 */
function connectNoFollow(path: string): Socket {
  let handle: number;
  try {
    handle = openSync(path, O_PATH | constants.O_NOFOLLOW);
  } catch (error) {
    throw new EngineError(
      'no-socket',
      `${path}: ${(error as NodeJS.ErrnoException).code ?? 'cannot be opened'}`,
    );
  }
  try {
    if (!fstatSync(handle).isSocket()) throw new EngineError('no-socket', `${path} is not a socket`);
    // connect(2) on a Unix socket has resolved the path when it returns, which is within this call.
    return connect({ path: `/proc/self/fd/${handle}` });
  } finally {
    closeSync(handle);
  }
}

const connector: (
  path: string,
) => (options: object, callback: (error: Error | null, socket: Socket | null) => void) => void =
  (path) => (_options, callback) => {
    let socket: Socket;
    try {
      socket = connectNoFollow(path);
    } catch (error) {
      return callback(error as Error, null);
    }
    const timer = setTimeout(
      () => socket.destroy(new EngineError('timeout', `no connection within ${connectTimeoutMs} ms`)),
      connectTimeoutMs,
    );
    const failed = (error: Error): void => {
      clearTimeout(timer);
      callback(error, null);
    };
    socket.once('error', failed);
    socket.once('connect', () => {
      clearTimeout(timer);
      socket.off('error', failed);
      callback(null, socket);
    });
  };

const codesOfClosed = new Set(['UND_ERR_SOCKET', 'ECONNRESET', 'EPIPE']);

/** What undici or the kernel threw, as ours. */
function engineError(error: unknown): EngineError {
  if (error instanceof EngineError) return error;
  const { code = '', message } = error as NodeJS.ErrnoException;
  if (code === 'ECONNREFUSED' || code === 'ENOENT')
    return new EngineError('no-socket', 'nobody listens on engine.sock');
  if (codesOfClosed.has(code))
    return new EngineError('closed', `the engine closed the connection (${message})`);
  if (code.includes('TIMEOUT')) return new EngineError('timeout', message);
  return new EngineError('closed', message);
}

/** @param path of engine.sock; it need not be there yet */
export function engineSocket(path: string): EngineSocket {
  const pool = new Pool('http://localhost', {
    connect: connector(path) as never,
    connections: connectionsMax,
    keepAliveTimeout: idleMsMax,
    keepAliveMaxTimeout: idleMsMax,
  });

  return {
    request: (method, requestPath, { timeoutMs, body, onSent }) =>
      new Promise((resolve, reject) => {
        let controller: { abort(reason: Error): void } | undefined;
        let statusCode = 0;
        let bytes = 0;
        const chunks: Buffer[] = [];
        const timer = setTimeout(() => {
          const error = new EngineError(
            'timeout',
            `${method} ${requestPath}: no answer within ${timeoutMs} ms`,
          );
          reject(error);
          controller?.abort(error);
        }, timeoutMs);
        const handler: Dispatcher.DispatchHandler = {
          onRequestStart(started) {
            controller = started;
            onSent?.();
          },
          onResponseStart(_, status) {
            statusCode = status;
          },
          onResponseData(_, chunk) {
            bytes += chunk.length;
            if (bytes > answerBytesMax)
              controller?.abort(
                new EngineError('too-large', `an answer of more than ${answerBytesMax} bytes`),
              );
            else chunks.push(chunk);
          },
          onResponseEnd() {
            clearTimeout(timer);
            resolve({ status: statusCode, text: Buffer.concat(chunks).toString('utf8') });
          },
          onResponseError(_, error) {
            clearTimeout(timer);
            reject(engineError(error));
          },
        };
        pool.dispatch(
          {
            method,
            path: requestPath,
            headersTimeout: 0,
            bodyTimeout: 0,
            ...(body && { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
          },
          handler,
        );
      }),
    close: () => void pool.destroy().catch(() => undefined),
  };
}
