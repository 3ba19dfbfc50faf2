import { Registry } from 'prom-client';
import { describe, expect, it } from 'vitest';
import { createReporter, eventObject } from '../../../../agent/act/report.ts';
import type { ArbiterEffect, ArbiterEvent } from '../../../../agent/decide/arbiter/words.ts';
import { createArbiterMetrics } from '../../../../agent/metrics/arbiter.ts';
import { registerHostMetrics } from '../../../../agent/metrics/host.ts';
import { helloOf, noDemand } from './link-clients.ts';
import { keptLog, podUid } from './until.ts';

const uid = podUid(1);
const pod = { podUid: uid, pod: 'm-0-abc', namespace: 'ns', model: 'm' };
const explain = (reason: string, given: Partial<Extract<ArbiterEffect, { type: 'explain' }>> = {}) => ({
  type: 'explain' as const,
  podUid: uid,
  reason,
  message: 'because of figures',
  level: 'info' as const,
  ...given,
});

/** A reporter on a clock of the test's, and the Events it wrote; the API server answers at once or never. */
function reporter(
  answer: 'at once' | 'never' | 'with an error' = 'at once',
  given = { namespace: 'ns', listed: true },
) {
  const written: { reason: string }[] = [];
  const paths: string[] = [];
  const { log, lines } = keptLog();
  let now = 0;
  const create = (path: string, object: object) => {
    paths.push(path);
    written.push(object as { reason: string });
    if (answer === 'never') return new Promise(() => undefined);
    return answer === 'at once' ? Promise.resolve(object) : Promise.reject(new Error('refused'));
  };
  const report = createReporter({
    node: 'n1',
    pod: (podUidAsked) => (podUidAsked === uid ? { ...pod, namespace: given.namespace } : null),
    isListed: () => given.listed,
    client: () => ({ create }) as never,
    log,
    nowMs: () => now,
  });
  const later = async (ms: number): Promise<void> => {
    now += ms;
    await new Promise((resolve) => setImmediate(resolve));
  };
  return { report, written, paths, lines, later };
}

describe('a reason', () => {
  it('is a log line and an Event on the pod', async () => {
    const { report, written, lines } = reporter();
    report(explain('Preempted', { level: 'warn' }));
    expect(lines[0]).toMatchObject({
      level: 'warn',
      message: 'because of figures',
      reason: 'Preempted',
      model: 'ns/m',
    });
    expect(written).toHaveLength(1);
    expect(eventObject(explain('Wake'), pod, 'n1', new Date(0))).toEqual({
      apiVersion: 'v1',
      kind: 'Event',
      metadata: { generateName: 'm-0-abc.', namespace: 'ns' },
      involvedObject: { apiVersion: 'v1', kind: 'Pod', name: 'm-0-abc', namespace: 'ns', uid },
      reason: 'Wake',
      message: 'because of figures',
      type: 'Normal',
      source: { component: 'greenthread-agent', host: 'n1' },
      firstTimestamp: '1970-01-01T00:00:00Z',
      lastTimestamp: '1970-01-01T00:00:00Z',
      count: 1,
    });
  });

  it('is not told as an Event twice within a minute, and is after it', async () => {
    const { report, written, lines, later } = reporter();
    report(explain('Wake'));
    await later(59_000);
    report(explain('Wake'));
    await later(2_000);
    report(explain('Wake'));
    expect(written).toHaveLength(2);
    expect(lines).toHaveLength(3);
  });

  it('is only logged when it is about a pod nobody knows', () => {
    const { report, written, lines } = reporter();
    report(explain('Wake', { podUid: podUid(2) }));
    expect(written).toEqual([]);
    expect(lines).toHaveLength(1);
  });

  it('is only logged when the API server does not list the pod: its sidecar alone says where it is', () => {
    const { report, written, lines } = reporter('at once', { namespace: 'ns', listed: false });
    report(explain('Wake'));
    expect(written).toEqual([]);
    expect(lines).toHaveLength(1);
  });

  it('goes to no other path than that of Events', () => {
    const { report, paths } = reporter('at once', { namespace: 'a/../b?x', listed: true });
    report(explain('Wake'));
    expect(paths).toEqual(['/api/v1/namespaces/a%2F..%2Fb%3Fx/events']);
  });

  it('never piles up: an API server that does not answer gets four Events', () => {
    const { report, written } = reporter('never');
    for (let n = 0; n < 100; n++) report(explain(`Reason${n}`));
    expect(written).toHaveLength(4);
  });

  it('never floods: a burst of 25, then one each 5 s', async () => {
    const { report, written, later } = reporter();
    for (let n = 0; n < 100; n++) {
      report(explain(`Reason${n}`));
      await later(0);
    }
    expect(written).toHaveLength(25);
    await later(10_000);
    for (let n = 100; n < 110; n++) {
      report(explain(`Reason${n}`));
      await later(0);
    }
    expect(written).toHaveLength(27);
  });

  it('that cannot be told costs one line, however often', async () => {
    const { report, lines, later } = reporter('with an error');
    for (let n = 0; n < 5; n++) {
      report(explain(`Reason${n}`));
      await later(1);
      await later(1);
    }
    expect(lines.filter(({ message }) => message.includes('cannot be written'))).toHaveLength(1);
  });
});

