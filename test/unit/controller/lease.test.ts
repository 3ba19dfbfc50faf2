/** Leader election against a store that refuses stale writes as the API server does. */
import { afterEach, describe, expect, it, vi } from 'vitest';
import { type Election, joinElection } from '../../../controller/act/lease.ts';
import { type KubernetesClient, KubernetesError } from '../../../platform/kubernetes/client.ts';
import { createLog } from '../../../platform/log.ts';

const quiet = createLog('test', 'error', () => undefined);
const times = { durationMs: 1_000, renewWithinMs: 300, retryMs: 20 };

interface Stored {
  metadata: { resourceVersion: string };
  spec: { holderIdentity: string; leaseDurationSeconds: number; leaseTransitions: number; renewTime: string };
}

/** One Lease, versioned. */
class LeaseStore {
  lease: Stored | null = null;
  reachable = true;
  #version = 0;

  client(): KubernetesClient {
    const write = async (object: object) => {
      this.#check();
      this.#version += 1;
      this.lease = structuredClone({
        ...object,
        metadata: { ...(object as Stored).metadata, resourceVersion: String(this.#version) },
      }) as Stored;
      return this.lease;
    };
    const get = async () => {
      this.#check();
      return structuredClone(this.lease);
    };
    const create = async (_path: string, object: object) => {
      if (this.lease) throw new KubernetesError(409, 'AlreadyExists', 'already exists');
      return write(object);
    };
    const replace = async (_path: string, object: object) => {
      if ((object as Stored).metadata.resourceVersion !== this.lease?.metadata.resourceVersion)
        throw new KubernetesError(409, 'Conflict', 'changed meanwhile');
      return write(object);
    };
    return { get, create, replace } as unknown as KubernetesClient;
  }

  #check(): void {
    if (!this.reachable) throw new KubernetesError(0, 'Unreachable', 'no way there');
  }
}

const joined: Election[] = [];
afterEach(async () => {
  for (const election of joined.splice(0)) await election.release().catch(() => undefined);
});

function join(store: LeaseStore, identity: string) {
  const events: string[] = [];
  const election = joinElection(
    store.client(),
    {
      namespace: 'x',
      name: 'l',
      identity,
      times,
      onLeading: () => events.push('leading'),
      onLost: () => events.push('lost'),
    },
    quiet,
  );
  joined.push(election);
  return { election, events };
}
const holder = (store: LeaseStore) => store.lease?.spec.holderIdentity;

describe('the election', () => {
  it('has one leader of two, and the other after a release', async () => {
    const store = new LeaseStore();
    const first = join(store, 'a');
    await vi.waitFor(() => expect(first.election.isLeader()).toBe(true));
    const second = join(store, 'b');
    const { renewTime } = store.lease!.spec;
    await vi.waitFor(() => expect(store.lease!.spec.renewTime).not.toBe(renewTime));
    expect([holder(store), second.election.isLeader()]).toEqual(['a', false]);
    await first.election.release();
    await vi.waitFor(() => expect(second.election.isLeader()).toBe(true));
    expect(holder(store)).toBe('b');
    expect(store.lease!.spec.leaseTransitions).toBeGreaterThan(0);
  });

  it('takes a lease that nobody renews, judged by its own watch and not by the time written in it', async () => {
    const store = new LeaseStore();
    const future = '2099-01-01T00:00:00.000000Z';
    store.lease = {
      metadata: { resourceVersion: '0' },
      spec: { holderIdentity: 'dead', leaseDurationSeconds: 1, leaseTransitions: 3, renewTime: future },
    };
    const { election } = join(store, 'b');
    await vi.waitFor(() => expect(election.isLeader()).toBe(true), { timeout: 5_000 });
    expect(store.lease!.spec).toMatchObject({ holderIdentity: 'b', leaseTransitions: 4 });
  });

  it('is lost by a leader that cannot renew in time, once and for good', async () => {
    const store = new LeaseStore();
    const { election, events } = join(store, 'a');
    await vi.waitFor(() => expect(election.isLeader()).toBe(true));
    store.reachable = false;
    await vi.waitFor(() => expect(events).toEqual(['leading', 'lost']));
    store.reachable = true;
    expect(election.isLeader()).toBe(false);
  });

  it('is lost by a leader that finds another in its place', async () => {
    const store = new LeaseStore();
    const { election, events } = join(store, 'a');
    await vi.waitFor(() => expect(election.isLeader()).toBe(true));
    store.lease = { ...store.lease!, spec: { ...store.lease!.spec, holderIdentity: 'b' } };
    await vi.waitFor(() => expect(events).toEqual(['leading', 'lost']));
    expect(holder(store)).toBe('b');
  });

  it('is gone on with by a process that comes back under its name', async () => {
    const store = new LeaseStore();
    store.lease = {
      metadata: { resourceVersion: '0' },
      spec: {
        holderIdentity: 'a',
        leaseDurationSeconds: 3_600,
        leaseTransitions: 7,
        renewTime: '2026-01-01T00:00:00.000000Z',
      },
    };
    const { election } = join(store, 'a');
    await vi.waitFor(() => expect(election.isLeader()).toBe(true));
    expect(store.lease!.spec.leaseTransitions).toBe(7);
  });
});
