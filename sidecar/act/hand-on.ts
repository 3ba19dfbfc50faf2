/** To a sibling, by one hop to the Model's Service, when this pod must end. */
import Pool from 'undici/lib/dispatcher/pool.js';
import { towardsEngine } from '../decide/headers.ts';
import type { Exchange } from '../exchange.ts';
import { type RelayCalls, relay } from './relay.ts';

/** The Service may still point here, or nowhere for the seconds until kube-proxy follows: so often, so far apart, at most. */
const attemptsMax = 20;
const pauseBetweenMs = 250;
const connectTimeoutMs = 2_000;
/** Left of the grace after the last try begins: its connection may time out, and the refusal must reach the client. */
const reserveMs = connectTimeoutMs + 1_500;
/** Of a short grace at most this part is kept so. */
const reservePart = 0.25;
const connectionsMax = 4_096;

export interface Sibling {
  /**
   * @param leftMs until the kubelet kills: tries end well before
   * @returns cancels it
   */
  handOn(exchange: Exchange, calls: RelayCalls, leftMs: () => number): () => void;
  close(): Promise<void>;
}

/** Nothing is opened before the first request is handed on. */
export function openSibling(
  { host, port }: { host: string; port: number },
  pauseMs = pauseBetweenMs,
): Sibling {
  let pool: Pool | null = null;
  const open = (): Pool =>
    new Pool(`http://${host.includes(':') ? `[${host}]` : host}:${port}`, {
      connections: connectionsMax,
      headersTimeout: 0,
      bodyTimeout: 0,
      connectTimeout: connectTimeoutMs,
      pipelining: 1,
      // kube-proxy chooses a pod for each connection: a kept one would lead back to the same.
      maxRequestsPerClient: 1,
    });
  return {
    handOn: (exchange, calls, leftMs) => {
      pool ??= open();
      return handOnTo(pool, exchange, { calls, leftMs, pauseMs });
    },
    close: async () => {
      await pool?.destroy();
    },
  };
}

function handOnTo(
  pool: Pool,
  exchange: Exchange,
  { calls, leftMs, pauseMs }: { calls: RelayCalls; leftMs: () => number; pauseMs: number },
): () => void {
  const headers = towardsEngine(exchange.req.rawHeaders, exchange.requestId, true);
  headers.push('x-greenthread-hop', '1');
  if (exchange.mayRetry) headers.push('x-greenthread-retry', '1');
  const leftMsFirst = leftMs();
  let attempts = 0;
  let timer: NodeJS.Timeout | undefined;
  let cancel = (): void => {};
  const mayTryAgain = (): boolean =>
    attempts < attemptsMax && leftMs() > Math.min(reserveMs, leftMsFirst * reservePart) + pauseMs;
  const attempt = (): void => {
    attempts++;
    cancel = relay(
      exchange,
      {
        dispatcher: pool,
        headers,
        body: exchange.body,
        declines: (status, answer) =>
          status === 503 && answer['x-greenthread-refused'] === 'pod_ending' && mayTryAgain(),
      },
      {
        ...calls,
        failed: (how, error) => {
          const again = how === 'declined' || (how === 'unsent' && mayTryAgain());
          if (again) timer = setTimeout(attempt, pauseMs);
          else calls.failed(how, error);
        },
      },
    );
  };
  attempt();
  return () => {
    clearTimeout(timer);
    cancel();
  };
}
