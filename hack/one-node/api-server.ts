/**
 * What the agent uses of Kubernetes' API server, for one node: lists, watches and writes of its pods and GPUs, over HTTP or, with
 * a certificate, HTTPS on 127.0.0.1. It checks no schema and no token.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';

export type Stored = {
  apiVersion: string;
  kind: string;
  metadata: Record<string, unknown>;
  [field: string]: unknown;
};

export interface ApiServer {
  port: number;
  /** By path of the collection: what it holds, by name. */
  put(collection: string, object: object): void;
  remove(collection: string, name: string): void;
  get(collection: string, name: string): Stored | undefined;
  /** `METHOD path` of every write, in order. */
  writes: string[];
  events: Stored[];
  close(): void;
}

export const collections = {
  pods: '/api/v1/pods',
  gpus: '/apis/greenthread.ai/v1alpha1/gpus',
  nodes: '/api/v1/nodes',
} as const;
const kinds = new Map<string, string>([
  [collections.pods, 'Pod'],
  [collections.gpus, 'GPU'],
  [collections.nodes, 'Node'],
]);

/** More than happens between any list and its watch. */
const happenedMax = 1_000;

/** Objects by collection and name, and who watches them. */
class Store {
  readonly #stored = new Map<string, Map<string, Stored>>([...kinds.keys()].map((path) => [path, new Map()]));
  readonly #watchers = new Map<string, Set<ServerResponse>>();
  /** What happened, for a watch that begins behind a list. */
  readonly #happened: { collection: string; version: number; line: string }[] = [];
  #version = 10;

  get(collection: string, name: string): Stored | undefined {
    return this.#stored.get(collection)?.get(name);
  }

  has(collection: string): boolean {
    return this.#stored.has(collection);
  }

  /** Over what is there; of a spec field by field, since each writer owns its own. */
  put(collection: string, object: Stored): Stored {
    const name = object.metadata.name as string;
    const before = this.get(collection, name);
    this.#version += 1;
    const metadata = {
      uid: `uid-${name}`,
      ...before?.metadata,
      ...object.metadata,
      resourceVersion: String(this.#version),
    };
    const spec = { ...(before?.spec as object), ...(object.spec as object) };
    const next = { ...before, ...object, metadata, ...(before?.spec || object.spec ? { spec } : {}) };
    this.#stored.get(collection)!.set(name, next);
    this.#tell(collection, before ? 'MODIFIED' : 'ADDED', next);
    return next;
  }

  remove(collection: string, name: string): void {
    const object = this.get(collection, name);
    if (!object) return;
    this.#stored.get(collection)!.delete(name);
    this.#version += 1;
    const metadata = { ...object.metadata, resourceVersion: String(this.#version) };
    this.#tell(collection, 'DELETED', { ...object, metadata });
  }

  list(collection: string): object {
    const items = [...this.#stored.get(collection)!.values()];
    const metadata = { resourceVersion: String(this.#version) };
    return { apiVersion: 'v1', kind: `${kinds.get(collection)}List`, metadata, items };
  }

  /** @param since the resourceVersion of the list that was read: what came after it is told first */
  watch(collection: string, since: number, response: ServerResponse): void {
    const all = this.#watchers.get(collection) ?? new Set();
    this.#watchers.set(collection, all.add(response));
    response.on('close', () => all.delete(response));
    response.flushHeaders();
    for (const { collection: of, version, line } of this.#happened)
      if (of === collection && version > since) response.write(line);
  }

  #tell(collection: string, type: string, object: Stored): void {
    const line = `${JSON.stringify({ type, object })}\n`;
    this.#happened.push({ collection, version: this.#version, line });
    if (this.#happened.length > happenedMax) this.#happened.shift();
    for (const response of this.#watchers.get(collection) ?? []) response.write(line);
  }
}

function read(store: Store, url: URL, response: ServerResponse): void {
  const path = url.pathname;
  if (url.searchParams.has('watch')) {
    store.watch(path, Number(url.searchParams.get('resourceVersion') || Number.POSITIVE_INFINITY), response);
    return;
  }
  if (store.has(path)) {
    response.end(JSON.stringify(store.list(path)));
    return;
  }
  const at = path.lastIndexOf('/');
  const found = store.get(path.slice(0, at), path.slice(at + 1));
  response.statusCode = found ? 200 : 404;
  response.end(JSON.stringify(found ?? { reason: 'NotFound', message: path }));
}

/** @param tls in PEM; without it plain HTTP */
export async function createApiServer(tls?: { key: string; cert: string }): Promise<ApiServer> {
  const store = new Store();
  const writes: string[] = [];
  const events: Stored[] = [];

  const write = (method: string, path: string, body: Stored, response: ServerResponse): void => {
    writes.push(`${method} ${path}`);
    if (path.endsWith('/events')) {
      events.push(body);
      response.statusCode = 201;
      response.end(JSON.stringify(body));
      return;
    }
    const { status, ...object } = body;
    const [collection] = path.split(/\/(?=gpu-)/) as [string];
    const part = path.endsWith('/status') ? { ...object, status } : object;
    response.end(JSON.stringify(store.put(collection, part)));
  };
  const answer = (request: IncomingMessage, response: ServerResponse): void => {
    const url = new URL(request.url!, 'http://x');
    if (request.method === 'GET') {
      read(store, url, response);
      return;
    }
    let text = '';
    request.on('data', (chunk) => {
      text += String(chunk);
    });
    request.on('end', () => write(request.method!, url.pathname, JSON.parse(text) as Stored, response));
  };

  const server = tls ? createTlsServer(tls, answer) : createServer(answer);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    port: (server.address() as AddressInfo).port,
    put: (collection, object) => void store.put(collection, object as Stored),
    remove: (collection, name) => store.remove(collection, name),
    get: (collection, name) => store.get(collection, name),
    writes,
    events,
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}
