/** An HTTP server with the list, watch and write routes the agent uses, for one node's pods and GPUs. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Agent } from 'undici';
import { createClient, type KubernetesClient } from '#platform/kubernetes/client.ts';
import { afterwards } from './until.ts';

type Stored = {
  apiVersion: string;
  kind: string;
  metadata: Record<string, unknown>;
  [field: string]: unknown;
};

export interface ApiStandIn {
  connect(): Promise<KubernetesClient>;
  /** By path of the collection: what it holds, by name. */
  put(collection: string, object: object): void;
  remove(collection: string, name: string): void;
  get(collection: string, name: string): Stored | undefined;
  /** `METHOD path` of every write, in order. */
  writes: string[];
  events: Stored[];
}

const collections = {
  '/api/v1/pods': 'Pod',
  '/apis/greenthread.ai/v1alpha1/gpus': 'GPU',
  '/api/v1/nodes': 'Node',
};

export async function apiStandIn(): Promise<ApiStandIn> {
  const stored = new Map<string, Map<string, Stored>>(
    Object.keys(collections).map((path) => [path, new Map()]),
  );
  const watchers = new Map<string, Set<ServerResponse>>();
  const writes: string[] = [];
  const events: Stored[] = [];
  let version = 10;

  const tell = (collection: string, type: string, object: Stored): void => {
    for (const response of watchers.get(collection) ?? [])
      response.write(`${JSON.stringify({ type, object })}\n`);
  };
  const put = (collection: string, object: Stored): Stored => {
    const name = object.metadata.name as string;
    const before = stored.get(collection)!.get(name);
    version += 1;
    const metadata = {
      uid: `uid-${name}`,
      ...before?.metadata,
      ...object.metadata,
      resourceVersion: String(version),
    };
    const next = { ...before, ...object, metadata };
    stored.get(collection)!.set(name, next);
    tell(collection, before ? 'MODIFIED' : 'ADDED', next);
    return next;
  };

  const list = (collection: string, response: ServerResponse): void => {
    const kind = `${collections[collection as keyof typeof collections]}List`;
    const items = [...stored.get(collection)!.values()];
    response.end(
      JSON.stringify({ apiVersion: 'v1', kind, metadata: { resourceVersion: String(version) }, items }),
    );
  };
  const read = (path: string, url: URL, response: ServerResponse): void => {
    if (url.searchParams.has('watch')) {
      const all = watchers.get(path) ?? new Set();
      watchers.set(path, all.add(response));
      response.on('close', () => all.delete(response));
      response.flushHeaders();
    } else if (stored.has(path)) list(path, response);
    else {
      const at = path.lastIndexOf('/');
      const found = stored.get(path.slice(0, at))?.get(path.slice(at + 1));
      response.statusCode = found ? 200 : 404;
      response.end(JSON.stringify(found ?? { reason: 'NotFound', message: path }));
    }
  };
  const write = (method: string, path: string, body: Stored, response: ServerResponse): void => {
    writes.push(`${method} ${path}`);
    if (path.endsWith('/events')) {
      events.push(body);
      response.statusCode = 201;
      response.end(JSON.stringify(body));
    } else {
      const { status, ...object } = body;
      const [collection] = path.split(/\/(?=gpu-)/) as [string];
      const part = path.endsWith('/status') ? { ...object, status } : object;
      response.end(JSON.stringify(put(collection, part)));
    }
  };

  const server = createServer((request: IncomingMessage, response) => {
    const url = new URL(request.url!, 'http://x');
    if (request.method === 'GET') return read(url.pathname, url, response);
    let text = '';
    request.on('data', (chunk) => {
      text += String(chunk);
    });
    request.on('end', () => write(request.method!, url.pathname, JSON.parse(text) as Stored, response));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  afterwards(() => {
    server.closeAllConnections();
    server.close();
  });
  return {
    async connect() {
      const dispatcher = new Agent();
      const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
      return createClient({
        origin,
        dispatcher,
        headers: async () => ({}),
        close: () => dispatcher.destroy(),
      });
    },
    put: (collection, object) => void put(collection, object as Stored),
    remove(collection, name) {
      const object = stored.get(collection)!.get(name);
      stored.get(collection)!.delete(name);
      if (object) tell(collection, 'DELETED', object);
    },
    get: (collection, name) => stored.get(collection)!.get(name),
    writes,
    events,
  };
}
