/**
 * The few calls this system makes to the API server, on undici alone: a program on every node should not pay 80 MB for
 * a generated client. One connection pool for each client; requests are bounded in time and size.
 */
import type { Dispatcher } from 'undici';

export interface OwnerReference {
  apiVersion: string;
  kind: string;
  name: string;
  uid: string;
  controller?: boolean;
  blockOwnerDeletion?: boolean;
}

export interface ObjectMeta {
  name: string;
  namespace?: string;
  uid?: string;
  resourceVersion?: string;
  generation?: number;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  ownerReferences?: OwnerReference[];
  finalizers?: string[];
  creationTimestamp?: string;
  deletionTimestamp?: string;
}

export interface KubernetesObject {
  apiVersion: string;
  kind: string;
  metadata: ObjectMeta;
  [field: string]: unknown;
}

export interface Selectors {
  labelSelector?: string;
  fieldSelector?: string;
}

/** What the API server refused, or that it could not be reached (`status` 0). */
export class KubernetesError extends Error {
  readonly status: number;
  /** metav1.Status reason such as `Conflict`, `Invalid`; `Unreachable` when there was no answer. */
  readonly reason: string;

  constructor(status: number, reason: string, message: string) {
    super(message);
    this.name = 'KubernetesError';
    this.status = status;
    this.reason = reason;
  }
}

/** Where the API server is and how to be let in. `headers` is asked for each request: tokens rotate. */
export interface Connection {
  origin: string;
  dispatcher: Dispatcher;
  headers(): Promise<Record<string, string>>;
  close(): Promise<void>;
}

/** Longest wait for one answer that is not a watch, ms. */
export const requestTimeoutMs = 30_000;
/** Objects asked for at once in a list; longer lists come in pages. */
export const listPageSize = 500;
/** Largest single answer that is read, bytes: 500 large pods stay well below. */
export const responseBytesMax = 256 * 1024 * 1024;

interface ListPage<T> {
  metadata: { resourceVersion: string; continue?: string };
  items: T[];
  apiVersion: string;
  kind: string;
}

export interface KubernetesClient {
  list<T>(path: string, selectors?: Selectors): Promise<{ items: T[]; resourceVersion: string }>;
  get<T>(path: string): Promise<T | null>;
  create<T>(path: string, object: object): Promise<T>;
  apply<T>(path: string, object: object, options: { fieldManager: string; force?: boolean }): Promise<T>;
  mergePatch<T>(path: string, patch: object, options?: { fieldManager?: string }): Promise<T>;
  jsonPatch<T>(path: string, patch: object[]): Promise<T>;
  replace<T>(path: string, object: object): Promise<T>;
  delete(
    path: string,
    options?: {
      uid?: string;
      gracePeriodSeconds?: number;
      propagationPolicy?: 'Background' | 'Foreground' | 'Orphan';
    },
  ): Promise<void>;
  stream(
    path: string,
    query: Record<string, string>,
    signal: AbortSignal,
  ): Promise<AsyncIterable<Uint8Array>>;
  close(): Promise<void>;
}

/** The error that an answer other than 2xx stands for. */
function refusal(status: number, text: string): KubernetesError {
  try {
    const body = JSON.parse(text) as { reason?: string; message?: string };
    return new KubernetesError(
      status,
      body.reason ?? 'Unknown',
      body.message ?? `the API server answered ${status}`,
    );
  } catch {
    return new KubernetesError(status, 'Unknown', `the API server answered ${status}: ${text.slice(0, 200)}`);
  }
}

const unreachable = (path: string, error: unknown) =>
  new KubernetesError(
    0,
    'Unreachable',
    `API server, ${path}: ${error instanceof Error ? error.message : String(error)}`,
  );

