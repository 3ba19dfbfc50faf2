/**
 * Leader election by a Lease. Another's lease counts as expired when this process has seen it unchanged for its whole
 * duration: the clocks of two machines are never compared. Whoever loses the lease must exit; it may not merely stop.
 */
import { setTimeout as delay } from 'node:timers/promises';
import {
  type KubernetesClient,
  KubernetesError,
  type KubernetesObject,
} from '#platform/kubernetes/client.ts';
import { errorText, type Log } from '#platform/log.ts';

interface LeaseSpec {
  holderIdentity?: string;
  leaseDurationSeconds?: number;
  acquireTime?: string;
  renewTime?: string;
  leaseTransitions?: number;
}
interface Lease extends KubernetesObject {
  spec?: LeaseSpec;
}

/** The usual times of Kubernetes' own components, ms. */
export const leaseTimes = { durationMs: 15_000, renewWithinMs: 10_000, retryMs: 2_000 };
export type LeaseTimes = typeof leaseTimes;

export interface Election {
  isLeader(): boolean;
  /** Gives the lease back, so that the next leader need not wait for it to expire. */
  release(): Promise<void>;
}

export interface ElectionOptions {
  namespace: string;
  name: string;
  identity: string;
  onLeading(): void;
  /** Called at most once, after onLeading. */
  onLost(): void;
  times?: LeaseTimes;
}

/** metav1.MicroTime of now. */
const microTime = (): string => new Date().toISOString().replace('Z', '000Z');

/** Joins the election for as long as the process lives. */
export function joinElection(client: KubernetesClient, options: ElectionOptions, log: Log): Election {
  const { namespace, name, identity, onLeading, onLost, times = leaseTimes } = options;
  const collection = `/apis/coordination.k8s.io/v1/namespaces/${namespace}/leases`;
  const stopped = new AbortController();
  let renewedAt: number | null = null;
  let seen: { text: string; at: number } | null = null;
  let deadline: NodeJS.Timeout | undefined;

  const lost = (why: string) => {
    if (stopped.signal.aborted || renewedAt === null) return;
    stopped.abort();
    log.error('the lease is lost', { why });
    onLost();
  };

  /** The lease is ours from the moment before the request that took it: the server may have seen it then. */
  const renewed = (at: number) => {
    if (stopped.signal.aborted) return;
    const isFirst = renewedAt === null;
    renewedAt = at;
    clearTimeout(deadline);
    const leftMs = times.renewWithinMs - (performance.now() - at);
    deadline = setTimeout(() => lost(`not renewed for ${times.renewWithinMs} ms`), Math.max(0, leftMs));
    if (isFirst) {
      log.info('leading', { identity });
      onLeading();
    }
  };

  const wanted = (found: LeaseSpec | undefined): LeaseSpec => {
    const now = microTime();
    const isOurs = found?.holderIdentity === identity;
    return {
      holderIdentity: identity,
      leaseDurationSeconds: Math.ceil(times.durationMs / 1000),
      acquireTime: isOurs ? (found.acquireTime ?? now) : now,
      renewTime: now,
      leaseTransitions: (found?.leaseTransitions ?? 0) + (isOurs || !found ? 0 : 1),
    };
  };

  /** Whether another holds it still, by what this process has seen and when. */
  const isHeld = (lease: Lease): boolean => {
    const { holderIdentity, leaseDurationSeconds } = lease.spec ?? {};
    if (!holderIdentity || holderIdentity === identity) return false;
    const text = JSON.stringify(lease.spec);
    if (seen?.text !== text) seen = { text, at: performance.now() };
    const durationMs = leaseDurationSeconds ? leaseDurationSeconds * 1000 : times.durationMs;
    return performance.now() - seen.at < durationMs;
  };

  async function attempt(): Promise<void> {
    const began = performance.now();
    const lease = await client.get<Lease>(`${collection}/${name}`);
    if (!lease) {
      const kind = { apiVersion: 'coordination.k8s.io/v1', kind: 'Lease', metadata: { name, namespace } };
      await client.create(collection, { ...kind, spec: wanted(undefined) });
      return renewed(began);
    }
    if (isHeld(lease)) return lost(`${lease.spec?.holderIdentity} holds it`);
    // The resourceVersion goes with it: of two that try, one is refused with 409.
    await client.replace(`${collection}/${name}`, { ...lease, spec: wanted(lease.spec) });
    renewed(began);
  }

  async function run(): Promise<void> {
    while (!stopped.signal.aborted) {
      await attempt().catch((error: unknown) => {
        const isRace = error instanceof KubernetesError && error.status === 409;
        log[isRace ? 'debug' : 'warn']('the lease was not taken', { error: errorText(error) });
      });
      await delay(times.retryMs * (0.9 + Math.random() / 5), undefined, { signal: stopped.signal }).catch(
        () => undefined,
      );
    }
  }
  void run();

  return {
    isLeader: () => renewedAt !== null && !stopped.signal.aborted,
    async release() {
      const wasLeader = renewedAt !== null && !stopped.signal.aborted;
      stopped.abort();
      clearTimeout(deadline);
      if (!wasLeader) return;
      const lease = await client.get<Lease>(`${collection}/${name}`);
      if (lease?.spec?.holderIdentity !== identity) return;
      const spec = { ...lease.spec, holderIdentity: '', leaseDurationSeconds: 1, renewTime: microTime() };
      await client.replace(`${collection}/${name}`, { ...lease, spec });
    },
  };
}
