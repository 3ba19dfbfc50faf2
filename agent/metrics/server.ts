/** The agent's only network port: /metrics for Prometheus, /healthz and /readyz for the kubelet. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { errorText, type Log } from '#platform/log.ts';

/** A client gets this long for its request, ms. */
const requestTimeoutMs = 5_000;
/** Connections at once: a Prometheus or two, and the kubelet. */
const connectionsMax = 32;

export interface Pages {
  /** In the form of `contentType`. */
  metrics(): Promise<string>;
  contentType: string;
  /** null when the program works, else a sentence. */
  alive(): string | null;
  /** null when this node's GPUs are published, else a sentence. */
  ready(): string | null;
}

export interface MetricsServer {
  port: number;
  close(): void;
}

/**
 * @returns once it listens
 * @throws Error when the address is taken
 */
export async function serveMetrics(
  address: { host: string; port: number },
  pages: Pages,
  log: Log,
): Promise<MetricsServer> {
  const say = (response: ServerResponse, fault: string | null): void => {
    response.writeHead(fault === null ? 200 : 503, { 'content-type': 'text/plain; charset=utf-8' });
    response.end(`${fault ?? 'ok'}\n`);
  };

  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    request.resume();
    if (request.method !== 'GET' && request.method !== 'HEAD') {
      response.writeHead(405, { allow: 'GET, HEAD' }).end();
      return;
    }
    switch (request.url?.split('?')[0]) {
      case '/metrics': {
        const text = await pages.metrics();
        response.writeHead(200, { 'content-type': pages.contentType }).end(text);
        return;
      }
      case '/healthz':
        return say(response, pages.alive());
      case '/readyz':
        return say(response, pages.ready());
      default:
        response.writeHead(404).end();
    }
  };

  const server = createServer((request, response) => {
    answer(request, response).catch((error: unknown) => {
      log.warn('a request for metrics failed', { error: errorText(error) });
      if (!response.headersSent) response.writeHead(500);
      response.end();
    });
  });
  server.requestTimeout = requestTimeoutMs;
  server.headersTimeout = requestTimeoutMs;
  server.maxConnections = connectionsMax;
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(address.port, address.host, resolve);
  });
  server.on('error', (error) => log.warn('the metrics server failed', { error: errorText(error) }));
  return {
    port: (server.address() as AddressInfo).port,
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}