describe("the node's memory", () => {
  it('is read when asked for, and not again at once', async () => {
    const registry = new Registry();
    registerHostMetrics(registry);
    const figure = async (name: string) =>
      Number(
        new RegExp(`^gthread_agent_host_memory_${name}_bytes (\\d+)$`, 'm').exec(
          await registry.metrics(),
        )?.[1],
      );
    const first = await figure('available');
    expect(first).toBeGreaterThan(0);
    expect(await figure('total')).toBeGreaterThan(first);
    expect(await figure('available')).toBe(first);
  });
});

describe("the arbiter's metrics", () => {
  const tell = (
    state: 'SERVING' | 'SLEEPING' | 'WAKING' | 'DEACTIVATING',
    podUidTold = uid,
  ): ArbiterEffect => ({
    type: 'tell',
    podUid: podUidTold,
    state: { epoch: 1, state, bootReady: true, reason: '', message: '', retryAfterMs: 0, expectedMs: 0 },
  });
  const demand = (atMs: number, queued: number, oldestWaitMs = 0): ArbiterEvent => ({
    type: 'demand',
    podUid: uid,
    atMs,
    demand: { ...noDemand, queued, oldestWaitMs },
  });
  const series = async (registry: Registry, name: string) =>
    (await registry.metrics()).split('\n').filter((line) => line.startsWith(name));

  it("take a wish from the first waiter's arrival to the wake call, apart where others had to move", async () => {
    const registry = new Registry();
    const metrics = createArbiterMetrics(registry);
    metrics.heard({ type: 'attached', atMs: 0, hello: helloOf(uid) });
    metrics.did(tell('SLEEPING'), 0);
    metrics.heard(demand(1_000, 1, 3));
    metrics.heard(demand(1_001, 2, 4));
    metrics.wakeSent(uid, 1_005);
    metrics.did(tell('WAKING'), 1_005);
    metrics.did(tell('SERVING'), 1_400);
    expect(await series(registry, 'gthread_agent_wish_to_wake_seconds_sum')).toEqual([
      'gthread_agent_wish_to_wake_seconds_sum{room="free"} 0.008',
    ]);
    expect(await series(registry, 'gthread_agent_wait_seconds_sum')).toEqual([
      'gthread_agent_wait_seconds_sum 0.403',
    ]);
    metrics.did(tell('SLEEPING'), 2_000);
    metrics.heard(demand(3_000, 1));
    metrics.did(tell('DEACTIVATING', podUid(2)), 3_000);
    metrics.wakeSent(uid, 4_000);
    expect(await series(registry, 'gthread_agent_wish_to_wake_seconds_count')).toEqual([
      'gthread_agent_wish_to_wake_seconds_count{room="free"} 1',
      'gthread_agent_wish_to_wake_seconds_count{room="made"} 1',
    ]);
  });

  it('forget a wish whose clients have gone, and count nobody as waiting who serves', async () => {
    const registry = new Registry();
    const metrics = createArbiterMetrics(registry);
    metrics.did(tell('SLEEPING'), 0);
    metrics.heard(demand(10, 1));
    expect(await series(registry, 'gthread_agent_waiting_models')).toEqual([
      'gthread_agent_waiting_models 1',
    ]);
    metrics.heard(demand(20, 0));
    metrics.wakeSent(uid, 30);
    metrics.did(tell('SERVING'), 40);
    metrics.heard(demand(50, 1));
    expect(await series(registry, 'gthread_agent_waiting_models')).toEqual([
      'gthread_agent_waiting_models 0',
    ]);
    expect(await series(registry, 'gthread_agent_wish_to_wake_seconds_count')).toEqual([]);
  });
});
