/**
 * Tells the controller how far this Job is: one key of one ConfigMap, the only thing in the cluster that it may change.
 * It is for people: whatever goes wrong here is logged once, and the work goes on.
 */
import { setTimeout as pause } from 'node:timers/promises';
import type { KubernetesClient } from '#platform/kubernetes/client.ts';
import { errorText, type Log } from '#platform/log.ts';

/** Least time between two changes, ms: of a hundred Jobs at once the API server gets twenty a second. */
export const tellEveryMs = 5_000;
/** Longest wait for the last change when the Job ends, ms. */
const lastMsMax = 2_000;

export interface Teller {
  /** Takes a progress line (report.ts); of lines that come faster than they are told the last counts. */
  tell(line: string): void;
  /** Takes the key away again: what is done is told by the termination message. */
  close(): Promise<void>;
}

export interface TellerOptions {
  client: Pick<KubernetesClient, 'mergePatch' | 'close'>;
  /** Of the ConfigMap at the API server. */
  path: string;
  key: string;
  log: Log;
  everyMs?: number;
}

export function createTeller({ client, path, key, log, everyMs = tellEveryMs }: TellerOptions): Teller {
  let latest: string | null = null;
  let running: Promise<void> | null = null;
  let hasFailed = false;
  const closed = new AbortController();

  const put = (value: string | null): Promise<void> =>
    client.mergePatch(path, { data: { [key]: value } }).then(
      () => {},
      (error: unknown) => {
        if (!hasFailed)
          log.warn('progress cannot be told to the cluster', { path, reason: errorText(error) });
        hasFailed = true;
      },
    );
  const run = async (): Promise<void> => {
    while (latest !== null && !closed.signal.aborted) {
      const value = latest;
      latest = null;
      await put(value);
      await pause(everyMs, undefined, { signal: closed.signal }).catch(() => {});
    }
  };
  return {
    tell: (line) => {
      latest = line.trim();
      running ??= run().finally(() => {
        running = null;
      });
    },
    close: async () => {
      closed.abort();
      const last = (running ?? Promise.resolve()).then(() => put(null));
      const waited = new AbortController();
      await Promise.race([last, pause(lastMsMax, undefined, { signal: waited.signal }).catch(() => {})]);
      waited.abort();
      await client.close();
    },
  };
}
