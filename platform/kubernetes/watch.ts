/**
 * List, then watch with bookmarks, for ever: a watch that ends, stalls, is refused or grows too old is started again, and
 * what it missed arrives by the next list. Handlers only take notes; one that throws is a programmer's error and is logged.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { errorText, type Log } from '#platform/log.ts';
import { type KubernetesClient, KubernetesError, type KubernetesObject, type Selectors } from './client.ts';

export type WatchEvent<T> =
  /** A (re)list: these are all there are. */
  { type: 'synced'; items: T[] } | { type: 'put'; object: T } | { type: 'gone'; object: T };

export interface Watch {
  stop(): void;
  /** ms since the API server was last heard on this watch; null before the first list. */
  ageMs(): number | null;
}

/** The server ends a watch after this; seconds. */
const serverTimeoutSeconds = 290;
/** Bookmarks come about every minute: silence beyond this is a dead connection, ms. */
const silenceMsMax = 100_000;
/** Bounds of the pause before a list after a failure, ms. */
const backoffMs = { least: 250, most: 30_000 };
/** Everything is listed again at this age, so that a lost event cannot matter for ever, ms. */
const relistMs = 20 * 60_000;
/** Longest line of a watch, characters: one object (etcd takes 1.5 MiB). */
const lineCharactersMax = 16 * 1024 * 1024;

interface RawEvent<T> {
  type: 'ADDED' | 'MODIFIED' | 'DELETED' | 'BOOKMARK' | 'ERROR';
  object: T & { code?: number; message?: string; reason?: string };
}

/** Watches all objects under a path; events arrive in order, the first is `synced`. */
export function watch<T extends KubernetesObject>(
  client: KubernetesClient,
  path: string,
  selectors: Selectors,
  on: (event: WatchEvent<T>) => void,
  log: Log,
): Watch {
  const stopped = new AbortController();
  let heardAt: number | null = null;

  const heard = () => {
    heardAt = performance.now();
  };
  const tell = (event: WatchEvent<T>) => {
    try {
      on(event);
    } catch (error) {
      log.error('a watch handler threw', { path, event: event.type, error: errorText(error) });
    }
  };

  async function run(): Promise<void> {
    let pauseMs = backoffMs.least;
    while (!stopped.signal.aborted) {
      try {
        const { items, resourceVersion } = await client.list<T>(path, selectors);
        if (stopped.signal.aborted) return;
        heard();
        tell({ type: 'synced', items });
        pauseMs = backoffMs.least;
        await follow(resourceVersion);
      } catch (error) {
        if (stopped.signal.aborted) return;
        // 410 means only that the list is too old; everything else deserves a line.
        if (!(error instanceof KubernetesError && error.status === 410)) {
          log.warn('watch interrupted, listing again', { path, error: errorText(error), pauseMs });
        }
        await delay(pauseMs * (0.5 + Math.random() / 2), undefined, { signal: stopped.signal }).catch(
          () => undefined,
        );
        pauseMs = Math.min(pauseMs * 2, backoffMs.most);
      }
    }
  }

  /** Watches on from a version; returns when it is time to list again. */
  async function follow(from: string): Promise<void> {
    const relistAt = performance.now() + relistMs;
    let resourceVersion = from;
    while (!stopped.signal.aborted && performance.now() < relistAt) {
      resourceVersion = await once(resourceVersion);
    }
  }

  /** One watch connection; returns the version it got to. */
  async function once(from: string): Promise<string> {
    let resourceVersion = from;
    const silence = new AbortController();
    let timer = setTimeout(() => silence.abort(), silenceMsMax);
    const signal = AbortSignal.any([stopped.signal, silence.signal]);
    const began = performance.now();
    try {
      const query = {
        ...(selectors as Record<string, string>),
        watch: 'true',
        allowWatchBookmarks: 'true',
        resourceVersion: from,
        timeoutSeconds: String(serverTimeoutSeconds),
      };
      for await (const event of lines<RawEvent<T>>(await client.stream(path, query, signal))) {
        clearTimeout(timer);
        timer = setTimeout(() => silence.abort(), silenceMsMax);
        heard();
        if (event.type === 'ERROR') {
          throw new KubernetesError(
            event.object.code ?? 500,
            event.object.reason ?? 'Unknown',
            event.object.message ?? 'watch error',
          );
        }
        resourceVersion = event.object.metadata.resourceVersion ?? resourceVersion;
        if (event.type === 'BOOKMARK') continue;
        tell(
          event.type === 'DELETED'
            ? { type: 'gone', object: event.object }
            : { type: 'put', object: event.object },
        );
      }
      // A server that closes at once again and again must not be asked in a hot loop.
      if (performance.now() - began < 1_000)
        await delay(1_000, undefined, { signal: stopped.signal }).catch(() => undefined);
      return resourceVersion;
    } finally {
      clearTimeout(timer);
    }
  }

  void run();
  return {
    stop: () => stopped.abort(),
    ageMs: () => (heardAt === null ? null : performance.now() - heardAt),
  };
}

/** JSON values, one a line, of a byte stream. */
async function* lines<T>(stream: AsyncIterable<Uint8Array>): AsyncGenerator<T> {
  const decoder = new TextDecoder();
  let rest = '';
  for await (const chunk of stream) {
    rest += decoder.decode(chunk, { stream: true });
    if (rest.length > lineCharactersMax)
      throw new KubernetesError(0, 'TooLarge', 'a watch event beyond the size limit');
    let end = rest.indexOf('\n');
    while (end >= 0) {
      const line = rest.slice(0, end);
      rest = rest.slice(end + 1);
      if (line.trim() !== '') yield JSON.parse(line) as T;
      end = rest.indexOf('\n');
    }
  }
}