/** A client over a connection (`connect.ts` makes one from the pod's service account or a kubeconfig). */
export function createClient(connection: Connection): KubernetesClient {
  async function send(
    method: Dispatcher.HttpMethod,
    path: string,
    query: Record<string, string>,
    body?: { type: string; value: object },
  ): Promise<{ status: number; text: string }> {
    const search = new URLSearchParams(query).toString();
    try {
      const response = await connection.dispatcher.request({
        origin: connection.origin,
        path: search ? `${path}?${search}` : path,
        method,
        headers: {
          ...(await connection.headers()),
          accept: 'application/json',
          ...(body && { 'content-type': body.type }),
        },
        body: body ? JSON.stringify(body.value) : null,
        headersTimeout: requestTimeoutMs,
        bodyTimeout: requestTimeoutMs,
      });
      return { status: response.statusCode, text: await readBounded(response.body) };
    } catch (error) {
      throw error instanceof KubernetesError ? error : unreachable(path, error);
    }
  }

  async function call<T>(
    method: Dispatcher.HttpMethod,
    path: string,
    query: Record<string, string> = {},
    body?: { type: string; value: object },
  ): Promise<T> {
    const { status, text } = await send(method, path, query, body);
    if (status < 200 || status > 299) throw refusal(status, text);
    return JSON.parse(text) as T;
  }

  return {
    async list<T>(path: string, selectors: Selectors = {}) {
      const items: T[] = [];
      let page: ListPage<T> | undefined;
      do {
        page = await call<ListPage<T>>('GET', path, {
          ...(selectors as Record<string, string>),
          limit: String(listPageSize),
          ...(page?.metadata.continue && { continue: page.metadata.continue }),
        });
        // Items of a list carry no kind of their own.
        const kind = page.kind.replace(/List$/, '');
        for (const item of page.items) items.push({ apiVersion: page.apiVersion, kind, ...item });
      } while (page.metadata.continue);
      return { items, resourceVersion: page.metadata.resourceVersion };
    },
    async get<T>(path: string) {
      const { status, text } = await send('GET', path, {});
      if (status === 404) return null;
      if (status !== 200) throw refusal(status, text);
      return JSON.parse(text) as T;
    },
    create: (path, object) => call('POST', path, {}, { type: 'application/json', value: object }),
    apply: (path, object, { fieldManager, force = true }) =>
      call(
        'PATCH',
        path,
        { fieldManager, force: String(force) },
        { type: 'application/apply-patch+yaml', value: object },
      ),
    mergePatch: (path, patch, { fieldManager } = {}) =>
      call('PATCH', path, fieldManager ? { fieldManager } : {}, {
        type: 'application/merge-patch+json',
        value: patch,
      }),
    jsonPatch: (path, patch) =>
      call('PATCH', path, {}, { type: 'application/json-patch+json', value: patch }),
    replace: (path, object) => call('PUT', path, {}, { type: 'application/json', value: object }),
    async delete(path, { uid, gracePeriodSeconds, propagationPolicy = 'Background' } = {}) {
      const { status, text } = await send(
        'DELETE',
        path,
        {},
        {
          type: 'application/json',
          value: {
            apiVersion: 'v1',
            kind: 'DeleteOptions',
            propagationPolicy,
            ...(uid && { preconditions: { uid } }),
            ...(gracePeriodSeconds !== undefined && { gracePeriodSeconds }),
          },
        },
      );
      if (status !== 404 && (status < 200 || status > 299)) throw refusal(status, text);
    },
    async stream(path, query, signal) {
      const response = await connection.dispatcher
        .request({
          origin: connection.origin,
          path: `${path}?${new URLSearchParams(query)}`,
          method: 'GET',
          headers: { ...(await connection.headers()), accept: 'application/json' },
          headersTimeout: requestTimeoutMs,
          // The watch's own supervisor looks for silence; see watch.ts.
          bodyTimeout: 0,
          signal,
        })
        .catch((error: unknown) => {
          throw unreachable(path, error);
        });
      if (response.statusCode !== 200) throw refusal(response.statusCode, await readBounded(response.body));
      return response.body;
    },
    close: () => connection.close(),
  };
}

async function readBounded(body: AsyncIterable<Uint8Array>): Promise<string> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of body) {
    bytes += chunk.length;
    if (bytes > responseBytesMax)
      throw new KubernetesError(0, 'TooLarge', `an answer of more than ${responseBytesMax} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}
